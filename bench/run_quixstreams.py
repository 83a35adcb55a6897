"""quixstreams: a ``StreamingDataFrame`` that calls the function, a checkpoint each second.

One message after the other: it scales by processes, up to the number of partitions.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from typing import Any

from common import FETCHING, Meter, Work, arguments, finish, skip, version

warnings.simplefilter("ignore")  # its dependencies' own
from quixstreams import Application  # noqa: E402 - after that

a = arguments("quixstreams")
work, meter, processed = Work(a.work, a.keys), Meter(), 0
if work.waits:
    skip("quixstreams", "one message after the other")
call = work.call
logging.disable(logging.INFO)


def handle(value: bytes) -> None:
    """Call the function; after the last message ask for the end."""
    global processed  # noqa: PLW0603 - a script
    if not processed:
        meter.first()
    call(value)
    processed += 1
    if processed == a.count:
        # run() leaves its loop, commits, and closes the consumer: the clock stops in between.
        context.commit_checkpoint = last_commit
        app.stop()


def last_commit(force: bool = False, **options: Any) -> None:
    """Commit, and stop the clock."""
    type(context).commit_checkpoint(context, force=force, **options)
    if force:
        meter.end()


with tempfile.TemporaryDirectory() as folder:
    app = Application(
        broker_address=a.bootstrap, consumer_group=a.group, auto_offset_reset="earliest", state_dir=folder, loglevel=None,
        commit_interval=a.commit_interval, consumer_extra_config=dict(FETCHING), auto_create_topics=False,
    )  # fmt: skip
    context = app._processing_context  # noqa: SLF001 - nothing public says when the last commit is through
    app.dataframe(app.topic(a.topic, value_deserializer="bytes", key_deserializer="bytes")).update(handle)
    app.run()
finish("quixstreams", a, processed, meter, work=work, version=version("quixstreams"))
