"""What the processor gets: bytes, a ``Message``, or what ``decode`` makes of the value; and what becomes of the rest."""

from __future__ import annotations

import base64
import functools
import io
import json
import pickle
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from kafka_consumer import ConfigError, Message, decoding
from kafka_consumer.decoding import Decoder
from kafka_consumer.errors import DecodeError
from kafka_consumer.kafka_consumer import client_options
from kafka_consumer.message_view import wants_message
from kafka_consumer.redaction import Redactor
from tests import decoding_processors
from tests.decoding_processors import Collect
from tests.fakes import FakeMessage
from tests.helpers import eventually, make_config, make_state
from tests.integration.conftest import TOPIC

ORDER: dict[str, Any] = {
    "type": "record",
    "name": "Order",
    "fields": [{"name": "id", "type": "int"}, {"name": "customer", "type": "string"}],
}
JSON_SCHEMA: dict[str, Any] = {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}
SCHEMAS: dict[int, dict[str, str]] = {
    1: {"schema": json.dumps(ORDER)},
    2: {"schema": json.dumps(JSON_SCHEMA), "schemaType": "JSON"},
}


def serialized_protobuf() -> str:
    from tests.protobuf_order import FILE

    return base64.b64encode(FILE.SerializeToString()).decode()


def framed(schema: int, data: bytes) -> bytes:
    return b"\0" + schema.to_bytes(4, "big") + data


def avro(**fields: Any) -> bytes:
    fastavro = pytest.importorskip("fastavro", reason="needs the extra, kc[decode]")
    out = io.BytesIO()
    fastavro.schemaless_writer(out, ORDER, fields)
    return framed(1, out.getvalue())


