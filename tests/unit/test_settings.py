"""Settings: three sources, one precedence, an origin for every value, every mistake in a line and no secret in any."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kafka_consumer.config import OPTIONS
from kafka_consumer.errors import ConfigError
from kafka_consumer.kafka_properties import JAVA_ONLY, check_kafka_options, mask_values, parse_properties
from kafka_consumer.settings import Settings, Source, load_settings
from kafka_consumer.settings_table import SETTINGS

REQUIRED = {
    "bootstrap_servers": "broker:9092", "topic": "orders", "group_id": "billing", "processor_callable": "app_under_test:handle"
}
SECRET = "hunter2-the-secret"

# A value for every option, as text of an environment variable, as TOML, and what it means.
EXAMPLES: dict[str, tuple[str, str, Any]] = {
    "bootstrap_servers": ("a:1,b:2", '"a:1,b:2"', "a:1,b:2"),
    "topic": ("orders", '"orders"', "orders"),
    "group_id": ("billing", '"billing"', "billing"),
    "processor_callable": ("app_under_test:handle", '"app_under_test:handle"', "app_under_test:handle"),
    "backup_path": ("b.csv", '"b.csv"', "b.csv"),
    "dlq_path": ("d.csv", '"d.csv"', "d.csv"),
    "dlq_topic": ("orders.dlq", '"orders.dlq"', "orders.dlq"),
    "worker_count": ("3", "3", 3),
    "queue_size": ("77", "77", 77),
    "commit_interval_seconds": ("0.5", "0.5", 0.5),
    "log_level": ("warning", '"warning"', "WARNING"),
    "stop_at_offset": ("orders:0:5, orders:1:6", '["orders:0:5", "orders:1:6"]', {("orders", 0): 5, ("orders", 1): 6}),
    "dev_mode": ("yes", "true", True),
    "max_message_size": ("1000", "1000", 1000),
    "processing_timeout": ("2.5", "2.5", 2.5),
    "csv_batch_size": ("5", "5", 5),
    "csv_flush_interval_seconds": ("2", "2", 2),
    "dlq_csv_batch_size": ("6", "6", 6),
    "max_inflight_bytes": ("4096", "4096", 4096),
    "value_encoding": ("binary", '"binary"', "binary"),
    "ordering": ("key", '"key"', "key"),
    "max_attempts": ("4", "4", 4),
    "retry_backoff_seconds": ("0", "0", 0),
    "retry_backoff_max_seconds": ("9", "9", 9),
    "fatal_exceptions": ("ValueError,app_under_test:E", '["ValueError", "app_under_test:E"]', ("ValueError", "app_under_test:E")),
    "executor": ("process", '"process"', "process"),
    "backup_mode": ("off", '"off"', "off"),
    "backup_retention_hours": ("48", "48", 48),
    "backup_compress": ("yes", "true", True),
    "commit_metadata": ("off", "false", False),
    "max_uncommitted_span": ("500", "500", 500),
    "replay_from": ("orders:0:5,orders:1:6", '["orders:0:5", "orders:1:6"]', ("orders:0:5", "orders:1:6")),
    "replay_to": ("latest", '"latest"', ("latest",)),
    "replay_commit": ("yes", "true", True),
    "max_rate": ("100", "100", 100),
    "fail_on_dlq": ("yes", "true", True),
    "shutdown_warning_seconds": ("3", "3", 3),
    "on_offset_out_of_range": ("latest", '"latest"', "latest"),
    "max_failure_ratio": ("0.5", "0.5", 0.5),
    "crash_loop_limit": ("3", "3", 3),
    "event_loop": ("uvloop", '"uvloop"', "uvloop"),
    "shutdown_drain_seconds": ("60", "60", 60),
    "shutdown_timeout_seconds": ("4", "4", 4),
    "decode": ("json", '"json"', "json"),
    "schema_registry_url": ("http://registry:8081", '"http://registry:8081"', "http://registry:8081"),
    "protobuf_type": ("app_under_test:E", '"app_under_test:E"', "app_under_test:E"),
    "tracing": ("yes", "true", True),
    "kafka_options": (
        "client.id=x\nclient.rack=y", '{"client.id" = "x", "client.rack" = "y"}', {"client.id": "x", "client.rack": "y"}
    ),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder of its own, with a module to import, and an import system that forgets it afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "app_under_test", raising=False)
    source = "class Gone(Exception): ...\ndef handle(value): ...\nnumber = 3\ndef none(): ...\n"
    (tmp_path / "app_under_test.py").write_text(source)
    return tmp_path


def load(environ: Any = None, *, config: Any = None, **given: Any) -> Settings:
    return load_settings({**REQUIRED, **given}, environ=environ or {}, config=config)


def test_every_option_of_the_configuration_is_a_setting() -> None:
    assert set(OPTIONS) <= set(SETTINGS)
    assert set(EXAMPLES) == set(OPTIONS), "give the new option an example here"


@pytest.mark.parametrize("key", sorted(EXAMPLES))
def test_every_option_can_be_set_in_the_environment_under_both_names(key: str) -> None:
    text, _, meaning = EXAMPLES[key]
    for variable in SETTINGS[key].environment_names:
        settings = load_settings({}, environ={variable: text})
        assert settings[key] == meaning
        if key != "kafka_options":
            assert settings.origins[key].label == variable
            assert settings.origins[key].source is Source.ENVIRONMENT


@pytest.mark.parametrize("key", sorted(EXAMPLES))
def test_every_option_can_be_set_in_the_file_under_both_names_with_underscores_or_dashes(key: str, folder: Path) -> None:
    _, toml, meaning = EXAMPLES[key]
    for name in SETTINGS[key].file_names:
        for written in {name, name.replace("_", "-")}:
            (folder / "kc.toml").write_text(f"{written} = {toml}\n")
            settings = load_settings({}, environ={})
            assert settings[key] == meaning
            if key != "kafka_options":
                assert settings.origins[key].label == f"{written} in kc.toml"


def test_the_command_line_beats_the_environment_beats_the_file_beats_the_default(folder: Path) -> None:
    (folder / "kc.toml").write_text("workers = 2\nqueue_size = 20\nmax_attempts = 3\n")
    settings = load({"KC_WORKERS": "4", "KC_QUEUE_SIZE": "40"}, worker_count="5")
    assert settings.problems == ()
    assert [settings[key] for key in ("worker_count", "queue_size", "max_attempts", "csv_batch_size")] == [5, 40, 3, 100]
    labels = [settings.origins[key].label for key in ("worker_count", "queue_size", "max_attempts", "csv_batch_size")]
    assert labels == ["--workers", "KC_QUEUE_SIZE", "max_attempts in kc.toml", "default"]


def test_a_flag_turned_off_on_the_command_line_beats_the_file(folder: Path) -> None:
    (folder / "kc.toml").write_text("dev-mode = true\n")
    assert load()["dev_mode"] is True
    settings = load(dev_mode=False)
    assert settings["dev_mode"] is False
    assert settings.origins["dev_mode"].label == "--no-dev-mode"


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load({"KC_WORKERS": ""}).origins["worker_count"].source is Source.DEFAULT


def test_none_takes_back_a_timeout_that_the_file_sets(folder: Path) -> None:
    (folder / "kc.toml").write_text("processing_timeout = 5\n")
    assert load(processing_timeout="none")["processing_timeout"] is None
    (folder / "kc.toml").write_text('processing_timeout = "none"\n')
    assert load().problems == ()


def test_the_file_is_found_by_option_then_by_variable_then_in_the_current_folder(folder: Path) -> None:
    (folder / "kc.toml").write_text("workers = 1")
    (folder / "variable.toml").write_text("workers = 2")
    (folder / "option.toml").write_text("workers = 3")
    assert load()["worker_count"] == 1
    assert load({"KC_CONFIG": "variable.toml"})["worker_count"] == 2
    settings = load({"KC_CONFIG": "variable.toml"}, config="option.toml")
    assert settings["worker_count"] == 3
    assert settings.origins["worker_count"].label == "workers in option.toml"


def test_a_file_that_was_asked_for_and_is_missing_is_a_problem_and_nothing_else_is_called_missing() -> None:
    settings = load_settings({}, environ={}, config="nowhere.toml")
    assert settings.problems == ("--config: expected a readable file, got 'nowhere.toml': No such file or directory",)


def test_a_file_that_is_no_text_is_one_line(folder: Path) -> None:
    (folder / "kc.toml").write_bytes(b"topic = '\xff'")
    assert load().problems == ("kc.toml: expected a file of UTF-8 text, 'kc.toml' isn't (byte 9)",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('topic = "orders"\nworkers = = 3\n', "kc.toml, line 2, column 11: Invalid value"),
        ("topic = ", "kc.toml, line 1, column 9: Invalid value"),
        ("[kafka]\nsasl.password = hunter2-the-secret", "kc.toml, line 2, column 17: Invalid value"),
        ("workers = 1\nworkers = 2", "kc.toml, line 2, column 12: Cannot overwrite a value"),
    ],
)
def test_a_syntax_error_is_one_line_with_file_line_and_column(text: str, problem: str, folder: Path) -> None:
    (folder / "kc.toml").write_text(text)
    assert load().problems == (problem,)


def test_an_unknown_key_is_one_line_with_the_nearest_name(folder: Path) -> None:
    (folder / "kc.toml").write_text("wrokers = 3\n[other]\nx = 1\n")
    assert load().problems == ("wrokers in kc.toml: unknown option; did you mean workers?", "other in kc.toml: unknown option")


def test_both_names_of_an_option_in_one_file_are_an_error(folder: Path) -> None:
    (folder / "kc.toml").write_text("workers = 3\nworker-count = 4\n")
    assert load().problems == ("worker-count in kc.toml: the same option as workers; keep one of them",)


def test_both_variables_of_an_option_are_an_error_and_the_option_is_not_called_missing_too() -> None:
    settings = load_settings({**REQUIRED, "group_id": None}, environ={"KC_GROUP": "a", "KC_GROUP_ID": "b"})
    assert settings.problems == ("KC_GROUP and KC_GROUP_ID: both are set and mean the same option; keep one of them",)


def test_a_variable_that_looks_like_a_slip_is_a_warning_and_foreign_ones_are_not() -> None:
    settings = load({"KC_WROKERS": "3", "KC_DB_URL": "x", "KC_HOSTNAME": "y"})
    assert settings.problems == ()
    assert settings.warnings == ("KC_WROKERS: not a variable of kc, ignored; did you mean KC_WORKERS?",)


def test_all_problems_come_at_once_each_named_as_it_was_written(folder: Path) -> None:
    (folder / "kc.toml").write_text("queue-size = 5\ndev_mode = 'true'\n")
    settings = load_settings(
        {"worker_count": "0", "stop_at_offset": ("orders:1",), "backup_path": "nowhere/b.csv", "app_dir": "nowhere"},
        environ={"KC_COMMIT_INTERVAL": "soon", "KC_MAX_ATTEMPTS": "1.5"},
    )
    nowhere = str(folder / "nowhere")
    assert set(settings.problems) == {
        "--stop-at: expected TOPIC:PARTITION:OFFSET with a partition and an offset of at least 0, got 'orders:1'",
        "--bootstrap-server: missing; it is required (or KC_BOOTSTRAP_SERVER, or bootstrap_server in kc.toml)",
        "--topic: missing; it is required (or KC_TOPIC, or topic in kc.toml)",
        "--group: missing; it is required (or KC_GROUP, or group in kc.toml)",
        "--processor: missing; it is required (or KC_PROCESSOR, or processor in kc.toml)",
        "--app-dir: expected an existing folder, got 'nowhere'",
        (f"--backup-path: expected a path in an existing directory; {nowhere!r} is not a directory: create it first, "
        "got 'nowhere/b.csv'"),
        "--workers: expected an integer from 1 to 1,000, got 0",
        "queue-size in kc.toml: expected an integer from 10 to 1,000,000, got 5",
        "KC_COMMIT_INTERVAL: expected a number of seconds above 0, got 'soon'",
        "dev_mode in kc.toml: expected true or false, got 'true'",
        "KC_MAX_ATTEMPTS: expected an integer from 1 to 1,000,000, got '1.5'",
    }


def test_a_problem_with_a_default_names_the_option_that_changes_it(folder: Path) -> None:
    settings = load(backup_path="dlq.csv")
    assert settings.problems == ("--dlq-path (default): expected another file than backup_path, got 'dlq.csv' for both",)


@pytest.mark.parametrize("number", ["1e400", "-1", "nan", "inf", "1" + "0" * 400, "9" * 5000, "", "0x10"])
def test_numbers_that_are_none_are_a_line_not_an_overflow(number: str, folder: Path) -> None:
    for problems in (load(commit_interval_seconds=number).problems, load(worker_count=number).problems):
        assert len(problems) == 1
        assert "expected" in problems[0]
        assert len(problems[0]) < 300


def test_a_huge_number_in_the_file_is_a_line(folder: Path) -> None:
    (folder / "kc.toml").write_text(f"commit-interval = 1{'0' * 400}\n")
    (problem,) = load().problems
    assert problem.startswith("commit-interval in kc.toml: expected a number of seconds above 0, got ")


@pytest.mark.parametrize("key", ["topic", "group_id", "bootstrap_servers"])
def test_text_that_librdkafka_cannot_take_is_a_line(key: str) -> None:
    for text in ("a\0b", "a\udcffb"):
        (problem,) = load(**{key: text}).problems
        assert problem.startswith(f"{SETTINGS[key].option}: expected UTF-8 text without NUL characters, got ")


def test_control_characters_in_a_value_do_not_reach_the_line() -> None:
    (problem,) = load({"KC_ORDERING": "\x1b[2J\nkey"}).problems
    assert problem.isprintable()


class TestStopTargets:
    def test_the_topic_is_what_is_left_of_partition_and_offset(self) -> None:
        assert load(stop_at_offset=("a.b-c:12:345", "x:0:0"))["stop_at_offset"] == {("a.b-c", 12): 345, ("x", 0): 0}

    @pytest.mark.parametrize(
        "text", ["", "orders", "orders:1", ":1:2", "orders:-1:5", "orders:1:-5", "orders:a:5", "orders:1:", "o:1:٣"]
    )
    def test_what_is_no_target_is_named(self, text: str) -> None:
        (problem,) = load(stop_at_offset=(text,)).problems
        assert problem.endswith(f"got {text!r}")

    def test_two_offsets_for_one_partition_are_an_error(self) -> None:
        (problem,) = load(stop_at_offset=("orders:1:5", "orders:1:6")).problems
        assert problem == "--stop-at: expected one offset for orders:1, got 5 and 6"

    def test_one_target_in_the_file_needs_no_list(self, folder: Path) -> None:
        (folder / "kc.toml").write_text('stop-at = "orders:0:5"')
        assert load()["stop_at_offset"] == {("orders", 0): 5}


class TestKafkaOptions:
    def test_sources_are_merged_option_by_option_and_the_origin_of_each_is_kept(self, folder: Path) -> None:
        (folder / "kc.toml").write_text(
            'command-config = "client.properties"\n'
            '[kafka]\nclient.id = "table"\nclient.rack = "table"\nsocket.keepalive.enable = true\n'
        )
        (folder / "client.properties").write_text("client.id=file\nfetch.min.bytes=2\nclient.rack=file\nsocket.timeout.ms=1000\n")
        settings = load({"KC_KAFKA_OPTIONS": "client.rack=variable\nfetch.min.bytes = 3"}, kafka_options=("fetch.min.bytes=4",))
        assert settings.problems == ()
        assert settings["kafka_options"] == {
            "client.id": "table", "client.rack": "variable", "fetch.min.bytes": "4", "socket.timeout.ms": "1000",
            "socket.keepalive.enable": "true",
        }
        assert {name: origin.label for name, origin in settings.kafka_origins.items()} == {
            "client.id": "client.id in kc.toml [kafka]", "client.rack": "client.rack in KC_KAFKA_OPTIONS",
            "fetch.min.bytes": "-X fetch.min.bytes", "socket.timeout.ms": "socket.timeout.ms in client.properties",
            "socket.keepalive.enable": "socket.keepalive.enable in kc.toml [kafka]",
        }

    def test_x_beats_the_command_config_of_the_command_line(self, folder: Path) -> None:
        (folder / "p").write_text("client.id=file\n")
        assert load(command_config="p", kafka_options=("client.id=x=y",))["kafka_options"] == {"client.id": "x=y"}

    def test_a_command_config_on_the_command_line_beats_the_table_of_the_file(self, folder: Path) -> None:
        (folder / "kc.toml").write_text('[kafka]\n"client.id" = "table"\n')
        (folder / "p").write_text("client.id=file\n")
        assert load(command_config="p")["kafka_options"] == {"client.id": "file"}

    def test_properties_have_comments_spaces_and_equals_signs_in_values(self) -> None:
        options, problems = parse_properties("# a=b\n! c=d\n\n  sasl.username = bob \r\nsasl.password=a=b#c\n", "p")
        assert problems == []
        assert options == {"sasl.username": "bob", "sasl.password": "a=b#c"}

    def test_a_line_that_is_none_is_named_by_number_not_by_content(self) -> None:
        _, problems = parse_properties(f"client.id=a\nsasl.password {SECRET}\nclient.id=b\n={SECRET}\n", "p")
        assert problems == [
            "p line 2: expected name=value", "client.id in p: given on line 1 and on line 3; keep one of them",
            "p line 4: expected name=value",
        ]

    @pytest.mark.parametrize("name", sorted(JAVA_ONLY))
    def test_an_option_of_java_is_named_with_its_equivalent(self, name: str, folder: Path) -> None:
        (folder / "client.properties").write_text(f"{name}={SECRET}\n")
        (problem,) = load(command_config="client.properties").problems
        assert problem.startswith(f"{name} in client.properties: ")
        assert JAVA_ONLY[name] in problem
        assert SECRET not in problem

    def test_no_key_said_to_be_java_only_works_with_librdkafka(self) -> None:
        from confluent_kafka import Consumer, KafkaException

        for name in JAVA_ONLY:
            with pytest.raises(KafkaException, match=r"No such configuration property|Java"):
                Consumer({"group.id": "g", name: "1"})

    @pytest.mark.parametrize(
        ("option", "problem"),
        [
            ("sasl.pasword", "-X sasl.pasword: librdkafka has no such option; did you mean sasl.password?"),
            ("zzz", "-X zzz: librdkafka has no such option"),
            ("auto.offset.reset", "-X auto.offset.reset: librdkafka doesn't accept this value, got [hidden]"),
            ("enable.partition.eof", "-X enable.partition.eof: expected true or false, got [hidden]"),
            ("session.timeout.ms", "-X session.timeout.ms: librdkafka doesn't accept this value, got [hidden]"),
            ("error_cb", "-X error_cb: this option can only be set in code"),
            ("logger", "-X logger: this option can only be set in code"),
            ("group.id", "-X group.id: use the option group_id"),
            ("enable.auto.commit", "-X enable.auto.commit: offsets are committed by kc, only up to what is really finished"),
            ("sasl.mechanism", "kafka options: Unsupported SASL mechanism: [hidden]"),
        ],
    )
    def test_what_librdkafka_refuses_is_a_line_without_the_value(self, option: str, problem: str) -> None:
        more = ("security.protocol=SASL_PLAINTEXT",) if option == "sasl.mechanism" else ()
        assert load(kafka_options=(f"{option}={SECRET}", *more)).problems == (problem,)

    def test_a_number_out_of_range_is_told_its_range(self) -> None:
        assert load(kafka_options=("session.timeout.ms=-5",)).problems == (
            "-X session.timeout.ms: expected a number from 1 to 3,600,000, got [hidden]",
        )

    def test_a_value_within_librdkafkas_own_words_is_hidden(self) -> None:
        words = "dlopen() failed: top-secret.so: no such file (plugin top-secret), 1 of 12"
        assert mask_values(words, {"plugin.library.paths": "top-secret", "log_level": "1", "client.id": ""}) == (
            "dlopen() failed: [hidden].so: no such file (plugin [hidden]), [hidden] of 12"
        )

    def test_several_refused_options_are_reported_at_once(self) -> None:
        options = {"zzz": "1", "yyy": "2", "client.id": "fine", "enable.partition.eof": "perhaps"}
        problems = check_kafka_options(options, {name: f"-X {name}" for name in options})
        assert [problem.split(":")[0] for problem in problems] == ["-X zzz", "-X yyy", "-X enable.partition.eof"]

    def test_an_x_without_a_value_does_not_echo_what_may_be_a_secret(self) -> None:
        assert load(kafka_options=(f"sasl.password:{SECRET}",)).problems == ("-X (number 1): expected KEY=VALUE, got [hidden]",)

    def test_a_list_in_the_table_is_refused_without_its_content(self, folder: Path) -> None:
        (folder / "kc.toml").write_text(f'[kafka]\nsasl.password = ["{SECRET}"]\n')
        assert load().problems == (
            "sasl.password in kc.toml [kafka]: expected a string, a number, true or false, got list [hidden]",
        )

    def test_a_table_that_is_none_is_refused_without_its_content(self, folder: Path) -> None:
        (folder / "kc.toml").write_text(f'kafka = "{SECRET}"\n')
        assert load().problems == ("kafka in kc.toml: expected a table of librdkafka's options, got str [hidden]",)

    def test_values_that_librdkafka_would_cut_off_are_refused(self) -> None:
        for value in ("a\0b", "a\udcff"):
            assert load(kafka_options=(f"sasl.password={value}",)).problems == (
                "-X sasl.password: expected UTF-8 text without NUL characters, got [hidden]",
            )

    def test_no_value_is_shown_by_repr_or_rows(self) -> None:
        settings = load(kafka_options=(f"sasl.password={SECRET}", "client.id=also-hidden"))
        shown = repr(settings) + repr(settings.rows()) + repr(settings.build_config())
        assert SECRET not in shown
        assert "also-hidden" not in shown
        assert ("kafka sasl.password", "[hidden]", "-X sasl.password") in settings.rows()


class TestProcessor:
    def test_it_is_found_in_the_app_dir_before_other_modules_of_that_name(self, folder: Path) -> None:
        (folder / "app").mkdir()
        (folder / "app" / "app_under_test.py").write_text("def handle(value): return 'the right one'\n")
        config = load(app_dir="app").build_config()
        assert config.processor_callable(b"") == "the right one"

    def test_exceptions_are_resolved(self) -> None:
        config = load(fatal_exceptions=("ValueError", "app_under_test:Gone")).build_config()
        assert [error.__name__ for error in config.fatal_exceptions] == ["ValueError", "Gone"]

    @pytest.mark.parametrize(
        ("spec", "said"),
        [
            ("nowhere:handle", "no module named 'nowhere': check the name and --app-dir"),
            ("app_under_test:nothing", "module 'app_under_test' has no 'nothing'"),
            ("app_under_test:number", "not a callable"),
            ("app_under_test:none", "expected a callable that takes one argument, the value as bytes"),
            ("app_under_test.py:handle", "expected a module's name, not a file's"),
            (".app:handle", "expected a module's full name"),
        ],
    )
    def test_what_cannot_be_used_is_one_line(self, spec: str, said: str) -> None:
        settings = load(processor_callable=spec)
        assert settings.problems == ()
        (problem,) = settings.import_problems()
        assert problem.startswith(f"--processor: can't use {spec!r}: ")
        assert said in problem
        with pytest.raises(ConfigError, match="can't use"):
            settings.build_config()

    @pytest.mark.parametrize("spec", ["nocolon", "module:", ":name", ""])
    def test_what_is_no_name_is_a_problem_before_anything_is_imported(self, spec: str) -> None:
        settings = load(processor_callable=spec)
        assert settings.problems == (f"--processor: expected MODULE:CALLABLE, got {spec!r}",)
        assert settings.import_problems() == []

    @pytest.mark.parametrize(
        ("source", "line", "said"),
        [
            ("import os\ndef deep():\n    raise RuntimeError('no \\x1b[31mdatabase\\nat all')\ndeep()\n", 3,
             "RuntimeError: no \\x1b[31mdatabase at all"),
            ("def f(:\n", 1, "SyntaxError"),
            ("\nimport a_module_that_is_missing\n", 2, "it needs 'a_module_that_is_missing', which isn't installed"),
            ("import json\n\njson.loads('{')\n", 3, "JSONDecodeError"),
            ("raise SystemExit(3)\n", 1, "exits when it is imported"),
        ],
    )
    def test_a_module_that_fails_at_import_is_one_line_with_the_place_in_it(
        self, source: str, line: int, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(sys.modules, "broken_under_test", raising=False)
        (folder / "broken_under_test.py").write_text(source)
        (problem,) = load(processor_callable="broken_under_test:f").import_problems()
        assert said in problem
        assert f"({(folder / 'broken_under_test.py').resolve()}:{line})" in problem
        assert problem.isprintable()

    def test_an_exception_that_is_none_is_named(self) -> None:
        problems = load(fatal_exceptions=("Nope", "app_under_test:handle", "int", "KeyboardInterrupt")).import_problems()
        assert [problem.split(": ")[1] for problem in problems] == [
            f"can't use {name!r}" for name in ("Nope", "app_under_test:handle", "int", "KeyboardInterrupt")
        ]


class TestDemo:
    def test_it_needs_nothing_else(self) -> None:
        settings = load_settings({"demo": True}, environ={})
        assert settings.problems == ()
        assert settings.demo
        assert settings["topic"] == "orders"
        assert settings["processor_callable"] == "kafka_consumer.demo_orders:process"
        assert settings.import_problems() == []

    def test_it_leaves_a_production_file_and_environment_alone_but_keeps_how_to_work(self, folder: Path) -> None:
        (folder / "kc.toml").write_text(
            'bootstrap-server = "prod:9092"\ntopic = "payments"\nbackup-path = "prod.csv"\nworkers = 3\n'
            '[kafka]\nclient.id = "prod"\n'
        )
        environ = {"KC_DLQ_PATH": "prod-dlq.csv", "KC_QUEUE_SIZE": "50"}
        settings = load_settings({"demo": True, "group_id": "mine"}, environ=environ)
        assert settings.problems == ()
        assert settings["topic"] == "orders"
        assert settings["group_id"] == "mine"
        assert settings["kafka_options"] == {}
        assert {settings.origins[key].source for key in ("bootstrap_servers", "backup_path", "dlq_path")} == {Source.DEFAULT}
        assert (settings["worker_count"], settings["queue_size"]) == (3, 50)
        (warning,) = settings.warnings
        for label in ("bootstrap-server in kc.toml", "topic in kc.toml", "backup-path in kc.toml", "client.id in kc.toml"):
            assert label in warning
        assert "KC_DLQ_PATH" in warning

    def test_a_file_that_asks_for_the_demo_says_where_to_write(self, folder: Path) -> None:
        (folder / "kc.toml").write_text('demo = true\nbackup-path = "mine.csv"\n')
        assert load_settings({}, environ={})["backup_path"] == "mine.csv"

    def test_servers_beside_it_are_a_contradiction(self) -> None:
        assert load_settings({"demo": True, "bootstrap_servers": "b:1"}, environ={}).problems == (
            "--bootstrap-server: a demo brings its own broker; leave one of the two out",
        )

    def test_a_number_of_messages_without_it_is_an_error(self) -> None:
        assert load(demo_messages="5").problems == ("--demo-messages: only together with --demo",)


def test_the_configuration_holds_what_was_set() -> None:
    config = load({"KC_WORKERS": "3"}, kafka_options=("client.id=x",), stop_at_offset=("orders:0:9",)).build_config()
    assert config.worker_count == 3
    assert config.topic == "orders"
    assert config.kafka_options == {"client.id": "x"}
    assert config.stop_at_offset == {("orders", 0): 9}
    assert config.processor_name == "app_under_test:handle"


def test_the_configuration_page_is_current() -> None:
    path = Path(__file__).resolve().parents[2] / "docs" / "generate_configuration.py"
    spec = importlib.util.spec_from_file_location("generate_configuration", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run: python docs/generate_configuration.py"


def test_the_generator_of_the_page_can_be_asked_whether_it_is_current() -> None:
    path = Path(__file__).resolve().parents[2] / "docs" / "generate_configuration.py"
    done = subprocess.run([sys.executable, str(path), "--check"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
