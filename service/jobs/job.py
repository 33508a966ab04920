"""Jobs, their states and the transitions between them: pure values without a clock or a database.

    queued ──► running ──► succeeded | failed | cancelled
     │ ▲ ▲        │  │
     │ │ └────────┘  │  returned by a worker that stops or whose decoder crashed
     │ └── paused ◄──┤  resumed with its finished stripes
     │ └── failed, cancelled: retried with its finished stripes, if any
     └──► paused, cancelled

A worker holds a running job by a lease that it must extend. When the lease expires, another worker may claim the job.
Each claim increases `attempt`, which is also the fencing token: every write of a worker names its attempt, and late
writes of an earlier attempt are refused.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from slidelift.service.errors import Problem
from slidelift.service.jobs.crashes import ABANDONED, crash_problem
from slidelift.service.pipeline.options import UpscaleOptions
from slidelift.service.pipeline.progress import Progress
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.wsi.roi import Roi

MAX_CRASHES = 3
"""Number of crashes in a row after which a job fails, so that it does not occupy workers for ever."""

LEASE_SLACK_SECONDS = 60.0
"""How much longer than expected a lease may be. Other workers may have other settings, and a process may read the clock
before it waits for the database."""


class JobState(StrEnum):
    """State of a job; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_ended(self) -> bool:
        """Whether the state is final until the job is retried."""
        return self in ENDED


ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
UNFINISHED = frozenset(JobState) - ENDED


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.PAUSED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset(JobState),  # RUNNING to RUNNING: claimed from a dead worker
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
}


class ForbiddenTransitionError(ValueError):
    """The state of the job does not allow the transition."""


class ResultFormat(StrEnum):
    """File format of a result; the values are those of the REST API."""

    OME_TIFF = "ome-tiff"
    OME_ZARR = "ome-zarr"

    @property
    def suffix(self) -> str:
        """Suffix of the output's file name."""
        return {ResultFormat.OME_TIFF: ".ome.tiff", ResultFormat.OME_ZARR: ".ome.zarr"}[self]

    @property
    def media_type(self) -> str:
        """Media type of the download; a Zarr folder is downloaded as a zip."""
        return {ResultFormat.OME_TIFF: "image/tiff", ResultFormat.OME_ZARR: "application/zip"}[self]


@dataclass(frozen=True, slots=True)
class UnloadedRoi:
    """Placeholder for a region of interest whose polygons were not read; `Store.claim` reads them."""


@dataclass(frozen=True, slots=True)
class JobOrder(UpscaleOptions):
    """The request of a job: an `UpscaleRequest` without the paths of a machine.

    Attributes
    ----------
    slide
        Id of an uploaded slide.
    roi
        Region of interest; None if the order has none, `UnloadedRoi` if it has one that is not loaded.
    roi_points
        Number of points of the region of interest; None if the order has none. It is stored with the order, the
        polygons are stored separately. A loaded `roi` sets it.
    chosen_because
        Reason for the recommended model; None if the user named the model.
    """

    slide: str
    format: ResultFormat = ResultFormat.OME_TIFF
    chosen_because: str | None = None
    roi: Roi | UnloadedRoi | None = None
    roi_points: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.roi, Roi):
            object.__setattr__(self, "roi_points", self.roi.points)
        elif self.roi is None and self.roi_points is not None:
            object.__setattr__(self, "roi", UnloadedRoi())

    def loaded_roi(self) -> Roi | None:
        """The region of interest; raises ValueError if there is one that is not loaded."""
        if isinstance(self.roi, UnloadedRoi):
            raise ValueError("the region of interest of this order was not loaded from the database")
        return self.roi

    def request(
        self, slide: Path, output: Path, *, device: str, scheduler: str | None, slide_sha256: str
    ) -> UpscaleRequest:
        """Make the pipeline's request on this machine."""
        return UpscaleRequest(
            slide=slide,
            output=output,
            device=device,
            scheduler=scheduler,
            slide_sha256=slide_sha256,
            roi=self.loaded_roi(),
            chosen_because=self.chosen_because,
            **self.option_values(),
        )


