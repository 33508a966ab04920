"""A job's states and the moves between them: pure values, no clock, no database.

    queued ──► running ──► succeeded | failed | cancelled
     │ ▲ ▲        │  │
     │ │ └────────┘  │  handed back by a worker that stops or whose decoder crashed
     │ └── paused ◄──┤  resumed, with its finished stripes
     │ └── failed, cancelled: asked for again (retry), with what finished stripes there are
     └──► paused, cancelled

A worker holds a running job by a lease that it must extend. When the lease runs out another worker may take the job
over. Each taking counts `attempt` up by one, and the attempt is also the fence: a worker's writes name the attempt they
belong to, and what an earlier attempt writes late is refused.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from slidelift.service.errors import Problem, problem
from slidelift.service.pipeline.options import UpscaleOptions
from slidelift.service.pipeline.progress import Progress
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.wsi.roi import Roi

MAX_CRASHES = 3
"""Crashes after which a job is the culprit: two may be bad luck; more would only keep the worker from others."""

LEASE_SLACK_SECONDS = 60.0
"""How much longer than one's own another worker's lease may be: it may have other settings, and `now` may have been
asked for before a wait for the database."""


class JobState(StrEnum):
    """Where a job stands; the last three are ends."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_ended(self) -> bool:
        """True where nothing more happens unless somebody asks for it."""
        return self in ENDED


ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
UNFINISHED = frozenset(JobState) - ENDED


ALLOWED_MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.PAUSED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset(JobState),  # to itself: taken over from a dead worker
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
}


class ForbiddenMoveError(ValueError):
    """A move that the state of the job does not allow."""


class ResultFormat(StrEnum):
    """What the pipeline writes; the value is the word of the REST surface."""

    OME_TIFF = "ome-tiff"
    OME_ZARR = "ome-zarr"

    @property
    def suffix(self) -> str:
        """Suffix of the pipeline's output."""
        return {ResultFormat.OME_TIFF: ".ome.tiff", ResultFormat.OME_ZARR: ".ome.zarr"}[self]

    @property
    def media_type(self) -> str:
        """Media type of what is downloaded; a Zarr folder travels as one zip."""
        return {ResultFormat.OME_TIFF: "image/tiff", ResultFormat.OME_ZARR: "application/zip"}[self]


@dataclass(frozen=True, slots=True)
class UnloadedRoi:
    """Stands for a region of interest whose polygons were not read from the database; `Store.claim` reads them."""


@dataclass(frozen=True, slots=True)
class JobOrder(UpscaleOptions):
    """The request of a job: an `UpscaleRequest` that does not yet know the paths of a machine.

    Attributes
    ----------
    slide
        Id of an uploaded slide.
    roi
        Region of interest; None if the order has none, `UnloadedRoi` if it has one that is not loaded.
    roi_points
        Number of points of the region of interest, None without one. It is stored with the order, the polygons are
        not, and is set from `roi` where that is loaded.
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
    """The file that a job made: its name within the job's folder, what proves a download whole, and what is in it.

    Attributes
    ----------
    summary, few_enhanced
        The report's first line, and whether the model enhanced few of the tissue tiles.
    """

    file: str
    bytes: int
    sha256: str
    summary: str | None = None
    few_enhanced: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended; QUEUED hands the job back, finished stripes and all.

    Attributes
    ----------
    crashed
        True where the job is handed back because its process died: it counts towards MAX_CRASHES.
    """

    state: JobState
    problem: Problem | None = None
    result: Result | None = None
    warnings: tuple[str, ...] = ()
    crashed: bool = False

    def __post_init__(self) -> None:
        if self.state in (JobState.RUNNING, JobState.PAUSED):
            raise ForbiddenMoveError("an attempt ends, or hands its job back")
        if (self.state is JobState.SUCCEEDED) != (self.result is not None):
            raise ForbiddenMoveError("success has a result, and nothing else has one")


