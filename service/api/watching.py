"""Waiting for a job to change: one look at the database for all who wait, and nobody kept waiting by a stop."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from service.jobs.store import StoreError

LOOK_SECONDS = 0.25
"""How late a change is heard; one read of an index for all who wait."""

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Waiter:
    job_id: str
    seen: int
    called: asyncio.Event


class Watch:
    """Tells waiting requests of this process when jobs change; `change` belongs to the event loop.

    Parameters
    ----------
    revisions
        `Store.revisions`: the current revision of each job.
    """

    def __init__(self, revisions: Callable[[Iterable[str]], dict[str, int]]) -> None:
        self._revisions = revisions
        self._waiters: set[_Waiter] = set()
        self._looking: asyncio.Task[None] | None = None
        self.is_closed = False

    async def change(self, job_id: str, seen: int, seconds: float) -> bool:
        """Wait until the job's revision is another than `seen`, or the job is gone.

        Returns
        -------
        bool
            False where that took longer than `seconds`, or the service stops.
        """
        waiter = _Waiter(job_id, seen, asyncio.Event())
        self._waiters.add(waiter)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(seconds):
                await waiter.called.wait()
        except TimeoutError:
            return False
        finally:
            self._waiters.discard(waiter)
        return not self.is_closed

    def close(self) -> None:
        """Let everybody go who waits; callable from a signal's handler."""
        self.is_closed = True

    async def _look(self) -> None:
        while self._waiters:
            try:
                found = await run_in_threadpool(self._revisions, {waiter.job_id for waiter in self._waiters})
            except StoreError:
                log.warning("who waits for a job hears nothing: the database does not answer")
                found = {waiter.job_id: waiter.seen for waiter in self._waiters}
            for waiter in self._waiters:
                if self.is_closed or found.get(waiter.job_id, -1) != waiter.seen:
                    waiter.called.set()
            await asyncio.sleep(LOOK_SECONDS)
