"""A signal ends the consumer whichever thread the system hands it to."""

from __future__ import annotations

import logging
import signal
import threading

import pytest

from tests.helpers import background, eventually
from tests.integration.conftest import TOPIC


@pytest.mark.timeout(20)
def test_a_signal_that_another_thread_takes_ends_the_consumer_too(broker, live, caplog):
    """As when it came while the process was suspended: what is pending goes to the thread that wakes up first.

    Python runs handlers in the main thread, which such a signal doesn't wake.
    """
    caplog.set_level(logging.INFO)
    broker.produce(TOPIC, 0, b"x")
    life = live(start=False)

    def signal_this_thread() -> None:
        eventually(lambda: life.consumer.snapshot().totals.processed == 1)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    with background(signal_this_thread):
        assert life.consumer.run() == 0
    assert [record.getMessage() for record in caplog.records if "SIGTERM received" in record.getMessage()]
    assert broker.lag("test-group", TOPIC) == 0
