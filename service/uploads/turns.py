"""Who works when: owners take turns, and what takes long moves out of the way of what does not."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any


class SentBackError(Exception):
    """The work has to be put down: it takes long, and begins again when there is room for what takes long."""


Work = Callable[[Callable[[], None]], Any]
"""It calls its argument again and again, which may raise SentBackError; the work can then be done once more."""


@dataclass(slots=True)
class _Task:
    """One piece of work; `began` is a time of the monotonic clock, `lane` where it runs or waits."""

    owner: str | None
    work: Work
    done: "Future[Any]"
    lane: "Lane"
    began: float = 0.0


@dataclass(slots=True)
class Lane:
    """Places to work in, and who waits for one: the owners in turn, each one's work in the order in which it came.

    Attributes
    ----------
    places
        How many work at once.
    of_one
        How many of them one owner may have.
    """

    places: int
    of_one: int
    _waiting: dict[str | None, deque[_Task]] = field(default_factory=dict)
    _working: Counter[str | None] = field(default_factory=Counter)

    def wait(self, task: _Task) -> None:
        """Queue a task."""
        task.lane = self
        self._waiting.setdefault(task.owner, deque()).append(task)

    def has_place(self, owner: str | None) -> bool:
        """Whether that owner may work here now."""
        return self._working.total() < self.places and self._working[owner] < self.of_one

    def enter(self, task: _Task) -> None:
        """Take a place."""
        task.lane = self
        self._working[task.owner] += 1

    def leave(self, task: _Task) -> None:
        """Give the place back."""
        self._working[task.owner] -= 1

    def next(self) -> _Task | None:
        """Let the next enter; None where all places are taken or nobody waits."""
        owner = next((one for one in self._waiting if self.has_place(one)), None)
        if owner not in self._waiting or not self.has_place(owner):
            return None
        queue = self._waiting.pop(owner)
        task = queue.popleft()
        if queue:
            self._waiting[owner] = queue  # behind all others: a dict keeps its order
        self.enter(task)
        return task

    def take_all(self) -> list[_Task]:
        """Who waits, and waits no longer."""
        tasks = [task for queue in self._waiting.values() for task in queue]
        self._waiting.clear()
        return tasks


class Turns:
    """Runs work on threads of its own, at most as many at once as the lanes have places; `close` ends what waits.

    Parameters
    ----------
    slow
        Where work goes on that has had its place for `patience_seconds`; where that is full, it is sent back and waits.
        None: work keeps its place until it is done.
    may_be_left
        Whether the end of the process need not wait for work that is under way.
    """

    def __init__(
        self,
        name: str,
        quick: Lane,
        slow: Lane | None = None,
        patience_seconds: float = 0.0,
        *,
        may_be_left: bool = False,
    ) -> None:
        self._may_be_left = may_be_left
        self._name, self._quick, self._slow, self._patience_seconds = name, quick, slow, patience_seconds
        self._lock = threading.Lock()
        self._is_closed = False

    def submit(self, owner: str | None, work: Work) -> "Future[Any]":
        """Run work when the owner's turn comes; the result is the work's, or what it raised."""
        task = _Task(owner, work, Future(), self._quick)
        with self._lock:
            is_closed = self._is_closed
            if not is_closed:
                self._quick.wait(task)
                self._start_waiting()
        if is_closed:
            _cancel(task)
        return task.done

    def close(self) -> None:
        """Begin nothing more; what runs is told by its own checks."""
        with self._lock:
            self._is_closed = True
            waiting = [task for lane in self._lanes for task in lane.take_all()]
        for task in waiting:
            _cancel(task)

    @property
    def _lanes(self) -> list[Lane]:
        return [lane for lane in (self._quick, self._slow) if lane is not None]

    def _start_waiting(self) -> None:
        for lane in self._lanes:
            while (task := lane.next()) is not None:
                task.began = time.monotonic()
                threading.Thread(target=self._run, args=(task,), name=self._name, daemon=self._may_be_left).start()

    def _run(self, task: _Task) -> None:
        found: Any = None
        error: BaseException | None = None
        try:
            if task.done.running() or task.done.set_running_or_notify_cancel():
                found = task.work(lambda: self._check(task))
        except SentBackError:
            self._queue_again(task)
            return
        except BaseException as raised:  # noqa: BLE001 - it belongs to who waits for the work
            error = raised
        with self._lock:
            task.lane.leave(task)
            self._start_waiting()
        if task.done.cancelled():
            return
        if error is not None:
            task.done.set_exception(error)
        else:
            task.done.set_result(found)

    def _check(self, task: _Task) -> None:
        if self._slow is None or task.lane is self._slow or time.monotonic() - task.began < self._patience_seconds:
            return
        with self._lock:
            if not self._slow.has_place(task.owner):
                raise SentBackError
            self._quick.leave(task)
            self._slow.enter(task)
            self._start_waiting()

    def _queue_again(self, task: _Task) -> None:
        with self._lock:
            task.lane.leave(task)
            is_closed = self._is_closed
            if self._slow is not None and not is_closed:
                self._slow.wait(task)
            self._start_waiting()
        if is_closed:
            _cancel(task)


def _cancel(task: _Task) -> None:
    """Tell who waits that nothing will come, also where the work had begun once and was sent back."""
    if not task.done.cancel():
        task.done.set_exception(CancelledError())
