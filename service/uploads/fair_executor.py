"""Runs work on threads: owners take turns, and slow work gives way to quick work."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any


class RequeuedError(Exception):
    """The work has become slow while the slow queue is full: it was queued there and will start again."""


Work = Callable[[Callable[[], None]], Any]
"""Work calls its argument repeatedly. The call may raise RequeuedError; the work must be able to start again."""


@dataclass(slots=True)
class _Task:
    """One piece of work; `started` is a time of the monotonic clock, `queue` the queue where it runs or waits."""

    owner: str | None
    work: Work
    done: "Future[Any]"
    queue: "WorkQueue"
    started: float = 0.0


@dataclass(slots=True)
class WorkQueue:
    """Running and waiting work: round robin over the owners, first in, first out for each owner.

    Attributes
    ----------
    max_running
        Limit of running tasks.
    max_per_owner
        Limit of running tasks of one owner.
    """

    max_running: int
    max_per_owner: int
    _waiting: dict[str | None, deque[_Task]] = field(default_factory=dict)
    _running: Counter[str | None] = field(default_factory=Counter)

    def add(self, task: _Task) -> None:
        """Append a task to the waiting ones."""
        task.queue = self
        self._waiting.setdefault(task.owner, deque()).append(task)

    def has_capacity(self, owner: str | None) -> bool:
        """Whether another task of the owner may run now."""
        return self._running.total() < self.max_running and self._running[owner] < self.max_per_owner

    def acquire(self, task: _Task) -> None:
        """Count a task as running."""
        task.queue = self
        self._running[task.owner] += 1

    def release(self, task: _Task) -> None:
        """Count a task as ended."""
        self._running[task.owner] -= 1

    def next(self) -> _Task | None:
        """Return the next task, counted as running; None if there is none or no capacity."""
        owner = next((one for one in self._waiting if self.has_capacity(one)), None)
        if owner not in self._waiting or not self.has_capacity(owner):
            return None
        tasks = self._waiting.pop(owner)
        task = tasks.popleft()
        if tasks:
            self._waiting[owner] = tasks  # the owner moves behind all others: a dict keeps its order
        self.acquire(task)
        return task

    def drain(self) -> list[_Task]:
        """Remove and return all waiting tasks."""
        tasks = [task for queue in self._waiting.values() for task in queue]
        self._waiting.clear()
        return tasks


class FairExecutor:
    """Runs work on its own threads within the limits of its queues; `close` cancels waiting work.

    Parameters
    ----------
    slow_queue
        Work that has run for `slow_after_seconds` moves to this queue. If that is full, the work is stopped and waits
        there. None: work runs to its end.
    daemon
        Whether the process may exit while work is running.
    """

    def __init__(
        self,
        name: str,
        queue: WorkQueue,
        slow_queue: WorkQueue | None = None,
        slow_after_seconds: float = 0.0,
        *,
        daemon: bool = False,
    ) -> None:
        self._name, self._queue, self._slow_queue = name, queue, slow_queue
        self._slow_after_seconds, self._daemon = slow_after_seconds, daemon
        self._lock = threading.Lock()
        self._is_closed = False

    def submit(self, owner: str | None, work: Work) -> "Future[Any]":
        """Run work when it is the owner's turn; the future holds its result or exception."""
        task = _Task(owner, work, Future(), self._queue)
        with self._lock:
            is_closed = self._is_closed
            if not is_closed:
                self._queue.add(task)
                self._start_waiting()
        if is_closed:
            _cancel(task)
        return task.done

    def close(self) -> None:
        """Start no more work. Running work is not interrupted; its own checks must stop it."""
        with self._lock:
            self._is_closed = True
            waiting = [task for queue in self._queues for task in queue.drain()]
        for task in waiting:
            _cancel(task)

    @property
    def _queues(self) -> list[WorkQueue]:
        return [queue for queue in (self._queue, self._slow_queue) if queue is not None]

    def _start_waiting(self) -> None:
        for queue in self._queues:
            while (task := queue.next()) is not None:
                task.started = time.monotonic()
                threading.Thread(target=self._run, args=(task,), name=self._name, daemon=self._daemon).start()

    def _run(self, task: _Task) -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            if task.done.running() or task.done.set_running_or_notify_cancel():
                result = task.work(lambda: self._check(task))
        except RequeuedError:
            self._requeue(task)
            return
        except BaseException as raised:  # noqa: BLE001 - passed on through the future
            error = raised
        with self._lock:
            task.queue.release(task)
            self._start_waiting()
        if task.done.cancelled():
            return
        if error is not None:
            task.done.set_exception(error)
        else:
            task.done.set_result(result)

    def _check(self, task: _Task) -> None:
        """Move slow work to the slow queue; raise RequeuedError if that is full."""
        slow = self._slow_queue
        if slow is None or task.queue is slow or time.monotonic() - task.started < self._slow_after_seconds:
            return
        with self._lock:
            if not slow.has_capacity(task.owner):
                raise RequeuedError
            self._queue.release(task)
            slow.acquire(task)
            self._start_waiting()

    def _requeue(self, task: _Task) -> None:
        with self._lock:
            task.queue.release(task)
            is_closed = self._is_closed
            if self._slow_queue is not None and not is_closed:
                self._slow_queue.add(task)
            self._start_waiting()
        if is_closed:
            _cancel(task)


def _cancel(task: _Task) -> None:
    """Cancel a task, also one that had started and was requeued, whose future can no longer be cancelled."""
    if not task.done.cancel():
        task.done.set_exception(CancelledError())
