"""Where slides and jobs are kept: the protocol of a store, and the one that keeps them in memory."""

import threading
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Protocol, TypeVar

from service.jobs.job import Job, JobOrder, JobState, Outcome
from service.jobs.slide import Slide
from service.progress import Progress

Kept = TypeVar("Kept", Slide, Job)


class StoreError(Exception):
    """What a store refuses."""


class UnknownSlideError(StoreError):
    """No slide of that id."""


class UnknownJobError(StoreError):
    """No job of that id."""


class SlideInUseError(StoreError):
    """An unfinished job needs the slide; the message names it."""


class LeaseLostError(StoreError):
    """The attempt that wants to write holds the job no longer: stop, and touch nothing."""


class StoreFullError(StoreError):
    """The disk has no room for the write; nothing was changed."""


class Beat(StrEnum):
    """What a worker hears at a heartbeat."""

    GO_ON = "go on"
    CANCEL = "cancel"


class Store(Protocol):
    """Slides, jobs and the workers' signs of life. Synchronous; callable from any thread.

    What a method has returned is durable. Ids are made by the caller. A worker's writes name job and attempt, and raise
    LeaseLostError once another attempt, or an end, has come in between.
    """

    def add_slide(self, slide: Slide) -> None:
        """Keep a new slide."""

    def slide(self, slide_id: str) -> Slide | None:
        """The slide of an id."""

    def slides(self, limit: int, before: str | None = None) -> list[Slide]:
        """Slides, the newest first; `before` the id of the last one already seen."""

    def remove_slide(self, slide_id: str) -> None:
        """Forget a slide; raises UnknownSlideError, or SlideInUseError while an unfinished job needs it."""

    def add_job(self, job_id: str, order: JobOrder) -> Job:
        """Queue a job; raises UnknownSlideError if its slide is not (or no longer) there."""

    def job(self, job_id: str) -> Job | None:
        """The job of an id."""

    def jobs(self, limit: int, before: str | None = None, state: JobState | None = None) -> list[Job]:
        """Jobs, the newest first; `before` the id of the last one already seen."""

    def cancel(self, job_id: str) -> Job:
        """Cancel as `Job.cancelled`; raises UnknownJobError, ForbiddenMoveError."""

    def delete_result(self, job_id: str) -> Job:
        """Note as `Job.without_result`; raises UnknownJobError, ForbiddenMoveError."""

    def claim(self, worker: str) -> Job | None:
        """Take the oldest job that is queued or abandoned; settles on its way what can't run again."""

    def heartbeat(self, job_id: str, attempt: int) -> Beat:
        """Extend the lease."""

    def advance(self, job_id: str, attempt: int, progress: Progress) -> None:
        """Note how far the attempt is."""

    def settle(self, job_id: str, attempt: int, outcome: Outcome) -> Job:
        """End the attempt."""

    def sign_of_life(self, worker: str) -> None:
        """Note that a worker lives, with or without a job."""

    def last_sign_of_life(self) -> float | None:
        """When any worker last was alive, in seconds since 1970."""

    def check(self) -> None:
        """Write something; raises whatever keeps the store from it."""

    def close(self) -> None:
        """Let go of files."""


class MemoryStore:
    """A store for tests and one process; holds every slide and job that it was ever given."""

    def __init__(self, clock: Callable[[], float], lease_seconds: float = 15) -> None:
        self._clock, self._lease_seconds = clock, lease_seconds
        self._lock = threading.RLock()
        self._slides: dict[str, Slide] = {}
        self._jobs: dict[str, Job] = {}
        self._workers: dict[str, float] = {}

    def add_slide(self, slide: Slide) -> None:
        with self._lock:
            self._slides[slide.id] = slide

    def slide(self, slide_id: str) -> Slide | None:
        return self._slides.get(slide_id)

    def slides(self, limit: int, before: str | None = None) -> list[Slide]:
        with self._lock:
            return list(_page(self._slides, limit, before))

    def remove_slide(self, slide_id: str) -> None:
        with self._lock:
            if slide_id not in self._slides:
                raise UnknownSlideError(slide_id)
            for job in self._jobs.values():
                if job.order.slide == slide_id and not job.state.is_final:
                    raise SlideInUseError(f"job {job.id} is {job.state} and needs the slide")
            del self._slides[slide_id]

    def add_job(self, job_id: str, order: JobOrder) -> Job:
        with self._lock:
            if order.slide not in self._slides:
                raise UnknownSlideError(order.slide)
            return self._keep(Job(job_id, order, self._clock()))

    def job(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def jobs(self, limit: int, before: str | None = None, state: JobState | None = None) -> list[Job]:
        with self._lock:
            wanted = {job.id: job for job in self._jobs.values() if state in (None, job.state) or job.id == before}
            return list(_page(wanted, limit, before))

    def cancel(self, job_id: str) -> Job:
        with self._lock:
            return self._keep(self._known(job_id).cancelled(self._clock()))

    def delete_result(self, job_id: str) -> Job:
        with self._lock:
            return self._keep(self._known(job_id).without_result(self._clock()))

    def claim(self, worker: str) -> Job | None:
        with self._lock:
            now = self._clock()
            for job in list(self._jobs.values()):
                if job.state is JobState.QUEUED or job.is_abandoned(now):
                    claimed = self._keep(job.claimed(worker, now, self._lease_seconds))
                    if claimed.state is JobState.RUNNING:
                        return claimed
            return None

    def heartbeat(self, job_id: str, attempt: int) -> Beat:
        with self._lock:
            job = self._keep(self._held(job_id, attempt).extended(self._clock(), self._lease_seconds))
            return Beat.CANCEL if job.cancel_requested else Beat.GO_ON

    def advance(self, job_id: str, attempt: int, progress: Progress) -> None:
        with self._lock:
            self._keep(self._held(job_id, attempt).advanced(progress))

    def settle(self, job_id: str, attempt: int, outcome: Outcome) -> Job:
        with self._lock:
            return self._keep(self._held(job_id, attempt).settled(outcome, self._clock()))

    def sign_of_life(self, worker: str) -> None:
        with self._lock:
            self._workers[worker] = self._clock()

    def last_sign_of_life(self) -> float | None:
        with self._lock:
            return max(self._workers.values(), default=None)

    def check(self) -> None:
        """Memory can always be written."""

    def close(self) -> None:
        """Nothing is open."""

    def _keep(self, job: Job) -> Job:
        self._jobs[job.id] = job
        return job

    def _known(self, job_id: str) -> Job:
        if job_id not in self._jobs:
            raise UnknownJobError(job_id)
        return self._jobs[job_id]

    def _held(self, job_id: str, attempt: int) -> Job:
        job = self._jobs.get(job_id)
        if job is None or not job.is_held(attempt):
            raise LeaseLostError(f"attempt {attempt} holds job {job_id} no longer")
        return job


def _page(kept: dict[str, Kept], limit: int, before: str | None) -> Iterator[Kept]:
    """Yield the newest first, going on after `before`; nothing after an id that is not there."""
    ids = list(kept)
    if before is not None:
        ids = ids[: ids.index(before)] if before in kept else []
    for found in ids[::-1][:limit]:
        yield kept[found]
