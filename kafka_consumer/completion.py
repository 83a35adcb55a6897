"""Shell completion: the script that ``kc completion`` prints, and what an option's value is completed with.

The shell asks ``kc`` itself at each press of the tab key (``_KC_COMPLETE=… kc``), so options, commands and choices are always
those of the installed version.
"""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

from kafka_consumer.settings_table import Setting

SHELLS = ("bash", "zsh", "fish")
PROGRAMS = {"kc": "_KC_COMPLETE", "kc-tui": "_KC_TUI_COMPLETE"}
"""The programs, and the variables by which click knows that it is asked; named by click after the program."""


def script(shell: str) -> str:
    """Return what the shell is to evaluate, for both programs."""
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - for the type checker: SHELLS are what click knows
    nobody = click.Command("kc")  # the script is the same whatever is completed
    return "\n".join(found(nobody, {}, program, variable).source().strip() + "\n" for program, variable in PROGRAMS.items())


@click.command("completion", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("shell", type=click.Choice(SHELLS))
def completion_command(shell: str) -> None:
    r"""Print the script that completes the options and commands of kc and kc-tui.

    \b
      bash   eval "$(kc completion bash)"                                in ~/.bashrc
      zsh    eval "$(kc completion zsh)"                                 in ~/.zshrc, after compinit
      fish   kc completion fish | source                                 in ~/.config/fish/config.fish
    """
    click.echo(script(shell), nl=False)


def values_of(setting: Setting, incomplete: str) -> list[CompletionItem]:
    """Return what may stand for the value: the choices, or that the shell is to offer files or folders."""
    if setting.metavar in ("FILE", "PATH", "FOLDER"):
        return [CompletionItem(incomplete, type="dir" if setting.metavar == "FOLDER" else "file")]
    choices = setting.metavar.split("|") if "|" in setting.metavar else _CHOICES.get(setting.key, ())
    return [CompletionItem(choice) for choice in choices if choice.startswith(incomplete)]


_CHOICES = {
    "log_level": ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"), "replay_from": ("earliest", "latest", "-2h"),
    "replay_to": ("earliest", "latest"),
}  # fmt: skip
