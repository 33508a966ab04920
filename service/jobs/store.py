"""Interface of the store of slides, jobs and tokens, with its errors and arguments."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from slidelift.service.auth.tokens import Token
from slidelift.service.jobs.errors import StoreError
from slidelift.service.jobs.job import Job, JobState, Outcome
from slidelift.service.jobs.slide import Slide
from slidelift.service.pipeline.progress import Progress

Entry = TypeVar("Entry")


class UnknownSlideError(StoreError):
    """The slide does not exist."""


class UnknownJobError(StoreError):
    """The job does not exist."""


class UnknownTokenError(StoreError):
    """The token does not exist."""


class SlideInUseError(StoreError):
    """An unfinished job needs the slide; the message names it."""


class LeaseLostError(StoreError):
    """The attempt no longer holds the job: the worker must stop and must not write anything."""


class KeyReusedError(StoreError):
    """The idempotency key was used with another request."""


class StoreFullError(StoreError):
    """The disk is full; nothing was changed."""


class StoreUnavailableError(StoreError):
    """The database can't be reached, read or written at the moment; the message says why."""


class HeartbeatReply(StrEnum):
    """What a worker has to do after a heartbeat."""

    CONTINUE = "continue"
    PAUSE = "pause"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Page(Generic[Entry]):
    """Entries, newest first. `cursor` is the argument for the next page, None on the last page."""

    entries: tuple[Entry, ...]
    cursor: int | None


