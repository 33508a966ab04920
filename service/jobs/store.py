"""Where slides, jobs and tokens are kept: the protocol of a store, its refusals, and what it is asked with."""

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
    """No slide of that id."""


class UnknownJobError(StoreError):
    """No job of that id."""


class UnknownTokenError(StoreError):
    """No token of that id."""


class SlideInUseError(StoreError):
    """An unfinished job needs the slide; the message names it."""


class LeaseLostError(StoreError):
    """The attempt that wants to write holds the job no longer: stop, and touch nothing."""


class KeyReusedError(StoreError):
    """The idempotency key came before with another request."""


class StoreFullError(StoreError):
    """The disk has no room for the write; nothing was changed."""


class StoreUnavailableError(StoreError):
    """The database can't be reached, read or written right now; the message says why."""


class Beat(StrEnum):
    """What a worker hears at a heartbeat."""

    GO_ON = "go on"
    PAUSE = "pause"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Page(Generic[Entry]):
    """Some entries, the newest first; `cursor` asks for those after them, None where there are no more."""

    entries: tuple[Entry, ...]
    cursor: int | None


@dataclass(frozen=True, slots=True)
class Change:
    """A job as it is since a change that a client could see.

    Attributes
    ----------
    number
        Counts the changes of all jobs in the order in which they became visible: who has seen one has missed none
        before it. A job has that of its last.
    """

    number: int
    job: Job


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs are meant; None for any."""

    state: JobState | None = None
    slide: str | None = None
    batch: str | None = None
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A client's word that two requests are one.

    Attributes
    ----------
    owner
        Id of the token, "" where none is asked for: keys of different owners are different.
    fingerprint
        Hash of the request, so that another one under the same key is noticed.
    """

    owner: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class WorkerSign:
    """A worker's sign of life.

    Attributes
    ----------
    device
        Where its network computes, as the pipeline last said; None before its first job.
    busy
        The share of the last job's time, 0 to 1, in which the network computed; None while unknown.
    tiles_per_second
        Of the job at hand, None without one.
    seen
        Seconds since 1970.
    """

    id: str
    seen: float
    device: str | None = None
    busy: float | None = None
    tiles_per_second: float | None = None


Admit = Callable[[Sequence[Job]], None]
"""Looks at all unfinished jobs, and raises to refuse more; called within the transaction that adds them."""


