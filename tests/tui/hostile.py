"""What an attacker might put into a message, a header, a topic's name or an error."""

from __future__ import annotations

import re
from dataclasses import replace

from kafka_consumer.snapshot import DeadLetterView, LogView, Snapshot
from tests.tui.fakes import START, make_snapshot, partition, worker

# C0, DEL, C1, bidirectional controls, zero-width characters, line separators, lone surrogates.
FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")

MARKUP = (
    "[@click=app.quit]pay[/]",
    "[/]",
    "[bold",
    "[link=http://evil.example]x[/link]",
    "[$error]x",
    "[red]x[/blue]",
    "\\[",
    "{0}%s",
)

HOSTILE = (
    "\x1b]52;c;ZXZpbA==\x07",
    "\x1b]0;owned\x07",
    "\x1b[2J\x1b[H",
    "\x1b[?1049l",
    "\x9b2J",
    "\x9d52;c;ZXZpbA==\x9c",
    "\x90+q544e\x9c",
    "abc\u202egpj.exe",
    "a\u2066b\u2069",
    "\u200fא",
    "line one\nline two\r\tdone\x08\x08\x7f",
    "\ud800 lone",
    "\x00",
    "\ufeffbom",
    *MARKUP,
)


def hostile_snapshot() -> Snapshot:
    """Return a snapshot that nobody sanitised, every text of it hostile."""
    evil = "".join(HOSTILE)
    letters = tuple(
        DeadLetterView(
            at=START + number, topic=f"t{text}", partition=number, offset=number, key=text, value=evil,
            headers=((text, evil),), error_type=text, error_message=text, stack_trace=(text, evil), attempts=1, worker_id=1,
        )
        for number, text in enumerate(HOSTILE)
    )  # fmt: skip
    logs = tuple(LogView(START + number, text[:20], text) for number, text in enumerate(HOSTILE))
    partitions = tuple(partition(number, topic=text, note=text, state=text) for number, text in enumerate(HOSTILE))
    workers = tuple(worker(number, topic=text, state="busy", stack=(text, evil)) for number, text in enumerate(HOSTILE))
    return replace(
        make_snapshot(), topic=HOSTILE[0], group_id=HOSTILE[2], dlq_tail=letters, log_tail=logs, partitions=partitions,
        workers=workers, stop_reason=evil, log_level=HOSTILE[1],
        queues={text: make_snapshot().queues["backup"] for text in HOSTILE},
    )  # fmt: skip
