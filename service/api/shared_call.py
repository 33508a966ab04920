"""Runs one call for all concurrent requests that need the same result."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

Result = TypeVar("Result")


async def run_in_own_thread(function: Callable[[], Result]) -> Result:
    """Run in a new thread, because all threads of the shared pool may be waiting for a lock."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def complete(set_outcome: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: None if future.done() else set_outcome())

    def run() -> None:
        try:
            result = function()
        except Exception as error:  # noqa: BLE001 - the caller handles it
            complete(lambda raised=error: future.set_exception(raised))  # type: ignore[misc]
        else:
            complete(lambda: future.set_result(result))

    threading.Thread(target=run, daemon=True).start()  # daemon: a hanging call must not block the end of the process
    return await future


class SharedCall(Generic[Result]):
    """Shares the calls of a function among concurrent callers. Belongs to the event loop.

    A running call may miss recent changes, so a new caller never joins it but shares the next call.

    Parameters
    ----------
    function
        Runs in a thread, at most once at a time.
    run
        Runs it in a thread.
    """

    def __init__(
        self,
        function: Callable[[], Result],
        run: Callable[[Callable[[], Result]], Awaitable[Result]] = run_in_threadpool,
    ) -> None:
        self._function, self._run = function, run
        self._running: asyncio.Task[Result] | None = None
        self._next: asyncio.Task[Result] | None = None

    async def __call__(self) -> Result:
        """Return the result of a call that starts now or later; raises what the function raises."""
        if self._next is None or self._next.done():
            self._next = asyncio.create_task(self._run_next())
            self._next.add_done_callback(_retrieve_exception)
        return await asyncio.shield(self._next)  # a cancelled caller must not cancel the call for the others

    async def _run_next(self) -> Result:
        if self._running is not None and not self._running.done():
            await asyncio.wait([self._running])
        self._running, self._next = self._next, None
        return await self._run(self._function)


def _retrieve_exception(task: "asyncio.Task[Result]") -> None:
    """Mark the exception as retrieved; asyncio would log it if every caller had been cancelled."""
    if not task.cancelled():
        task.exception()
