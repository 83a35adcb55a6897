from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from kafka_consumer.control import serve
from tests.tui.terminals import ROOT
from tests.tui.test_feeds import FakeConsumer, until

aiohttp = pytest.importorskip("aiohttp")
pytest.importorskip("textual_serve")

from tests.tui.browser import CHROMIUM, MISSING, SECONDS, page_of, running_browser  # noqa: E402 - needs aiohttp


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def web(tmp_path):
    consumer = FakeConsumer()
    path = str(tmp_path / "orders.sock")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with serve(consumer, path):
        process = subprocess.Popen(
            [sys.executable, "-m", "tui.cli", "--web", "--web-port", str(port), "--attach", path],
            stdout=subprocess.PIPE, env=environ, cwd=ROOT, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            found = re.search(r"(http://127\.0\.0\.1:\d+)/\?key=(\S+)", line)
            assert found, line
            until(lambda: answers(port))
            yield found[1], found[2], consumer
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10)
            finally:
                process.kill()
                process.wait(10)
                process.stdout.close()


async def test_a_browser_with_the_key_sees_the_console_and_can_not_act(web):
    address, key, consumer = web
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        async with browser.get(f"{address}/?key={key}") as page:
            assert page.status == 200
        shown = b""
        async with browser.ws_connect(f"{address}/ws?width=120&height=36", origin=address) as console:
            pressed = False
            async with asyncio.timeout(30):
                while b"refused" not in shown:
                    message = await console.receive()
                    assert message.type not in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED), shown[-500:]
                    if message.type == aiohttp.WSMsgType.BINARY:
                        shown += message.data
                    if b"RUNNING" in shown and not pressed:
                        pressed = True
                        await console.send_json(["stdin", "p"])
    assert b"read-only" in shown
    assert consumer.calls == []


@pytest.mark.parametrize("path", ["/", "/ws", "/?key=guess", "/static/js/textual.js"])
async def test_without_the_key_nothing_is_served(web, path):
    address, _, _ = web
    async with aiohttp.ClientSession() as browser, browser.get(f"{address}{path}") as answer:
        assert answer.status == 403


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}])
async def test_another_site_is_refused_even_with_the_key(web, headers):
    address, key, _ = web
    async with aiohttp.ClientSession() as browser, browser.get(f"{address}/ws?key={key}", headers=headers) as answer:
        assert answer.status == 403


@pytest.fixture
def browser(tmp_path):
    with running_browser(tmp_path / "profile") as port:
        yield port


@pytest.mark.skipif(CHROMIUM is None, reason=MISSING)
async def test_a_real_browser_draws_the_console_and_can_not_act(web, browser):
    address, key, consumer = web
    async with page_of(browser) as page:
        await page.open(f"{address}/?key={key}")
        await page.until(lambda: b"RUNNING" in page.received)
        drawn = [len(await page.colours())]
        async with asyncio.timeout(SECONDS):
            # What has come is drawn a moment later. Before, the page has its background and a spinner of a few colours.
            while not await page.evaluate("document.body.classList.contains('-first-byte')") or drawn[-1] < 50:
                await asyncio.sleep(0.1)
                drawn.append(len(await page.colours()))
        colours = await page.colours()
        ink = 1 - max(colours.values()) / sum(colours.values())
        assert 0.02 < ink < 0.6, f"expected text on a background, got {ink:.1%} of the picture in other colours"

        seen = len(page.received)
        await page.click(700, 300)
        await page.press("p")
        await page.until(lambda: b"refused" in page.received[seen:])
        assert b"read-only" in page.received
        assert consumer.calls == []

        await page.press("?")
        await page.until(lambda: b"All keys, and what they do" in page.received[seen:])
