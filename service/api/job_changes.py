"""Hearing of changes: one look at the database for all who wait or listen, and nobody kept waiting by a stop.

What is told to many is written once: a change as JSON costs 50 µs, and 200 listeners to 1,000 jobs would hold up the
event loop for ten seconds.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from slidelift.service.api.shared_call import SharedCall
from slidelift.service.jobs.errors import StoreError
from slidelift.service.jobs.job import Job
from slidelift.service.jobs.store import Change, Store

LOOK_SECONDS = 0.25
"""How late a change is heard; one or two reads of an index for all."""
_CHANGES_AT_ONCE = 500
"""Jobs read in one look; where there are more, the next look comes at once."""

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Waiter:
    job_id: str
    seen: int
    called: asyncio.Event


@dataclass(frozen=True, slots=True)
class JobEvent:
    """A change, and the bytes by which all who listen are told of it."""

    number: int
    job: Job
    event: bytes


@dataclass(frozen=True, slots=True)
class Unfinished:
    """The jobs that had not ended at one moment, the longest unchanged first.

    Attributes
    ----------
    number
        Of the last change that is included: who listens from it on misses none.
    """

    number: int
    news: tuple[JobEvent, ...] = ()


@dataclass(eq=False, slots=True)
class Listener:
    """Who hears of all jobs of some kind; holds at most one untold change of each, the last.

    Attributes
    ----------
    heard
        The number of the change up to which it was told what there was.
    """

    heard: int
    wants: Callable[[Job], bool]
    called: asyncio.Event = field(default_factory=asyncio.Event)
    untold: dict[str, JobEvent] = field(default_factory=dict)

    def tell(self, changes: list[JobEvent]) -> None:
        """Note what is new to it."""
        for change in changes:
            if change.number > self.heard and self.wants(change.job):
                self.untold.pop(change.job.id, None)  # so that it comes last, as its number does
                self.untold[change.job.id] = change
                self.called.set()
        self.heard = max(self.heard, changes[-1].number if changes else 0)


class JobChanges:
    """Tells requests of this process when jobs change; all but `close` belongs to the event loop.

    It holds the last `Unfinished`, about 3 kB a job.

    Parameters
    ----------
    written
        Makes of a change the bytes that listeners are sent; called from threads.
    """

    def __init__(self, store: Store, written: Callable[[Change], bytes]) -> None:
        self._store, self._written = store, written
        self._unfinished = Unfinished(-1)
        self._beginnings = SharedCall(self._look_at_unfinished)
        self._waiters: set[_Waiter] = set()
        self._listeners: set[Listener] = set()
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
        try:
            return await self._called(waiter.called, seconds) and not self.is_closed
        finally:
            self._waiters.discard(waiter)

    @contextmanager
    def listening(self, after: int, wants: Callable[[Job], bool]) -> Iterator[Listener]:
        """Listen to jobs from the change of that number on."""
        listener = Listener(after, wants)
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    async def unfinished(self) -> Unfinished:
        """The jobs that have not ended; those who ask at the same time share one look, begun after they asked."""
        return await self._beginnings.look()

    async def news(self, listener: Listener, seconds: float) -> list[JobEvent]:
        """Wait for changes; none where that took longer than `seconds`, or the service stops."""
        await self._called(listener.called, seconds)
        listener.called.clear()
        told = list(listener.untold.values())
        listener.untold.clear()
        return told

    def close(self) -> None:
        """Let everybody go who waits; callable from a signal's handler."""
        self.is_closed = True

    async def _called(self, called: asyncio.Event, seconds: float) -> bool:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(seconds):
                await called.wait()
        except TimeoutError:
            return False
        return True

    async def _look(self) -> None:
        while self._waiters or self._listeners:
            # Who joins during the look is served by the next: this one does not know what they have seen.
            waiters, listeners = tuple(self._waiters), tuple(self._listeners)
            revisions, changes = await run_in_threadpool(self._read, waiters, listeners)
            for waiter in waiters:
                if revisions.get(waiter.job_id, -1) != waiter.seen:
                    waiter.called.set()
            for listener in listeners:
                listener.tell(changes)
                if changes:
                    await asyncio.sleep(0)  # 200 listeners to 500 changes take a tenth of a second
            if self.is_closed:
                for called in [one.called for one in self._waiters] + [one.called for one in self._listeners]:
                    called.set()
            await asyncio.sleep(LOOK_SECONDS if len(changes) < _CHANGES_AT_ONCE else 0)

    def _read(
        self, waiters: tuple[_Waiter, ...], listeners: tuple[Listener, ...]
    ) -> tuple[dict[str, int], list[JobEvent]]:
        try:
            wanted = {waiter.job_id for waiter in waiters}
            revisions = self._store.revisions(wanted) if wanted else {}
            oldest = min((listener.heard for listener in listeners), default=None)
            changes = [] if oldest is None else self._as_news(self._store.changes(oldest, _CHANGES_AT_ONCE))
        except StoreError:
            log.warning("who waits for jobs hears nothing: the database does not answer")
            return {waiter.job_id: waiter.seen for waiter in waiters}, []
        return revisions, changes

    def _look_at_unfinished(self) -> Unfinished:
        """What was found last, where nothing has changed since; called by one thread at a time."""
        number = self._store.last_change()
        if number != self._unfinished.number:
            found = self._store.unfinished()
            known = {one.number: one for one in self._unfinished.news}
            news = tuple(known.get(change.number) or self._as_news([change])[0] for change in found)
            self._unfinished = Unfinished(max([number, *(one.number for one in news)]), news)
        return self._unfinished

    def _as_news(self, changes: list[Change]) -> list[JobEvent]:
        return [JobEvent(change.number, change.job, self._written(change)) for change in changes]
