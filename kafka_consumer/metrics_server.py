"""``--metrics-port``: a small HTTP server with ``/metrics``, ``/livez`` and ``/readyz``.

It has threads of its own and asks the consumer what anybody may ask, so a scrape, a slow client or a hundred of them cost the
consumer a snapshot at a time at the most. Read only; it knows no option's value, so it can't tell one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from kafka_consumer.errors import ConfigError
from kafka_consumer.health import Watched, not_live, not_ready
from kafka_consumer.snapshot import sanitise

if TYPE_CHECKING:
    from kafka_consumer.kafka_consumer import KafkaConsumer

CLIENT_SECONDS = 5.0  # what a client may take to say what it wants, and to take what it gets
CLIENTS = 16  # served at the same time; one more is turned away
SCRAPE_SECONDS = 5.0  # how long a scrape waits for the one before it
WATCHED_SECONDS = 300.0  # after a scrape the lag is kept fresh for as long: scrapers come again
LOOK_SECONDS = 5.0

TEXT = "text/plain; charset=utf-8"

logger = logging.getLogger("kafka_consumer.metrics")


class MetricsServer(ThreadingHTTPServer):
    """Serves one consumer. Errors: ``ConfigError`` when prometheus-client is missing or the port can't be had."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, consumer: KafkaConsumer, address: str, port: int) -> None:
        if importlib.util.find_spec("prometheus_client") is None:
            raise ConfigError("--metrics-port needs prometheus-client: install the extra, kc[metrics]")
        from prometheus_client.exposition import choose_encoder

        from kafka_consumer.metrics import registry_of

        self.consumer = consumer
        self._registry = registry_of(consumer)
        self._encoder_for = choose_encoder
        self._scraping = threading.Lock()
        self._scraped_at = self._looked_at = float("-inf")  # monotonic
        self._places = threading.BoundedSemaphore(CLIENTS)
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            super().__init__((address, port), _Handler)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "no address of this machine"
            raise ConfigError(f"--metrics-port: can't listen on {address!r}, port {port}: {reason}") from None

    def server_bind(self) -> None:
        """Bind, without asking DNS for the machine's name, which may take long."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    # --- the server's thread --------------------------------------------------------------------------------------------------

    def service_actions(self) -> None:
        """Keep the high watermarks fresh between scrapes; without it the first scrape after a pause would tell an old lag."""
        now = time.monotonic()
        if now - self._scraped_at <= WATCHED_SECONDS and now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self.consumer.look()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a client in a thread of its own, if there is a place."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    # --- a client's thread ----------------------------------------------------------------------------------------------------

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a client."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class's signature
        """A client that has gone, or a defect of ours: a line, never on stderr."""
        logger.debug("a client of the metrics server wasn't served: %s", type(sys.exception()).__name__)

    def scrape(self, accept: str) -> tuple[int, str, bytes]:
        """Return the answer to a scrape: status, type, body."""
        if not self._scraping.acquire(timeout=SCRAPE_SECONDS):
            return 503, TEXT, b"another scrape takes too long\n"
        try:
            self._scraped_at = time.monotonic()
            encode, kind = self._encoder_for(accept)
            return 200, kind, encode(self._registry)
        finally:
            self._scraping.release()


class _Handler(BaseHTTPRequestHandler):
    """One request of one client; the connection ends with it."""

    server: MetricsServer
    timeout = CLIENT_SECONDS
    server_version = "kc"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Answer without the body."""
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        try:
            status, kind, content = self._find(self.path.partition("?")[0])
        except Exception:
            logger.exception("%s can't be answered", sanitise(self.path, 100))
            status, kind, content = 500, TEXT, b"this can't be answered; the log says why\n"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _find(self, path: str) -> tuple[int, str, bytes]:
        if path == "/metrics":
            return self.server.scrape(self.headers.get("Accept", ""))
        if path in _CHECKS:
            reason = _CHECKS[path](self.server.consumer)
            text = "ok" if reason is None else sanitise(reason)
            return 200 if reason is None else 503, TEXT, f"{text}\n".encode()
        return 404, TEXT, b"/metrics, /livez, /readyz\n"

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base class's signature
        """Each request is worth a line at DEBUG at the most; the path is the client's, and may hold anything."""
        logger.debug("%s %s", self.address_string(), sanitise(format % arguments, 200))


_CHECKS: dict[str, Callable[[Watched], str | None]] = {"/livez": not_live, "/readyz": not_ready}


@contextlib.contextmanager
def serve_metrics(consumer: KafkaConsumer, address: str, port: int | None) -> Iterator[MetricsServer | None]:
    """Serve metrics and health while the context is open; not at all without a port. Errors: ``ConfigError``."""
    if port is None:
        yield None
        return
    server = MetricsServer(consumer, address, port)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    host = f"[{address}]" if ":" in address else address
    logger.info("metrics: http://%s:%d/metrics", host, server.server_port)
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(CLIENT_SECONDS)
