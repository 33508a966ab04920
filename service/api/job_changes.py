"""Polls the database once for all waiting requests and streams, and releases them at shutdown.

Each change is encoded once for all streams: encoding takes 50 µs, and 200 streams of 1,000 changes each would block
the event loop for ten seconds.
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

POLL_SECONDS = 0.25
"""Maximum delay of a change. Each poll is one or two index reads."""
_BATCH_SIZE = 500
"""Maximum number of changes per poll; if there are more, the next poll follows immediately."""

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Waiter:
    job_id: str
    revision: int
    ready: asyncio.Event


@dataclass(frozen=True, slots=True)
class JobEvent:
    """A change of a job, and the server-sent event that announces it."""

    number: int
    job: Job
    data: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The unfinished jobs at one moment, oldest change first.

    Attributes
    ----------
    number
        Number of the last change that is included. A subscription that starts there misses no change.
    """

    number: int
    events: tuple[JobEvent, ...] = ()


@dataclass(eq=False, slots=True)
class Subscription:
    """Receives the changes of matching jobs; keeps the latest pending event of each job.

    Attributes
    ----------
    last_number
        Number of the last change that it was given.
    """

    last_number: int
    matches: Callable[[Job], bool]
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    pending: dict[str, JobEvent] = field(default_factory=dict)

    def add(self, events: list[JobEvent]) -> None:
        """Queue the events that are new and match."""
        for event in events:
            if event.number > self.last_number and self.matches(event.job):
                self.pending.pop(event.job.id, None)  # keeps the pending events ordered by number
                self.pending[event.job.id] = event
                self.ready.set()
        self.last_number = max(self.last_number, events[-1].number if events else 0)


class JobChanges:
    """Notifies the requests of this process when jobs change. All methods but `close` belong to the event loop.

    It keeps the last `Snapshot`, about 3 kB per job.

    Parameters
    ----------
    encode
        Encodes a change as a server-sent event; runs in threads.
    """

    def __init__(self, store: Store, encode: Callable[[Change], bytes]) -> None:
        self._store, self._encode = store, encode
        self._last_snapshot = Snapshot(-1)
        self._shared_snapshot = SharedCall(self._read_snapshot)
        self._waiters: set[_Waiter] = set()
        self._subscriptions: set[Subscription] = set()
        self._poll_task: asyncio.Task[None] | None = None
        self.is_closed = False

    async def wait_for_change(self, job_id: str, revision: int, seconds: float) -> bool:
        """Wait until the job's revision differs from `revision`, or the job no longer exists.

        Returns
        -------
        bool
            False if that took longer than `seconds`, or the service is shutting down.
        """
        waiter = _Waiter(job_id, revision, asyncio.Event())
        self._waiters.add(waiter)
        try:
            return await self._wait(waiter.ready, seconds) and not self.is_closed
        finally:
            self._waiters.discard(waiter)

    @contextmanager
    def subscribe(self, after: int, matches: Callable[[Job], bool]) -> Iterator[Subscription]:
        """Subscribe to the changes after the one with that number."""
        subscription = Subscription(after, matches)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    async def snapshot(self) -> Snapshot:
        """Return the unfinished jobs. Concurrent callers share one read, which starts after they called."""
        return await self._shared_snapshot()

    async def next_events(self, subscription: Subscription, seconds: float) -> list[JobEvent]:
        """Wait for events; empty after `seconds` without one, or when the service is shutting down."""
        await self._wait(subscription.ready, seconds)
        subscription.ready.clear()
        events = list(subscription.pending.values())
        subscription.pending.clear()
        return events

    def close(self) -> None:
        """Release all waiting requests; safe to call from a signal handler."""
        self.is_closed = True

    async def _wait(self, ready: asyncio.Event, seconds: float) -> bool:
        if self._poll_task is None or self._poll_task.done():
            self._poll_task = asyncio.create_task(self._poll())
        try:
            async with asyncio.timeout(seconds):
                await ready.wait()
        except TimeoutError:
            return False
        return True

    async def _poll(self) -> None:
        while self._waiters or self._subscriptions:
            # Copies: waiters that are added during this read are notified after the next read.
            waiters, subscriptions = tuple(self._waiters), tuple(self._subscriptions)
            revisions, events = await run_in_threadpool(self._read, waiters, subscriptions)
            for waiter in waiters:
                if revisions.get(waiter.job_id, -1) != waiter.revision:
                    waiter.ready.set()
            for subscription in subscriptions:
                subscription.add(events)
                if events:
                    await asyncio.sleep(0)  # 500 events for 200 subscriptions take a tenth of a second
            if self.is_closed:
                for ready in [waiter.ready for waiter in self._waiters] + [one.ready for one in self._subscriptions]:
                    ready.set()
            await asyncio.sleep(POLL_SECONDS if len(events) < _BATCH_SIZE else 0)

    def _read(
        self, waiters: tuple[_Waiter, ...], subscriptions: tuple[Subscription, ...]
    ) -> tuple[dict[str, int], list[JobEvent]]:
        try:
            job_ids = {waiter.job_id for waiter in waiters}
            revisions = self._store.revisions(job_ids) if job_ids else {}
            after = min((subscription.last_number for subscription in subscriptions), default=None)
            changes = [] if after is None else self._store.changes(after, _BATCH_SIZE)
            events = [self._event(change) for change in changes]
        except StoreError:
            log.warning("job changes can't be read: the database does not answer")
            return {waiter.job_id: waiter.revision for waiter in waiters}, []
        return revisions, events

    def _read_snapshot(self) -> Snapshot:
        """Return the last snapshot if nothing has changed since; runs in one thread at a time."""
        number = self._store.last_change()
        if number != self._last_snapshot.number:
            encoded = {event.number: event for event in self._last_snapshot.events}
            events = tuple(encoded.get(change.number) or self._event(change) for change in self._store.unfinished())
            self._last_snapshot = Snapshot(max([number, *(event.number for event in events)]), events)
        return self._last_snapshot

    def _event(self, change: Change) -> JobEvent:
        return JobEvent(change.number, change.job, self._encode(change))