class Store(Protocol):
    """Slides, jobs, tokens and the workers' signs of life. Synchronous; callable from any thread and process.

    An entry that can't be read (another program wrote it, or an older one a value that it should not have) is left out
    of every answer, as if it were not there, and told in the log. It can still be removed.

    What a method has returned is durable. Ids are made by the caller. A worker's writes name job and attempt, and raise
    LeaseLostError once another attempt, or an end, has come in between. Any method raises StoreUnavailableError, a
    writing one StoreFullError too.
    """

    def add_slide(self, slide: Slide, admit_bytes: Callable[[int], None] = ...) -> None:
        """Keep a new slide; `admit_bytes` is told the bytes that its owner keeps already, and may raise."""

    def slide(self, slide_id: str) -> Slide | None:
        """The slide of an id."""

    def owner_of_slide(self, slide_id: str) -> str | None:
        """Whose a slide is, readable or not; raises UnknownSlideError."""

    def slide_is_known(self, slide_id: str) -> bool:
        """Whether there is a slide of that id, readable or not."""

    def slides(self, limit: int, before: int | None = None, owner: str | None = None) -> Page[Slide]:
        """Slides, the newest first; `before` the cursor of an earlier page."""

    def idle_slides(self, limit: int) -> list[Slide]:
        """Slides that no unfinished job needs, the oldest first."""

    def remove_slide(self, slide_id: str) -> None:
        """Forget a slide; raises UnknownSlideError, or SlideInUseError while an unfinished job needs it."""

    def kept_bytes(self, owner: str | None) -> int:
        """What an owner's slides have together; None for everybody's."""

    def add_jobs(
        self, jobs: Sequence[Job], admit: Admit = ..., key: IdempotencyKey | None = None
    ) -> tuple[list[Job], bool]:
        """Queue jobs, all or none.

        Returns
        -------
        tuple
            The jobs and True; or, where the same request came before under the same key, what it made, and False.

        Raises
        ------
        UnknownSlideError
            A slide is not (or no longer) there.
        KeyReusedError
            The key came before with another request.
        """

    def made_before(self, key: IdempotencyKey) -> list[Job] | None:
        """What the same request made under the key; None where it is new. Raises KeyReusedError as `add_jobs`."""

    def job(self, job_id: str) -> Job | None:
        """The job of an id, without its region of interest, which only `claim` brings."""

    def job_is_known(self, job_id: str) -> bool:
        """Whether there is a job of that id, readable or not."""

    def jobs(self, limit: int, before: int | None = None, wanted: JobFilter = ...) -> Page[Job]:
        """Jobs, the newest first; `before` the cursor of an earlier page."""

    def revisions(self, job_ids: Iterable[str]) -> dict[str, int]:
        """The revision of each job that is there."""

    def last_change(self) -> int:
        """The number of the last change of any job; 0 before the first."""

    def changes(self, after: int, limit: int) -> list[Change]:
        """The jobs that have changed after the change of that number, the longest unchanged first."""

    def unfinished(self) -> list[Change]:
        """The jobs that have not ended, the longest unchanged first."""

    def ended(self, state: JobState, before: float, limit: int) -> list[Job]:
        """Jobs that ended so before that moment and whose files were not deleted since; the oldest first."""

    def cancel(self, job_id: str) -> Job:
        """Cancel as `Job.cancelled`; raises UnknownJobError, ForbiddenMoveError."""

    def pause(self, job_id: str) -> Job:
        """Pause as `Job.paused`; raises UnknownJobError, ForbiddenMoveError."""

    def resume(self, job_id: str) -> Job:
        """Resume as `Job.resumed`; raises UnknownJobError, ForbiddenMoveError."""

    def retry(self, job_id: str, admit: Admit = ...) -> Job:
        """Queue again as `Job.retried`; raises UnknownJobError, UnknownSlideError, ForbiddenMoveError."""

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

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state."""

    def failures(self) -> dict[str, int]:
        """How often jobs have failed with each code, those that were tried again since too; it never goes down."""

    def sign_of_life(self, sign: WorkerSign) -> None:
        """Note that a worker lives, with or without a job; its `seen` is set here."""

    def workers(self) -> list[WorkerSign]:
        """The last sign of life of each worker of the last day, the latest first."""

    def now(self) -> float:
        """The store's clock, in seconds since 1970: that of its leases."""

    def add_token(self, token: Token) -> None:
        """Keep a new token."""

    def tokens(self) -> list[Token]:
        """All tokens, the oldest first."""

    def token(self, sha256: str) -> Token | None:
        """The token of that hash."""

    def revoke_token(self, token_id: str) -> None:
        """Forget a token; raises UnknownTokenError."""

    def end_sessions(self, token_id: str) -> None:
        """Count the token's generation up; raises UnknownTokenError."""

    def forget_keys(self, before: float) -> None:
        """Forget the idempotency keys that came before that moment."""

    def identity(self) -> str | None:
        """What the data folder of this database has, too; None before the first start."""

    def keep_identity(self, identity: str) -> None:
        """Replace the identity."""

    def has_entries(self) -> bool:
        """Whether there is any slide or result, of which there must be files."""

    def retention_time(self) -> float:
        """What `keep_retention_time` has kept, in seconds since 1970; at first the store's clock."""

    def keep_retention_time(self, moment: float) -> None:
        """Keep how far retention has come; an earlier moment than the kept one changes nothing."""

    def check(self) -> None:
        """Write something; raises whatever keeps the store from it."""

    def close(self) -> None:
        """Let go of files and connections."""


def admit_all(_unfinished: Sequence[Job]) -> None:
    """Refuse nothing."""


def admit_any_bytes(_kept: int) -> None:
    """Refuse nothing."""