@dataclass(frozen=True, slots=True)
class Change:
    """A job after a change that clients can see.

    Attributes
    ----------
    number
        Numbers the changes of all jobs in the order in which they became visible, so that a reader who has seen a
        change has missed none before it. Only the last change of a job is kept.
    """

    number: int
    job: Job


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Conditions on jobs; None for any value."""

    state: JobState | None = None
    slide: str | None = None
    batch: str | None = None
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """Identifies repetitions of a request.

    Attributes
    ----------
    owner
        Id of the caller's token, "" without tokens. Each owner has keys of their own.
    fingerprint
        Hash of the request, which detects another request with the same key.
    """

    owner: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """Status that a worker reports regularly.

    Attributes
    ----------
    seen
        When it was last reported, in seconds since 1970.
    device
        Device of the model in the last job; None before the first job.
    busy
        Share of the last job's time that was spent in the model, 0 to 1; None while unknown.
    tiles_per_second
        Speed of the current job, None without one.
    """

    id: str
    seen: float
    device: str | None = None
    busy: float | None = None
    tiles_per_second: float | None = None


Admit = Callable[[Sequence[Job]], None]
"""Raises to refuse new jobs, given all unfinished jobs; called in the transaction that adds the new ones."""


class Store(Protocol):
    """Slides, jobs, tokens and the status of workers. Synchronous; callable from any thread and process.

    An entry that is not valid, for example because another version wrote it, is treated as missing and logged. It can
    still be removed.

    What a method has written is durable when it returns. Ids are chosen by the caller. Writes of a worker name the job
    and the attempt, and raise LeaseLostError if another attempt has claimed the job or the job has ended. Any method
    can raise StoreUnavailableError, and any that writes StoreFullError.
    """

    def add_slide(self, slide: Slide, admit_bytes: Callable[[int], None] = ...) -> None:
        """Add a slide. `admit_bytes` gets the total size of its owner's slides and may raise to refuse it."""

    def slide(self, slide_id: str) -> Slide | None:
        """Return a slide, or None."""

    def owner_of_slide(self, slide_id: str) -> str | None:
        """Return the owner of a slide, even if it is not valid; raises UnknownSlideError."""

    def has_slide(self, slide_id: str) -> bool:
        """Whether the slide exists, valid or not."""

    def slides(self, limit: int, before: int | None = None, owner: str | None = None) -> Page[Slide]:
        """Return a page of slides, newest first; `before` is the cursor of the previous page."""

    def idle_slides(self, limit: int) -> list[Slide]:
        """Return slides that no unfinished job needs, oldest first."""

    def remove_slide(self, slide_id: str) -> None:
        """Remove a slide; raises UnknownSlideError, or SlideInUseError while an unfinished job needs it."""

    def kept_bytes(self, owner: str | None) -> int:
        """Return the total size of an owner's slides; of all slides for None."""

    def add_jobs(
        self, jobs: Sequence[Job], admit: Admit = ..., key: IdempotencyKey | None = None
    ) -> tuple[list[Job], bool]:
        """Queue jobs, all or none.

        Returns
        -------
        tuple
            The jobs and True; or the jobs of an earlier request with the same key, and False.

        Raises
        ------
        UnknownSlideError
            A slide does not exist.
        KeyReusedError
            The key was used with another request.
        """

    def jobs_of_key(self, key: IdempotencyKey) -> list[Job] | None:
        """Return the jobs of an earlier request with the key, None for a new key; raises KeyReusedError."""

    def job(self, job_id: str) -> Job | None:
        """Return a job without its region of interest, or None."""

    def has_job(self, job_id: str) -> bool:
        """Whether the job exists, valid or not."""

    def jobs(self, limit: int, before: int | None = None, wanted: JobFilter = ...) -> Page[Job]:
        """Return a page of jobs, newest first; `before` is the cursor of the previous page."""

    def revisions(self, job_ids: Iterable[str]) -> dict[str, int]:
        """Return the revision of each job that exists."""

    def last_change(self) -> int:
        """Return the number of the last change of any job; 0 before the first."""

    def changes(self, after: int, limit: int) -> list[Change]:
        """Return the jobs that changed after the change with that number, oldest change first."""

    def unfinished(self) -> list[Change]:
        """Return the jobs that have not ended, oldest change first."""

    def ended(self, state: JobState, before: float, limit: int) -> list[Job]:
        """Return jobs that ended in that state before that time and still have files, oldest first."""

    def cancel(self, job_id: str) -> Job:
        """Cancel as `Job.cancelled`; raises UnknownJobError, ForbiddenTransitionError."""

    def pause(self, job_id: str) -> Job:
        """Pause as `Job.paused`; raises UnknownJobError, ForbiddenTransitionError."""

    def resume(self, job_id: str) -> Job:
        """Resume as `Job.resumed`; raises UnknownJobError, ForbiddenTransitionError."""

    def retry(self, job_id: str, admit: Admit = ...) -> Job:
        """Queue again as `Job.retried`; raises UnknownJobError, UnknownSlideError, ForbiddenTransitionError."""

    def delete_result(self, job_id: str) -> Job:
        """Record the deletion as `Job.without_result`; raises UnknownJobError, ForbiddenTransitionError."""

    def claim(self, worker: str) -> Job | None:
        """Claim the oldest job that is queued or abandoned, with its region of interest.

        Abandoned jobs that may not run again are ended.
        """

    def heartbeat(self, job_id: str, attempt: int) -> HeartbeatReply:
        """Extend the lease."""

    def advance(self, job_id: str, attempt: int, progress: Progress) -> None:
        """Record the progress of the attempt."""

    def settle(self, job_id: str, attempt: int, outcome: Outcome) -> Job:
        """End the attempt."""

    def counts(self) -> dict[JobState, int]:
        """Return the number of jobs in each state."""

    def failures(self) -> dict[str, int]:
        """Return how often jobs have failed with each code, including jobs that were retried; never decreases."""

    def record_worker(self, status: WorkerStatus) -> None:
        """Save the status of a worker, with or without a job; `seen` is set to the current time."""

    def workers(self) -> list[WorkerStatus]:
        """Return the last status of each worker of the last day, most recent first."""

    def now(self) -> float:
        """Return the time of the clock that leases use, in seconds since 1970."""

    def add_token(self, token: Token) -> None:
        """Add a token."""

    def tokens(self) -> list[Token]:
        """Return all tokens, oldest first."""

    def token(self, sha256: str) -> Token | None:
        """Return the token with that hash, or None."""

    def revoke_token(self, token_id: str) -> None:
        """Remove a token; raises UnknownTokenError."""

    def end_sessions(self, token_id: str) -> None:
        """Increase the token's generation, which ends its sessions; raises UnknownTokenError."""

    def forget_keys(self, before: float) -> None:
        """Remove the idempotency keys from before that time."""

    def identity(self) -> str | None:
        """Return the identity that the database shares with its data folder; None before the first start."""

    def keep_identity(self, identity: str) -> None:
        """Replace the identity."""

    def has_entries(self) -> bool:
        """Whether there are slides or results, whose files must exist."""

    def retention_time(self) -> float:
        """Return the time that `keep_retention_time` saved, in seconds since 1970; initially the current time."""

    def keep_retention_time(self, moment: float) -> None:
        """Save the time of the last retention run; an earlier time than the saved one is ignored."""

    def check(self) -> None:
        """Check that the store is writable; raises the error if it is not."""

    def close(self) -> None:
        """Close files and connections."""


def admit_all(_unfinished: Sequence[Job]) -> None:
    """Accept all."""


def admit_any_bytes(_kept: int) -> None:
    """Accept all."""
