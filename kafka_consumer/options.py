"""The settings as click options, the same for ``kc`` and ``kc-tui``, grouped in the help.

::

    @click.command(cls=GroupedCommand)
    @consumer_options
    def command(**given): settings = settings_from(given)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import click

from kafka_consumer.completion import values_of
from kafka_consumer.config import REQUIRED
from kafka_consumer.settings import Settings, load_settings, show
from kafka_consumer.settings_table import SETTINGS, Setting
from kafka_consumer.snapshot import sanitise

F = TypeVar("F", bound=Callable[..., Any])


class GroupedOption(click.Option):
    """An option that knows its section of the help."""

    def __init__(self, *args: Any, section: str = "Other", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class _Grouped(click.Command):
    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by section, in the order in which the sections appear; the ungrouped ones last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(param, "section", "Other"), []).append(record)
        other = sections.pop("Other", None)
        if other is not None:
            sections["Other"] = other
        for section, records in sections.items():
            with formatter.section(section if section != "Other" or len(sections) > 1 else "Options"):
                formatter.write_dl(records)


class GroupedCommand(_Grouped):
    """A command whose help shows its options by section."""


class GroupedGroup(_Grouped, click.Group):
    """A group whose help shows its options by section, then its commands."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by section, then the commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def _option(setting: Setting) -> Callable[[F], F]:
    text = setting.help
    if setting.default not in (None, REQUIRED) and not setting.multiple and setting.default is not False:
        text += f" [default: {show(setting.key, setting.default)}]"
    if setting.flag:
        names = f"--{setting.name}/--no-{setting.name}"
        return click.option(names, setting.key, cls=GroupedOption, section=setting.section, default=None, help=text)
    # Every value stays text here, so that all mistakes are reported at once and in the same words as those of the other sources.
    return click.option(
        setting.option, setting.key, cls=GroupedOption, section=setting.section, metavar=setting.metavar,
        multiple=setting.multiple, default=None, help=text,
        shell_complete=lambda _ctx, _param, incomplete: values_of(setting, incomplete),
    )  # fmt: skip


def consumer_options(command: F) -> F:
    """Add ``--config`` and every setting to a command; they arrive as keyword arguments, by the configuration's name."""
    return some_options(*SETTINGS)(command)


def some_options(*keys: str) -> Callable[[F], F]:
    """Return what adds ``--config`` and these settings, by the configuration's name, to a command."""

    def add(command: F) -> F:
        for key in reversed(keys):
            command = _option(SETTINGS[key])(command)
        return _config_option(command)

    return add


def _config_option(command: F) -> F:
    config = click.option(
        "--config", "config", cls=GroupedOption, section="Settings", metavar="FILE", default=None,
        help="A kc.toml; KC_CONFIG names one, too. [default: ./kc.toml if there is one]",
    )
    return config(command)


def settings_from(given: Mapping[str, Any]) -> Settings:
    """Load the settings from the keyword arguments that ``consumer_options`` gave a command."""
    return load_settings({key: value for key, value in given.items() if key in SETTINGS}, config=given.get("config"))


def combined(outer: Mapping[str, Any] | None, own: Mapping[str, Any]) -> dict[str, Any]:
    """Join the options before the subcommand's name with those after it, which win."""
    return {**(outer or {}), **{key: value for key, value in own.items() if value is not None and value != ()}}


def print_lines(lines: Iterable[str], code: int = 0) -> int:
    """Print the lines to stderr; return ``code`` if there was one, else 0."""
    printed = [sanitise(line, 2_000) for line in lines]
    with contextlib.suppress(OSError):  # stderr is full: nobody can be told, and the exit code still says it
        for line in printed:
            click.echo(line, err=True)
    return code if printed else 0