class Registry:
    """A schema registry: it knows ``SCHEMAS``, and answers everything with ``status`` while that is set."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.asked: list[str] = []
        self.logins: list[str | None] = []
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.asked.append(self.path)
                registry.logins.append(self.headers.get("Authorization"))
                found = re.fullmatch(r"/schemas/ids/(\d+)", self.path.partition("?")[0])
                number = int(found[1]) if found else 0
                status = 200
                answer: dict[str, Any] | None = SCHEMAS.get(number)
                if number == 3:  # asked for with format=serialized
                    answer = {"schema": serialized_protobuf(), "schemaType": "PROTOBUF"}
                if registry.status is not None:
                    status, answer = registry.status, {"error_code": registry.status * 100, "message": "not now"}
                elif answer is None:
                    status, answer = 404, {"error_code": 40403, "message": f"Schema {number} not found"}
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


@pytest.fixture
def registry() -> Iterator[Registry]:
    for module in ("httpx2", "authlib", "fastavro", "jsonschema", "google.protobuf"):
        pytest.importorskip(module, reason="needs the extra, kc[decode]")
    found = Registry()
    yield found
    found.close()


# --- a Message instead of bytes --------------------------------------------------------------------------------------------


def test_a_processor_that_asks_for_the_message_gets_all_of_it(broker, live):
    seen: list[Message] = []

    def process(message: Message) -> None:
        seen.append(message)

    headers = [("a", b"1"), ("a", None), ("b", b"\xff")]
    broker.produce(TOPIC, 2, b"value", key=b"key", headers=headers, timestamp=1_700_000_000_123)
    broker.produce(TOPIC, 2, None)
    life = live(processor_callable=process)
    life.wait_committed(2, 2)
    first, tombstone = seen
    assert (first.value, first.key, first.topic, first.partition, first.offset) == (b"value", b"key", TOPIC, 2, 0)
    assert first.headers == tuple(headers)
    assert first.timestamp == 1_700_000_000_123
    assert (tombstone.value, tombstone.key, tombstone.headers, tombstone.offset) == (None, None, (), 1)


def test_a_coroutine_gets_it_too_by_an_annotation_in_quotes(broker, live):
    seen: list[Any] = []

    async def process(message: "Message") -> None:  # noqa: UP037 - the quotes are what is tested
        seen.append(message)

    broker.produce(TOPIC, 0, b"x")
    live(processor_callable=process).wait_committed(1)
    assert [(type(message), message.value) for message in seen] == [(Message, b"x")]


@pytest.mark.parametrize("options", [{"processing_timeout": 5.0}, {"ordering": "key"}, {"ordering": "partition"}])
def test_every_way_to_the_processor_hands_over_messages(broker, live, options):
    seen: list[Message] = []

    def process(message: Message) -> None:
        seen.append(message)
        if len(seen) == 1:
            raise ValueError("once more")

    broker.produce_many(TOPIC, 0, [b"0", b"1", b"2"])
    life = live(processor_callable=process, max_attempts=2, retry_backoff_seconds=0, worker_count=1, **options)
    life.wait_committed(3)
    assert {type(message) for message in seen} == {Message}
    assert sorted(message.value for message in seen) == [b"0", b"0", b"1", b"2"]


def test_a_worker_process_gets_it_too(broker, live, tmp_path):
    out = tmp_path / "seen"
    broker.produce(TOPIC, 0, b"x", key=b"k", headers=[("h", b"v")], timestamp=5)
    life = live(processor_callable=decoding_processors.Note(str(out)), executor="process", worker_count=1)
    life.wait_committed(1)
    assert json.loads(out.read_text()) == ["x", "k", [["h", "v"]], TOPIC, 0, 0, 5]


def test_values_that_are_refused_are_not_handed_over(broker, live):
    seen: list[Message] = []

    def process(message: Message) -> None:
        seen.append(message)

    broker.produce_many(TOPIC, 0, [b"\xff", b"x" * 100, b"good"])
    life = live(processor_callable=process, max_message_size=50)
    life.wait_committed(3)
    assert [message.value for message in seen] == [b"good"]
    assert sorted(row["error_type"] for row in life.dead_letters()) == ["MessageTooLargeError", "UnicodeDecodeError"]


def by_name(message: Message, extra: int = 0) -> None: ...
def plain(value: bytes) -> None: ...
def bare(value) -> None: ...
def stranger(message: "threading.Event") -> None: ...  # noqa: UP037 - likewise
def unknown(message: "somewhere.Message") -> None: ...  # type: ignore[name-defined] # noqa: F821, UP037 - imported for types alone


class Methods:
    def method(self, message: Message) -> None: ...
    def __call__(self, message: Message) -> None: ...


def test_who_wants_a_message():
    yes: list[Any] = [by_name, functools.partial(by_name, extra=1), Methods().method, Methods(), unknown]
    no: list[Any] = [plain, bare, stranger, bytes.decode, print, lambda value: value]
    assert [wants_message(processor) for processor in yes] == [True] * len(yes)
    assert [wants_message(processor) for processor in no] == [False] * len(no)


def test_a_message_of_the_same_name_from_elsewhere_is_none_of_ours():
    space: dict[str, Any] = {"Message": FakeMessage}
    exec("def process(message: 'Message'): ...", space)  # a module with another Message in it
    assert not wants_message(space["process"])


def test_a_message_made_by_hand_is_read_only_equal_and_pickles_and_shows_no_payload():
    message = Message(b"secret", key=b"k", headers=[("h", b"v")], topic="t", partition=1, offset=2, timestamp=3)
    assert pickle.loads(pickle.dumps(message)) == message
    assert message != Message(b"other", key=b"k", headers=[("h", b"v")], topic="t", partition=1, offset=2, timestamp=3)
    assert repr(message) == "Message(t-1@2)"
    with pytest.raises(AttributeError):
        message.value = b"x"  # type: ignore[misc]


# --- decode: json without a registry ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["thread", "asyncio"])
def test_json_is_decoded_and_what_is_none_goes_to_the_dead_letters_with_the_reason(broker, live, executor):
    collect = Collect()
    values = [b'{"id": 1}', b"{not json", b'"\xff"', b"[" * 100_000, None, b"7"]
    broker.produce_many(TOPIC, 0, values)
    life = live(
        processor_callable=collect.take_async if executor == "asyncio" else collect.take, decode="json", executor=executor,
        max_attempts=3, retry_backoff_seconds=0, worker_count=1,
    )  # fmt: skip
    life.wait_committed(6)
    assert collect.seen == [{"id": 1}, None, 7]
    rows = life.dead_letters()
    assert [(row["offset"], row["error_type"], row["attempts"]) for row in rows] == [
        (str(n), "DecodeError", "0") for n in (1, 2, 3)
    ]
    assert rows[0]["error_message"].startswith("the value can't be decoded as json: JSONDecodeError: ")
    assert rows[0]["value"] == "{not json", "expected the dead letter to hold the bytes as they came"


def test_a_processor_that_asks_for_the_message_gets_it_with_the_decoded_value(broker, live):
    seen: list[Message] = []

    def process(message: Message) -> None:
        seen.append(message)

    broker.produce(TOPIC, 0, b'{"id": 1}', key=b"k")
    live(processor_callable=process, decode="json").wait_committed(1)
    assert (seen[0].value, seen[0].key, seen[0].offset) == ({"id": 1}, b"k", 0)


def test_the_processors_own_error_is_a_failed_call(broker, live):
    def process(value: Any) -> None:
        raise DecodeError("this is the processor's own")

    def fails(value: Any) -> None:
        raise KeyError("id")

    broker.produce(TOPIC, 0, b"{}")
    life = live(processor_callable=fails, decode="json", max_attempts=2, retry_backoff_seconds=0)
    life.wait_committed(1)
    assert [(row["error_type"], row["attempts"]) for row in life.dead_letters()] == [("KeyError", "2")]


def test_worker_processes_decode_for_themselves(broker, live, tmp_path):
    out = tmp_path / "seen"
    broker.produce_many(TOPIC, 0, [b'{"id": 1}', b"{"])
    life = live(processor_callable=decoding_processors.Note(str(out)), decode="json", executor="process", worker_count=1)
    life.wait_committed(2)
    assert json.loads(out.read_text())[0] == {"id": 1}
    assert [(row["error_type"], row["attempts"]) for row in life.dead_letters()] == [("DecodeError", "0")]


def test_raw_hands_over_the_bytes_themselves(tmp_path):
    state = make_state(tmp_path, processor_callable=plain)
    assert (state.processor, state.takes_messages) == (plain, False)


# --- decode: with a registry ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["thread", "asyncio"])
def test_avro_is_decoded_with_the_writers_schema_which_is_asked_for_once(broker, live, registry, executor):
    collect = Collect()
    for number in range(20):
        broker.produce(TOPIC, number % 3, avro(id=200 + number, customer="é"))
    broker.produce(TOPIC, 0, None)
    life = live(
        processor_callable=collect.take_async if executor == "asyncio" else collect.take, decode="avro", executor=executor,
        schema_registry_url=registry.url,
    )  # fmt: skip
    eventually(lambda: len(collect.seen) == 21)
    assert sorted(value["id"] for value in collect.seen if value) == list(range(200, 220))
    assert collect.seen.count(None) == 1
    assert collect.seen[0] == {"id": collect.seen[0]["id"], "customer": "é"}
    assert life.dead_letters() == []
    assert len(registry.asked) <= 2 * life.consumer.config.worker_count, "expected the schema to be kept"


@pytest.mark.parametrize("executor", ["thread", "asyncio"])
def test_a_schema_that_is_known_needs_no_registry_in_any_thread(broker, live, registry, executor):
    collect = Collect()
    broker.produce(TOPIC, 0, avro(id=1, customer="c"))
    life = live(
        processor_callable=collect.take_async if executor == "asyncio" else collect.take, decode="avro", executor=executor,
        schema_registry_url=registry.url,
    )  # fmt: skip
    life.wait_committed(1)
    registry.status = 503
    asked = len(registry.asked)
    for partition in range(3):
        for number in range(10):
            broker.produce(TOPIC, partition, avro(id=number, customer="c"))
    life.wait_committed(11)
    eventually(lambda: len(collect.seen) == 31)
    assert len(registry.asked) == asked


def test_what_is_not_avro_and_a_schema_that_does_not_exist_are_dead_letters_and_the_processor_is_not_called(
    broker, live, registry
):
    collect = Collect()
    broker.produce_many(TOPIC, 0, [b"plain text", framed(1, b"\xff"), framed(99, b"x"), b"", avro(id=1, customer="c")])
    life = live(
        processor_callable=collect.take, decode="avro", schema_registry_url=registry.url, max_attempts=3, retry_backoff_seconds=0
    )
    life.wait_committed(5)
    assert collect.seen == [{"id": 1, "customer": "c"}]
    rows = sorted(life.dead_letters(), key=lambda row: row["offset"])
    assert [(row["offset"], row["error_type"], row["attempts"]) for row in rows] == [
        (str(n), "DecodeError", "0") for n in range(4)
    ]
    assert "Schema 99 not found" in rows[2]["error_message"]


def test_json_with_a_registry_is_validated(broker, live, registry):
    collect = Collect()
    broker.produce_many(TOPIC, 0, [framed(2, b'{"id": 5}'), framed(2, b'{"id": "five"}')])
    life = live(processor_callable=collect.take, decode="json", schema_registry_url=registry.url)
    life.wait_committed(2)
    assert collect.seen == [{"id": 5}]
    (row,) = life.dead_letters()
    assert row["error_type"] == "DecodeError"
    assert "five" in row["error_message"]


def test_protobuf_is_decoded_into_the_class(broker, live, registry):
    from tests.protobuf_order import ORDER_INDEX, Order

    collect = Collect()
    good = ORDER_INDEX + Order(customer="é").SerializeToString()
    broker.produce_many(TOPIC, 0, [framed(3, good), framed(3, ORDER_INDEX + b"\xff\xff"), None])
    life = live(
        processor_callable=collect.take, decode="protobuf", schema_registry_url=registry.url,
        protobuf_type="tests.protobuf_order:Order", worker_count=1,
    )  # fmt: skip
    life.wait_committed(3)
    assert [value if value is None else (type(value), value.customer) for value in collect.seen] == [(Order, "é"), None]
    assert [row["error_type"] for row in life.dead_letters()] == ["DecodeError"]


@pytest.mark.parametrize("status", [500, 503, 401, 429])
def test_a_registry_that_cannot_answer_is_waited_for_and_costs_no_message(broker, live, registry, log, status):
    collect = Collect()
    registry.status = status
    broker.produce(TOPIC, 0, avro(id=1, customer="c"))
    life = live(processor_callable=collect.take, decode="avro", schema_registry_url=registry.url)
    eventually(lambda: len(registry.asked) >= 2)
    assert (collect.seen, life.dead_letters()) == ([], [])
    registry.status = None
    life.wait_committed(1)
    assert collect.seen == [{"id": 1, "customer": "c"}]
    assert sum("the schema registry can't be asked" in line for line in log()) == 1
    assert any("the schema registry answers again" in line for line in log())


def test_a_registry_that_stays_away_is_a_failed_attempt_in_the_end(broker, live, registry, monkeypatch):
    monkeypatch.setattr(decoding, "PATIENCE_SECONDS", 0.5)
    collect = Collect()
    registry.close()
    broker.produce_many(TOPIC, 0, [avro(id=1, customer="c")] * 3)
    life = live(
        processor_callable=collect.take, decode="avro", schema_registry_url=registry.url, max_attempts=2, retry_backoff_seconds=0
    )
    life.wait_committed(3)
    assert collect.seen == []
    assert {(row["error_type"], row["attempts"]) for row in life.dead_letters()} == {("RegistryUnavailableError", "2")}


def test_an_event_loop_is_not_blocked_while_the_registry_is_waited_for(broker, live, registry, log):
    collect = Collect()
    registry.status = 503
    broker.produce(TOPIC, 0, avro(id=1, customer="c"))
    broker.produce(TOPIC, 1, None)
    life = live(processor_callable=collect.take_async, decode="avro", schema_registry_url=registry.url)
    life.wait_committed(1, 1)
    assert collect.seen == [None], "expected the tombstone to pass the message that waits"
    registry.status = None
    life.wait_committed(1)
    assert not any("the event loop is blocked" in line for line in log())


def test_worker_processes_have_a_registry_client_of_their_own(broker, live, registry, tmp_path):
    out = tmp_path / "seen"
    broker.produce(TOPIC, 0, avro(id=3, customer="c"))
    life = live(
        processor_callable=decoding_processors.Note(str(out)), decode="avro", schema_registry_url=registry.url,
        executor="process", worker_count=1,
    )  # fmt: skip
    life.wait_committed(1)
    assert json.loads(out.read_text())[0] == {"id": 3, "customer": "c"}


def test_the_login_goes_to_the_registry_and_nowhere_else(broker, live, registry, log):
    login = {"schema.registry.basic.auth.user.info": "kc:hunter2hunter2"}
    broker.produce_many(TOPIC, 0, [avro(id=1, customer="c"), framed(99, b"x")])
    life = live(processor_callable=Collect().take, decode="avro", schema_registry_url=registry.url, kafka_options=login)
    life.wait_committed(2)
    assert set(registry.logins) == {"Basic a2M6aHVudGVyMmh1bnRlcjI="}
    assert not [name for name in client_options(life.consumer.config) if name.startswith("schema")]
    shown = "\n".join([*log(), repr(life.consumer.config), repr(life.state.processor), json.dumps(life.dead_letters())])
    assert "hunter2" not in shown
    assert "a2M6" not in shown


def test_a_redactor_finds_the_registrys_login_in_any_shape():
    redact = Redactor({"schema.registry.basic.auth.user.info": "kc:hunter2hunter2"}).redact
    for text in ("kc:hunter2hunter2", "password hunter2hunter2!", "Basic a2M6aHVudGVyMmh1bnRlcjI="):
        assert "[hidden]" in redact(text), text


# --- configuration ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"decode": "avro"}, "schema_registry_url: missing; decode=avro needs it"),
        ({"schema_registry_url": "http://r"}, "schema_registry_url: expected decode with it, got decode=raw, which asks nobody"),
        (
            {"decode": "protobuf", "schema_registry_url": "http://r"},
            "protobuf_type: expected 'module:Class' with decode=protobuf",
        ),
        ({"protobuf_type": "a:B"}, "protobuf_type: expected 'module:Class' with decode=protobuf, and only then; decode=raw"),
        ({"decode": "xml"}, "decode: expected one of raw, json, avro, protobuf, got 'xml'"),
        ({"decode": "avro", "schema_registry_url": "registry:8081"}, "schema_registry_url: expected None or http://HOST:PORT"),
        ({"kafka_options": {"schema.registry.url": "http://r"}}, "use the option schema_registry_url"),
    ],
)
def test_what_makes_no_sense_is_told(tmp_path, options, problem):
    with pytest.raises(ConfigError) as raised:
        make_config(tmp_path, **options)
    assert problem in str(raised.value)


def test_a_url_with_a_password_is_refused_without_being_shown(tmp_path):
    with pytest.raises(ConfigError) as raised:
        make_config(tmp_path, decode="avro", schema_registry_url="http://kc:hunter2@registry")
    assert "without a user" in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_without_the_extra_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^decode=avro needs httpx2: install the extra, kc\[decode\]$"):
        make_state(tmp_path, decode="avro", schema_registry_url="http://127.0.0.1:1")
    assert make_state(tmp_path, decode="json").takes_messages, "expected JSON without a registry to need nothing"


def test_options_that_the_registrys_client_refuses_are_told_at_the_start(tmp_path, registry):
    with pytest.raises(ConfigError, match=r"^schema registry: ") as raised:
        make_state(
            tmp_path,
            decode="avro",
            schema_registry_url=registry.url,
            kafka_options={"schema.registry.nonsense": "hunter2hunter2"},
        )
    assert "hunter2" not in str(raised.value)
    with pytest.raises(ConfigError, match="protobuf_type: expected"):
        make_state(tmp_path, decode="protobuf", schema_registry_url=registry.url, protobuf_type="json:dumps")


def test_a_decoder_shows_nothing_of_its_settings():
    assert repr(Decoder("avro", {"url": "http://r", "basic.auth.user.info": "a:hunter2"}, None)) == "Decoder('avro')"
