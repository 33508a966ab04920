"""One look for all who ask for the same thing at the same time: it runs once, in one thread, however many wait."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

Found = TypeVar("Found")


async def in_own_thread(work: Callable[[], Found]) -> Found:
    """Call in a thread that is started for it: none of the pool's, which all may wait for a lock."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[Found] = loop.create_future()

    def settle(act: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(lambda: None if found.done() else act())

    def run() -> None:
        try:
            made = work()
        except Exception as error:  # noqa: BLE001 - it is the caller's
            settle(lambda raised=error: found.set_exception(raised))  # type: ignore[misc]
        else:
            settle(lambda: found.set_result(made))

    threading.Thread(target=run, daemon=True).start()  # what hangs must not hold up the end of the process
    return await found


class SharedCall(Generic[Found]):
    """Shares looks among those who ask; belongs to the event loop.

    A look that is under way may have begun before what its caller wants to see: who asks meanwhile waits for the next.

    Parameters
    ----------
    look
        Called in a thread, and never by two at once.
    run
        Calls it there.
    """

    def __init__(
        self, look: Callable[[], Found], run: Callable[[Callable[[], Found]], Awaitable[Found]] = run_in_threadpool
    ) -> None:
        self._look, self._run = look, run
        self._running: asyncio.Task[Found] | None = None
        self._next: asyncio.Task[Found] | None = None

    async def look(self) -> Found:
        """What a look finds that begins now or later; raises what it raises."""
        if self._next is None or self._next.done():
            self._next = asyncio.create_task(self._in_turn())
            self._next.add_done_callback(_heard)
        return await asyncio.shield(self._next)  # one who goes away does not end it for the others

    async def _in_turn(self) -> Found:
        if self._running is not None and not self._running.done():
            await asyncio.wait([self._running])
        self._running, self._next = self._next, None
        return await self._run(self._look)


def _heard(look: "asyncio.Task[Found]") -> None:
    """Take note of an error: asyncio would report it as never retrieved where all who asked have gone away."""
    if not look.cancelled():
        look.exception()