@dataclass(frozen=True, slots=True)
class Job:
    """One job at one moment; every move returns another. Times are seconds since 1970.

    Attributes
    ----------
    owner
        Id of the access token that asked, None where none is asked for.
    batch
        Id of the batch that it was asked in, if any.
    reserved_bytes
        What its files may take on disk until it has ended.
    written_bytes
        What they take already, as its worker last said.
    revision
        Counts what a client could see change; the id of an event.
    attempt
        How often the job was taken by a worker; the fence of its writes.
    crashes
        How many attempts in a row ended with the death of the worker or of its decoder and had brought nothing.
    crashed_at
        Tiles of finished stripes with which the last of them began: one that begins with more has brought something.
    cancel_requested, pause_requested
        Somebody asked to stop; the worker that holds the job sees it at its next heartbeat.
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
        """What its files may still take on disk."""
        return max(0, self.reserved_bytes - self.written_bytes)

    def is_abandoned(self, now: float) -> bool:
        """True where the worker that holds the job has let its lease run out."""
        return self.state is JobState.RUNNING and self.lease_until is not None and self.lease_until <= now

    def with_bounded_lease(self, now: float, lease_seconds: float) -> Self:
        """Shorten a lease that ends far later than one given now would: its worker's clock was ahead of this one.

        A living worker extends it at its next heartbeat; a dead one's job is abandoned when it runs out.
        """
        if self.lease_until is None or self.lease_until <= now + lease_seconds + LEASE_SLACK_SECONDS:
            return self
        return replace(self, lease_until=now + lease_seconds)

    def is_held(self, attempt: int) -> bool:
        """True where that attempt may still write."""
        return self.state is JobState.RUNNING and self.attempt == attempt

    def claimed(self, worker: str, now: float, lease_seconds: float) -> Self:
        """Let a worker take the job, if it is queued or abandoned.

        An abandoned job counts a crash, and ends or pauses instead of running again when somebody asked for that or
        when that was one crash too many: so look at the state of what is returned.
        """
        if self.state is JobState.RUNNING:
            if not self.is_abandoned(now):
                raise ForbiddenMoveError(f"job {self.id} is held by a living worker")
            abandoned = self.settled(Outcome(JobState.QUEUED, _ABANDONED, crashed=True), now)
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
        """Let the worker that holds the job keep it for another lease."""
        if self.state is not JobState.RUNNING:
            raise ForbiddenMoveError(f"job {self.id} is {self.state}: nobody holds a lease")
        return replace(self, lease_until=now + lease_seconds)

    def advanced(self, progress: Progress) -> Self:
        """Note how far the running job is."""
        if self.state is not JobState.RUNNING:
            raise ForbiddenMoveError(f"job {self.id} is {self.state}: it can't advance")
        written = self.written_bytes if progress.bytes_written is None else progress.bytes_written
        return self._changed(progress=progress, written_bytes=written)

    def cancelled(self, now: float) -> Self:
        """Cancel the job at once where no living worker holds it; else leave word for that worker."""
        if self.state in (JobState.QUEUED, JobState.PAUSED) or self.is_abandoned(now):
            return self._ended(JobState.CANCELLED, now, cancel_requested=True)
        if self.state is JobState.RUNNING:
            return self._changed(cancel_requested=True)
        raise ForbiddenMoveError(f"job {self.id} is {self.state}: it can't be cancelled")

    def paused(self, now: float) -> Self:
        """Pause the job at once where no living worker holds it; else leave word for that worker."""
        if self.state is JobState.QUEUED:
            return self._moved(JobState.PAUSED)
        if self.is_abandoned(now):
            return replace(self, pause_requested=True).settled(Outcome(JobState.QUEUED, _ABANDONED, crashed=True), now)
        if self.state is JobState.RUNNING:
            return self._changed(pause_requested=True)
        raise ForbiddenMoveError(f"job {self.id} is {self.state}: it can't be paused")

    def resumed(self) -> Self:
        """Queue a paused job again; a wish to pause that no worker has heard yet is taken back."""
        if self.state is JobState.RUNNING and self.pause_requested:
            return self._changed(pause_requested=False)
        if self.state is not JobState.PAUSED:
            raise ForbiddenMoveError(f"job {self.id} is {self.state}: only a paused job can be resumed")
        return self._moved(JobState.QUEUED)

    def retried(self) -> Self:
        """Queue a failed or cancelled job again, as if it had never crashed; the fence goes on counting."""
        if self.state not in (JobState.FAILED, JobState.CANCELLED):
            raise ForbiddenMoveError(f"job {self.id} is {self.state}: only a failed or cancelled job can be retried")
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
        """Whether its ended attempt has left finished stripes; those of a cancelled job are removed."""
        return self.state is JobState.FAILED and self.result_deleted is None

    def settled(self, outcome: Outcome, now: float) -> Self:
        """End the attempt of the worker that holds the job."""
        if self.state is not JobState.RUNNING:
            raise ForbiddenMoveError(f"job {self.id} is {self.state}: no attempt is under way")
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
            began_with = self.progress.resumed_tiles if self.progress else 0
            crashes = 1 if began_with > crashed_at else crashes + 1
            crashed_at = max(crashed_at, began_with)
        if self.cancel_requested:
            return self._ended(JobState.CANCELLED, now, crashes=crashes)
        if outcome.crashed and crashes >= MAX_CRASHES:
            return self._ended(JobState.FAILED, now, crashes=crashes, problem=_too_many_crashes(crashes, outcome))
        state = JobState.PAUSED if self.pause_requested else JobState.QUEUED
        return self._moved(
            state, crashes=crashes, crashed_at=crashed_at, worker=None, lease_until=None, pause_requested=False
        )

    def without_result(self, now: float) -> Self:
        """Note that the files of an ended job were deleted: its result, or the stripes that a failure left."""
        if not self.state.is_ended:
            raise ForbiddenMoveError(f"job {self.id} is {self.state}: it has not ended, and its files are in use")
        if self.result_deleted is not None:
            return self
        return self._changed(result_deleted=now)

    def _ended(self, state: JobState, now: float, **changes: Any) -> Self:
        return self._moved(state, finished=now, worker=None, lease_until=None, pause_requested=False, **changes)

    def _moved(self, state: JobState, **changes: Any) -> Self:
        if state not in ALLOWED_MOVES[self.state]:
            raise ForbiddenMoveError(f"job {self.id} can't go from {self.state} to {state}")
        return self._changed(state=state, **changes)

    def _changed(self, **changes: Any) -> Self:
        return replace(self, revision=self.revision + 1, **changes)


_ABANDONED = problem("job.crashed-repeatedly", "the worker that held the job fell silent")


def _too_many_crashes(crashes: int, outcome: Outcome) -> Problem:
    """Blame the slide where its decoding process died; where the whole worker fell silent, say just that."""
    last = outcome.problem.detail if outcome.problem else "no reason known"
    killed = "signal SIGKILL" in last  # by somebody, or for want of memory: a decoder's own fault has another signal
    if outcome.problem and outcome.problem.code == "runner.crashed" and not killed:
        return problem(
            "slide.crashes-decoder",
            f"the process that decodes this slide died {crashes} times (last: {last}); "
            "export the slide again from its scanner's software, or convert it to OME-TIFF",
        )
    return problem(
        "job.crashed-repeatedly",
        f"{crashes} attempts ended in a crash (last: {last}); look at the worker's log and memory, then ask again",
    )
