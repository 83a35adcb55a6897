"""Shell completion, asked by a real bash where there is one, and the examples in the help."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from kafka_consumer import cli
from kafka_consumer.completion import PROGRAMS, SHELLS, script, values_of
from kafka_consumer.settings_table import SETTINGS

BIN = Path(sys.executable).parent


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_a_script_for_both_programs(shell: str):
    result = CliRunner().invoke(cli.cli, ["completion", shell])
    assert result.exit_code == 0
    assert result.stdout == script(shell)
    for program, variable in PROGRAMS.items():
        assert program in result.stdout
        assert variable in result.stdout


def test_a_shell_that_is_not_known_is_a_usage_error():
    result = CliRunner().invoke(cli.cli, ["completion", "csh"])
    assert result.exit_code == 2
    assert "'bash', 'zsh', 'fish'" in result.stderr


@pytest.mark.skipif(shutil.which("bash") is None or not (BIN / "kc").exists(), reason="needs bash, and kc installed")
def test_bash_completes_options_commands_and_choices():
    program = """
        eval "$(kc completion bash)"
        ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _kc_completion kc; echo "${COMPREPLY[@]}"; }
        ask kc --orderi
        ask kc --ordering k
        ask kc dlq ""
    """
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["--ordering", "key", "list redrive show"]


def test_every_choice_that_the_help_shows_is_offered_and_accepted():
    for setting in SETTINGS.values():
        if "|" not in setting.metavar:
            continue
        for item in values_of(setting, ""):
            assert setting.check(setting.read(item.value)) is None, (setting.key, item.value)
        assert {item.value for item in values_of(setting, "")} == set(setting.metavar.split("|"))


def test_files_and_folders_are_left_to_the_shell():
    assert [item.type for item in values_of(SETTINGS["command_config"], "cl")] == ["file"]
    assert [item.type for item in values_of(SETTINGS["app_dir"], "")] == ["dir"]
    assert values_of(SETTINGS["worker_count"], "") == []


def test_the_examples_of_the_help_are_commands_that_there_are():
    names = {*cli.cli.commands}
    options = {word for setting in SETTINGS.values() for word in (setting.option, f"--no-{setting.name}")}
    for command in ([], ["check"], ["status"]):
        text = CliRunner().invoke(cli.cli, [*command, "--help"]).output
        examples = re.findall(r"^ +kc +(.*?)(?:   .*)?$", text.partition("Examples:")[2], re.MULTILINE)
        assert examples, command
        for example in examples:
            words = example.partition(" | ")[0].split()
            assert words[0].startswith("--") or words[0] in names, example
            known = options | {"--headless", "--json", "--watch", "--error", "--config"}
            assert {word for word in words if word.startswith("--")} <= known, example
