"""The event loop of the coroutine executor: exact timers, a thread that survives what tasks raise, and where a coroutine is."""

from __future__ import annotations

import asyncio
import select
import selectors
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

EXACT_SECONDS = 0.05  # a wait that is longer than this may well be a millisecond late
FD_LIMIT = 1024  # select() takes no descriptor from here on
END_SECONDS = 2.0  # how long the end waits for tasks that were cancelled


def new_event_loop(kind: str = "asyncio") -> asyncio.AbstractEventLoop:
    """Return an event loop: "asyncio", its timers as exact as the system's, or "uvloop", at half the cost, exact to 1 ms."""
    if kind == "uvloop":
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        return loop
    epoll = getattr(selectors, "EpollSelector", None)
    if epoll is None or selectors.DefaultSelector is not epoll:
        return asyncio.new_event_loop()

    class ExactSelector(epoll):  # type: ignore[misc, valid-type]
        """epoll counts in milliseconds and rounds up: a wait of 5 ms takes 6. select() on epoll's own descriptor is exact."""

        def select(self, timeout: float | None = None) -> Any:
            """Return what is ready; wait up to ``timeout`` seconds (None: without end)."""
            if timeout is not None and 0 < timeout < EXACT_SECONDS and self.fileno() < FD_LIMIT:
                if not select.select((self,), (), (), timeout)[0]:
                    return []
                timeout = 0
            return super().select(timeout)

    return asyncio.SelectorEventLoop(ExactSelector())


class EventLoopThread:
    """An event loop in a thread of its own. ``stop`` belongs to the loop's thread; ``post`` may be called from any."""

    def __init__(
        self, name: str, begin: Callable[[], None], on_error: Callable[[str, BaseException | None], None], kind: str = "asyncio"
    ) -> None:
        self.loop = new_event_loop(kind)
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.ending = False  # the loop's thread: all tasks are being cancelled
        self._on_error = on_error  # told of what nobody else hears: what happened, and the exception if there is one
        self.loop.set_exception_handler(self._unheard)
        self.loop.call_soon(begin)

    def post(self, call: Callable[..., Any], *arguments: Any) -> bool:
        """Have the loop's thread call this; returns False when it has ended."""
        try:
            self.loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # closed
            return False
        return True

    def stop(self) -> None:
        """End it: whatever task is left is cancelled."""
        self.ending = True
        self.loop.stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self.ending:
            try:
                self.loop.run_forever()
            except BaseException as error:  # noqa: BLE001 - SystemExit from a task that the processor has made: the loop goes on
                self._on_error("a task ended with", error)
        try:
            self._cancel_tasks()
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        except BaseException as error:  # noqa: BLE001 - likewise, at the very end
            self._on_error("the event loop's end:", error)
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()

    def _cancel_tasks(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if not tasks:
            return
        _, deaf = self.loop.run_until_complete(asyncio.wait(tasks, timeout=END_SECONDS))
        if deaf:
            self._on_error(f"{len(deaf)} tasks don't end when they are cancelled: given up", None)

    def _unheard(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not self.ending:
            self._on_error(str(context.get("message")), context.get("exception"))

    def running_task(self) -> asyncio.Task[Any] | None:
        """Return the task that runs at this moment; from any thread."""
        return asyncio.current_task(self.loop)

    def frame(self) -> FrameType | None:
        """Return where the loop's thread is; from any thread."""
        ident = self.thread.ident
        return None if ident is None else sys._current_frames().get(ident)  # noqa: SLF001 - the documented way


def coroutine_stack(coroutine: Any) -> list[str]:
    """Return where a suspended coroutine is, outermost call first, without local variables: entries as of ``format_stack``.

    The task's own ``get_stack`` shows the outermost coroutine alone.
    """
    frames = []
    while coroutine is not None:
        # A coroutine, a generator, an asynchronous generator; whatever else it may wait for has no frame.
        frame = next((f for f in (getattr(coroutine, name, None) for name in ("cr_frame", "gi_frame", "ag_frame")) if f), None)
        if frame is None:
            break
        frames.append((frame, frame.f_lineno))
        names = ("cr_await", "gi_yieldfrom", "ag_await")
        coroutine = next((a for a in (getattr(coroutine, name, None) for name in names) if a is not None), None)
    return traceback.StackSummary.extract(iter(frames)).format()
