"""A real browser: Chromium without a window, steered over its own protocol (DevTools)."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
# For each thing that is waited for: a browser that draws without a graphics card takes long on a busy machine.
SECONDS = 60.0
MISSING = f"none of {', '.join(NAMES)} is on PATH"

# The page is drawn on a canvas, so what is seen of it are pixels: how many of the picture's have a colour, by colour.
COLOURS = """
(async () => {
  const found = await fetch("data:image/png;base64,%s");
  const picture = await createImageBitmap(await found.blob());
  const canvas = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
  canvas.drawImage(picture, 0, 0);
  const counts = {};
  for (const pixel of new Uint32Array(canvas.getImageData(0, 0, picture.width, picture.height).data.buffer))
    counts[pixel] = (counts[pixel] || 0) + 1;
  return JSON.stringify(counts);
})()
"""


class Page:
    """A page of the browser. Used by one task at a time."""

    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self.received = b""
        """What came over the page's own WebSockets so far."""

    async def open(self, address: str) -> None:
        """Go to an address."""
        await self.call("Network.enable")
        await self.call("Page.enable")
        answer = await self.call("Page.navigate", url=address)
        assert "errorText" not in answer, answer

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Have the browser do something and return its answer."""
        number = next(self._numbers)
        await self._connection.send_json({"id": number, "method": method, "params": params})
        while (message := await self._next()).get("id") != number:
            pass
        assert "error" not in message, message
        found: dict[str, Any] = message["result"]
        return found

    async def evaluate(self, script: str) -> Any:
        """Return what a script in the page gives."""
        answer = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, condition: Callable[[], bool], seconds: float = SECONDS) -> None:
        """Wait until something is true of what came over the page's WebSockets."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    await self._next()
        except TimeoutError:
            raise AssertionError(f"it didn't happen in time; the last that came: {self.received[-500:]!r}") from None

    async def click(self, x: int, y: int) -> None:
        """Click there; the keyboard is the terminal's from then on."""
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def press(self, key: str) -> None:
        """Type a character."""
        await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key, windowsVirtualKeyCode=ord(key.upper()))
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def colours(self) -> dict[int, int]:
        """Return how many pixels of what is seen now have which colour."""
        picture = (await self.call("Page.captureScreenshot", format="png"))["data"]
        counts = json.loads(await self.evaluate(COLOURS % picture))
        return {int(colour): count for colour, count in counts.items()}

    async def _next(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads((await self._connection.receive(timeout=SECONDS)).data)
        if message.get("method") == "Network.webSocketFrameReceived":
            frame = message["params"]["response"]
            self.received += base64.b64decode(frame["payloadData"]) if frame["opcode"] == 2 else frame["payloadData"].encode()
        return message


@contextmanager
def running_browser(folder: Path, size: tuple[int, int] = (1400, 900)) -> Iterator[int]:
    """Start a browser that reaches this machine alone, with its files in ``folder``; give the port to steer it by."""
    assert CHROMIUM is not None, MISSING
    options = [
        "--headless", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage", "--no-first-run",
        "--remote-debugging-port=0", f"--window-size={size[0]},{size[1]}", f"--user-data-dir={folder}",
        # The test is about what kc serves: nothing is fetched from elsewhere.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        # Chromium's own sandbox refuses root, as whom containers run tests.
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
    ]  # fmt: skip
    process = subprocess.Popen(
        [CHROMIUM, *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        told = folder / "DevToolsActivePort"
        deadline = time.monotonic() + SECONDS
        while len(words := told.read_text(encoding="utf-8").split() if told.exists() else []) < 2:
            assert process.poll() is None, f"{CHROMIUM} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{CHROMIUM} didn't start in time"
            time.sleep(0.05)
        yield int(words[0])
    finally:
        # It is the leader of its own group: its helpers end with it.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@asynccontextmanager
async def page_of(port: int) -> AsyncIterator[Page]:
    """Steer the one page of a running browser."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            pages = [found for found in await answer.json() if found["type"] == "page"]
        async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as connection:
            yield Page(connection)
