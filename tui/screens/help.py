"""All keys, from the one table."""

from __future__ import annotations

from collections.abc import Sequence

from tui.bindings import effect, groups, key_name
from tui.screens.base import PageScreen
from tui.text import Line, fit
from tui.view import View

GLYPHS = (
    ("● RUNNING", "ok", "messages are finished, the lag doesn't grow"),
    ("▲ LAGGING", "warn", "the lag of all partitions grew over the last ten seconds"),
    ("▲ FAILING", "bad", "one message in twenty or more fails"),
    ("■ PAUSED", "warn", "an operator paused everything, or some partitions"),
    ("⚠ STUCK", "bad", "workers have held a message for too long"),
    ("⚠ STALLED", "bad", "messages wait, and none was finished for half a minute"),
    ("⚠ COMMITS FAIL", "bad", "Kafka refused a commit in the last minute"),
    ("✖ CRASHED", "bad", "a worker crashed in the last minute; it was replaced"),
    ("✖ FAILED", "bad", "the consumer ended by a failure"),
    ("▼ DRAINING", "warn", "the consumer finishes what it has, commits and ends"),
    ("? NO DATA", "warn", "no snapshot came for five seconds"),
    ("‖ FROZEN", "warn", "the view stands still, the consumer doesn't: z lets it live again"),
)


class HelpPage(PageScreen):
    """Keys and what the words in the header mean."""

    title_text = "Help"

    def lines(self, view: View) -> Sequence[Line]:
        """Return the page."""
        lines: list[Line] = []
        for group, keys in groups(several=bool(view.consumers)):
            lines += [((group, "title"),)]
            for key in keys:
                names = " ".join(key_name(name) for name in key.keys)
                lines.append(((f"  {fit(names, 16)}", "key"), (effect(key), "bad" if key.dangerous else "plain")))
            lines.append(())
        lines.append((("The word in the header", "title"),))
        lines += [((f"  {fit(word, 16)}", tone), (meaning, "plain")) for word, tone, meaning in GLYPHS]
        return lines
