"""Every key of the console, once: the screen's bindings, the help, the palette and the README's table come from here."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from textual.binding import Binding, BindingType

READ_ONLY_NOTE = "refused with --read-only"


@dataclass(frozen=True)
class Key:
    """A binding.

    ``hint``: its name on the last line of the screen (empty: not shown there); ``changes``: it acts on the consumer;
    ``dangerous``: it asks before it acts, stating the effect; ``where``: the main screen, the application, always, or
    ``several`` (the application, where several consumers are attached).
    """

    id: str
    keys: tuple[str, ...]
    action: str
    title: str
    tooltip: str
    group: str
    hint: str = ""
    changes: bool = False
    dangerous: bool = False
    where: str = "main"


LOOK, MOVE, ACT, LEAVE = "Look", "Move", "Act on the consumer", "Leave"
SEVERAL = "Several consumers"

KEYS: tuple[Key, ...] = (
    Key("help", ("question_mark", "f1"), "help", "Help", "All keys, and what they do", LOOK, hint="help"),
    Key("filter", ("slash",), "filter", "Filter", "Show only rows of this panel that hold every word", LOOK, hint="filter"),
    Key("palette", ("ctrl+p",), "command_palette", "Palette", "Find and run any action by its name", LOOK, where="app"),
    Key("panel.1", ("1",), "panel(1)", "Partitions", "Go to panel 1, the partitions", LOOK),
    Key("panel.2", ("2",), "panel(2)", "Workers", "Go to panel 2, the workers", LOOK),
    Key("panel.3", ("3",), "panel(3)", "Queues", "Go to panel 3, the queues", LOOK),
    Key("panel.4", ("4",), "panel(4)", "DLQ tail", "Go to panel 4, the latest dead letters", LOOK),
    Key("panel.5", ("5",), "panel(5)", "Log", "Go to panel 5, the latest log records", LOOK),
    Key("panel.next", ("tab",), "next_panel(1)", "Next panel", "Go to the next panel", LOOK),
    Key("panel.previous", ("shift+tab",), "next_panel(-1)", "Previous panel", "Go to the previous panel", LOOK),
    Key("detail", ("enter",), "activate", "Detail", "Open the row: a partition, a worker's stack, a dead letter", LOOK),
    Key("sort", ("s",), "sort", "Sort", "Sort this panel by its next order", LOOK),
    Key("freeze", ("z",), "freeze", "Freeze", "Freeze the view, or let it live again; the consumer goes on", LOOK,
        hint="freeze"),
    Key("copy", ("y",), "copy", "Copy", "Copy the row to the clipboard", LOOK),
    Key("history", ("h",), "history", "History", "Commands: who, when, and how each ended", LOOK),
    Key("theme", ("t",), "theme", "Theme", "Next theme: dark, light, ANSI dark, ANSI light", LOOK, where="app"),
    Key("down", ("j", "down"), "down", "Down", "One row down", MOVE),
    Key("up", ("k", "up"), "up", "Up", "One row up", MOVE),
    Key("top", ("g", "home"), "top", "Top", "To the first row", MOVE),
    Key("bottom", ("G", "end"), "bottom", "Bottom", "To the last row", MOVE),
    Key("page.down", ("pagedown", "ctrl+d"), "page_down", "Page down", "One page down", MOVE),
    Key("page.up", ("pageup", "ctrl+u"), "page_up", "Page up", "One page up", MOVE),
    Key("mark", ("space",), "mark", "Mark", "Mark the row for pause, seek or redrive, or take the mark away", MOVE),
    Key("back", ("escape",), "back", "Back", "Close what is open; else take filter, then marks away", MOVE),
    Key("pause", ("p",), "pause", "Pause or resume", "Pause or resume everything, or the marked partitions", ACT,
        hint="pause", changes=True),
    Key("dev_mode", ("x",), "dev_mode", "Dev mode", "Turn commits off or on", ACT, hint="dev mode", changes=True),
    Key("workers.more", ("plus",), "workers(1)", "More workers", "One worker more", ACT, changes=True),
    Key("workers.fewer", ("minus",), "workers(-1)", "Fewer workers", "One worker less", ACT, changes=True),
    Key("log_level", ("l",), "log_level", "Log level", "Choose the least severe level that is logged", ACT, changes=True),
    Key("rate_limit", ("r",), "rate_limit", "Rate limit", "Limit the messages a second, or lift the limit", ACT, changes=True),
    Key("seek", ("e",), "seek", "Seek", "Move partitions to another offset, with a preview", ACT, changes=True),
    Key("redrive", ("R",), "redrive", "Redrive", "Send dead letters to their topic again, at a capped rate; asks first", ACT,
        changes=True, dangerous=True),
    Key("stop", ("T",), "stop", "Stop", "Drain, commit and stop the consumer; asks first", ACT, hint="stop", changes=True,
        dangerous=True),
    Key("consumers", ("0",), "consumers", "All consumers",
        "All consumers, with several --attach: a row for each, and their sums", SEVERAL, hint="all", where="several"),
    Key("consumer.next", ("n",), "consumer(1)", "Next consumer", "To the next consumer, with several --attach", SEVERAL,
        hint="next", where="several"),
    Key("consumer.previous", ("b",), "consumer(-1)", "Previous consumer", "To the consumer before, with several --attach",
        SEVERAL, where="several"),
    Key("several.pause", ("P",), "pause_several", "Pause or resume several",
        "Among all consumers: pause or resume the marked ones, or all; asks first", SEVERAL, changes=True, dangerous=True,
        where="several"),
    Key("several.stop", ("D",), "stop_several", "Stop several",
        "Among all consumers: drain, commit and stop the marked ones, or all; asks first", SEVERAL, changes=True,
        dangerous=True, where="several"),
    Key("quit", ("q",), "quit", "Quit", "Detach from a running consumer; in its own process: drain or cancel", LEAVE,
        hint="quit", where="app"),
    Key("interrupt", ("ctrl+c",), "quit", "Quit", "The same as q", LEAVE, where="priority"),
    Key("interrupt.other", ("ctrl+q",), "quit", "Quit", "The same as q", LEAVE, where="priority"),
)  # fmt: skip

_NAMES = {
    "question_mark": "?", "slash": "/", "plus": "+", "minus": "-", "pagedown": "PgDn", "pageup": "PgUp", "escape": "esc",
    "down": "↓", "up": "↑",
}  # fmt: skip


def key_name(key: str) -> str:
    """Return a key as it stands on a keyboard."""
    return _NAMES.get(key, key)


def shown_key(key: Key) -> str:
    """Return the first key of a binding as it stands on a keyboard."""
    return key_name(key.keys[0])


def keys_of(*, several: bool) -> list[Key]:
    """Return the keys of a console that shows one consumer, or several."""
    return [key for key in KEYS if several or key.where != "several"]


def bindings(*where: str, only: Collection[str] | None = None) -> list[BindingType]:
    """Return the bindings of the table that belong to ``main`` (the main screen), ``app``, ``priority`` (always) or ``several``.

    ``only``: of these, those with one of these ids.
    """
    found: list[BindingType] = []
    for key in KEYS:
        if key.where not in where or (only is not None and key.id not in only):
            continue
        found.append(
            Binding(
                ",".join(key.keys),
                key.action,
                key.title,
                show=False,
                priority=key.where == "priority",
                id=key.id,
                tooltip=key.tooltip,
            )
        )
    return found


def groups(*, several: bool = True) -> Iterable[tuple[str, list[Key]]]:
    """Return the groups of the table with their keys, in order; those of ``several`` consumers where they are wanted."""
    for group in (LOOK, MOVE, ACT, SEVERAL, LEAVE):
        keys = [key for key in keys_of(several=several) if key.group == group]
        if keys:
            yield group, keys


def effect(key: Key) -> str:
    """Return what a key does, with what an operator must know of it."""
    return key.tooltip + (f" ({READ_ONLY_NOTE})" if key.changes else "")


def markdown_table() -> str:
    """Return the README's table of keys."""
    lines = ["| Key | What it does |", "|---|---|"]
    for _, keys in groups():
        for key in keys:
            names = " ".join(f"`{key_name(name)}`" for name in key.keys)
            lines.append(f"| {names} | {'**' if key.dangerous else ''}{effect(key)}{'**' if key.dangerous else ''} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown_table())