@dataclass(frozen=True, slots=True)
class Result:
    """The result file of a job.

    Attributes
    ----------
    file
        Name within the job's folder.
    bytes, sha256
        Size and hash, to verify a download.
    summary, few_enhanced
        First line of the report, and whether the model enhanced few of the tissue tiles.
    """

    file: str
    bytes: int
    sha256: str
    summary: str | None = None
    few_enhanced: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. The state QUEUED returns the job to the queue with its finished stripes.

    Attributes
    ----------
    crashed
        True if the job is returned because its process died, which counts towards MAX_CRASHES.
    """

    state: JobState
    problem: Problem | None = None
    result: Result | None = None
    warnings: tuple[str, ...] = ()
    crashed: bool = False

    def __post_init__(self) -> None:
        if self.state in (JobState.RUNNING, JobState.PAUSED):
            raise ForbiddenTransitionError("an attempt can't end in this state")
        if (self.state is JobState.SUCCEEDED) != (self.result is not None):
            raise ForbiddenTransitionError("an outcome must have a result if it succeeded, and no result otherwise")


@dataclass(frozen=True, slots=True)
class Job:
    """A job; every transition returns a new object. Times are in seconds since 1970.

    Attributes
    ----------
    owner
        Id of the access token that created the job, None without tokens.
    batch
        Id of its batch, if any.
    reserved_bytes
        Disk space reserved for its files until it has ended.
    written_bytes
        Disk space that its files use, as last reported by its worker.
    revision
        Number of changes that clients can see; the id of an event.
    attempt
        How often workers have claimed the job; the fencing token of their writes.
    crashes
        Number of attempts in a row that crashed, in the worker or its decoder, without finishing a stripe.
    crashed_at
        Number of finished tiles when the last crashed attempt started, to detect attempts that finished a stripe.
    cancel_requested, pause_requested
        A request to stop, which the worker receives at its next heartbeat.
    result_deleted
        When its files were deleted, on request or by retention.
    """

    id: str
    order: JobOrder
    created: float
    owner: str | None = None
    batch: str | None = None
    reserved_bytes: int = 0
    written_bytes: int = 0
    revision: int = 0
    state: JobState = JobState.QUEUED
    started: float | None = None
    finished: float | None = None
    attempt: int = 0
    crashes: int = 0
    crashed_at: int = 0
    worker: str | None = None
    lease_until: float | None = None
    cancel_requested: bool = False
    pause_requested: bool = False
    progress: Progress | None = None
    warnings: tuple[str, ...] = ()
    problem: Problem | None = None
    result: Result | None = None
    result_deleted: float | None = None

    @property
    def bytes_to_come(self) -> int:
        """Disk space that its files may still need."""
        return max(0, self.reserved_bytes - self.written_bytes)

    def is_abandoned(self, now: float) -> bool:
        """Whether the lease of the worker has expired."""
        return self.state is JobState.RUNNING and self.lease_until is not None and self.lease_until <= now

    def with_bounded_lease(self, now: float, lease_seconds: float) -> Self:
        """Shorten a lease that ends too late because the worker's clock was ahead.

        A running worker extends it at its next heartbeat; the job of a dead worker is abandoned when it expires.
        """
        if self.lease_until is None or self.lease_until <= now + lease_seconds + LEASE_SLACK_SECONDS:
            return self
        return replace(self, lease_until=now + lease_seconds)

    def is_held(self, attempt: int) -> bool:
        """Whether that attempt still holds the job and may write."""
        return self.state is JobState.RUNNING and self.attempt == attempt

    def claimed(self, worker: str, now: float, lease_seconds: float) -> Self:
        """Claim the job for a worker, if it is queued or abandoned.

        For an abandoned job, a crash is counted. If it was to be cancelled or paused, or has crashed too often, the
        returned job is cancelled, paused or failed instead of running: the caller must check its state.
        """
        if self.state is JobState.RUNNING:
            if not self.is_abandoned(now):
                raise ForbiddenTransitionError(f"job {self.id} is held by another worker")
            abandoned = self.settled(Outcome(JobState.QUEUED, ABANDONED, crashed=True), now)
            if abandoned.state is not JobState.QUEUED:
                return abandoned
            return abandoned.claimed(worker, now, lease_seconds)
        return self._moved(
            JobState.RUNNING,
            started=self.started if self.started is not None else now,
            attempt=self.attempt + 1,
            worker=worker,
            lease_until=now + lease_seconds,
        )

    def extended(self, now: float, lease_seconds: float) -> Self:
        """Extend the lease."""
        if self.state is not JobState.RUNNING:
            raise ForbiddenTransitionError(f"job {self.id} is {self.state}: it has no lease")
        return replace(self, lease_until=now + lease_seconds)

    def advanced(self, progress: Progress) -> Self:
        """Record the progress of the running job."""
        if self.state is not JobState.RUNNING:
            raise ForbiddenTransitionError(f"job {self.id} is {self.state}: it has no progress")
        written = self.written_bytes if progress.bytes_written is None else progress.bytes_written
        return self._changed(progress=progress, written_bytes=written)

    def cancelled(self, now: float) -> Self:
        """Cancel the job immediately if no worker holds it; otherwise record a request to its worker."""
        if self.state in (JobState.QUEUED, JobState.PAUSED) or self.is_abandoned(now):
            return self._ended(JobState.CANCELLED, now, cancel_requested=True)
        if self.state is JobState.RUNNING:
            return self._changed(cancel_requested=True)
        raise ForbiddenTransitionError(f"job {self.id} is {self.state}: it can't be cancelled")

    def paused(self, now: float) -> Self:
        """Pause the job immediately if no worker holds it; otherwise record a request to its worker."""
        if self.state is JobState.QUEUED:
            return self._moved(JobState.PAUSED)
        if self.is_abandoned(now):
            return replace(self, pause_requested=True).settled(Outcome(JobState.QUEUED, ABANDONED, crashed=True), now)
        if self.state is JobState.RUNNING:
            return self._changed(pause_requested=True)
        raise ForbiddenTransitionError(f"job {self.id} is {self.state}: it can't be paused")

    def resumed(self) -> Self:
        """Queue a paused job again, or withdraw a pause request that the worker has not seen yet."""
        if self.state is JobState.RUNNING and self.pause_requested:
            return self._changed(pause_requested=False)
        if self.state is not JobState.PAUSED:
            raise ForbiddenTransitionError(f"job {self.id} is {self.state}: only a paused job can be resumed")
        return self._moved(JobState.QUEUED)

    def retried(self) -> Self:
        """Queue a failed or cancelled job again with its crashes reset; `attempt` continues to count."""
        if self.state not in (JobState.FAILED, JobState.CANCELLED):
            raise ForbiddenTransitionError(
                f"job {self.id} is {self.state}: only failed or cancelled jobs can be retried"
            )
        return self._moved(
            JobState.QUEUED,
            written_bytes=self.written_bytes if self._keeps_stripes else 0,
            finished=None,
            crashes=0,
            crashed_at=0,
            cancel_requested=False,
            problem=None,
            warnings=(),
            progress=None,
            result_deleted=None,
        )

    @property
    def _keeps_stripes(self) -> bool:
        """Whether its finished stripes still exist; those of a cancelled job are removed."""
        return self.state is JobState.FAILED and self.result_deleted is None

    def settled(self, outcome: Outcome, now: float) -> Self:
        """End the current attempt."""
        if self.state is not JobState.RUNNING:
            raise ForbiddenTransitionError(f"job {self.id} is {self.state}: it has no running attempt")
        if outcome.state.is_ended:
            return self._ended(
                outcome.state,
                now,
                problem=outcome.problem,
                result=outcome.result,
                warnings=outcome.warnings,
            )
        crashes, crashed_at = self.crashes, self.crashed_at
        if outcome.crashed:
            resumed = self.progress.resumed_tiles if self.progress else 0
            crashes = 1 if resumed > crashed_at else crashes + 1
            crashed_at = max(crashed_at, resumed)
        if self.cancel_requested:
            return self._ended(JobState.CANCELLED, now, crashes=crashes)
        if outcome.crashed and crashes >= MAX_CRASHES:
            return self._ended(JobState.FAILED, now, crashes=crashes, problem=crash_problem(crashes, outcome.problem))
        state = JobState.PAUSED if self.pause_requested else JobState.QUEUED
        return self._moved(
            state, crashes=crashes, crashed_at=crashed_at, worker=None, lease_until=None, pause_requested=False
        )

    def without_result(self, now: float) -> Self:
        """Record that the files of an ended job were deleted: its result, or the stripes of a failed job."""
        if not self.state.is_ended:
            raise ForbiddenTransitionError(f"job {self.id} is {self.state}: it has not ended and uses its files")
        if self.result_deleted is not None:
            return self
        return self._changed(result_deleted=now)

    def _ended(self, state: JobState, now: float, **changes: Any) -> Self:
        return self._moved(state, finished=now, worker=None, lease_until=None, pause_requested=False, **changes)

    def _moved(self, state: JobState, **changes: Any) -> Self:
        if state not in TRANSITIONS[self.state]:
            raise ForbiddenTransitionError(f"job {self.id} can't change from {self.state} to {state}")
        return self._changed(state=state, **changes)

    def _changed(self, **changes: Any) -> Self:
        return replace(self, revision=self.revision + 1, **changes)
