"""``kc-tui --web``: the attached console for browsers on this machine.

The port is open to every user of the machine and, through a browser, to every page it visits; the control socket is not. So a
browser must bring the key from the address that is printed, and requests that another site or host name makes are refused.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable

import click
from aiohttp import web
from textual_serve.server import Server

from kafka_consumer.logs import setup_logging

COOKIE = "kc-console"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ConsoleServer(Server):
    """Serves one console to each browser that has the key."""

    def __init__(self, command: str, port: int) -> None:
        super().__init__(command, host="127.0.0.1", port=port, title="kc")
        self.key = secrets.token_urlsafe(24)
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self.public_url = f"http://127.0.0.1:{port}"

    @property
    def address(self) -> str:
        """What to open in the browser."""
        return f"{self.public_url}/?key={self.key}"

    def initialize_logging(self) -> None:
        """Log as kc does: textual-serve would print the values of variables with a traceback."""
        setup_logging("WARNING")
        # The requests' lines hold the key.
        logging.getLogger("aiohttp.access").disabled = True

    async def _make_app(self) -> web.Application:
        # textual-serve makes the application and takes no middleware itself.
        app = await super()._make_app()

        @web.middleware
        async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._admit(request, handler)

        app.middlewares.append(admit)
        return app

    async def _admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if request.host not in self.hosts or (origin is not None and origin not in {f"http://{host}" for host in self.hosts}):
            raise web.HTTPForbidden(text="this console answers its own pages alone")
        brought = request.query.get("key", "")
        given = (brought, request.cookies.get(COOKIE, ""))
        if not any(hmac.compare_digest(key.encode(), self.key.encode()) for key in given):
            raise web.HTTPForbidden(text="open the address that kc-tui printed: it holds the key")
        response = await handler(request)
        if brought and not response.prepared:
            response.set_cookie(COOKIE, self.key, httponly=True, samesite="Strict")
        return response

    async def on_startup(self, app: web.Application) -> None:
        """Say where it is."""
        click.echo(f"the console is at {self.address}\nctrl+c ends it")
