"""Runs one attempt at a job, from the slide to the sealed result or to the problem that prevented it."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from slidelift.service.attempts.result_seal import ResultChangedError, seal
from slidelift.service.errors import Cancelled, Problem, ServiceError, problem
from slidelift.service.jobs.job import Job, JobState, Outcome, Result
from slidelift.service.jobs.slide import Slide
from slidelift.service.jobs.store import LeaseLostError, Store, StoreFullError, StoreUnavailableError, WorkerStatus
from slidelift.service.pipeline.progress import CancelToken, Progress
from slidelift.service.pipeline.report import Report
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.settings import Settings
from slidelift.service.storage.disk import is_disk_full, remove
from slidelift.service.storage.files import Storage

PROGRESS_SECONDS = 0.5
"""Minimum time between two writes of progress to the database; clients poll about as often."""

_DISK_FULL = problem(
    "storage.full", "the disk is full; free some space, then retry the job: it continues from its last finished stripe"
)

log = logging.getLogger(__name__)


class Pipeline(Protocol):
    """The part of `service.processes.runner.Runner` that an attempt uses."""

    def run(self, request: UpscaleRequest, on_progress: Callable[[Progress], None], cancel: CancelToken) -> Report:
        """Upscale one slide and return the report.

        Once `cancel` is set, it raises within `service.processes.runner.CANCEL_SECONDS`, even if it has to kill its
        child for that.

        Raises
        ------
        ServiceError
            The upscale failed.
        """

    def close(self) -> None:
        """End the child process. Can be called from any thread, also during `run`."""


class EarlyEnd(StrEnum):
    """Reason for ending an attempt early."""

    STOPPED = "the worker stops"
    PAUSED = "paused on request"
    DISK_FULL = "only the disk's reserve is left"
    CANCELLED = "cancelled on request"
    LEASE_LOST = "another worker has the job"


@dataclass(slots=True)
class Attempt:
    """One attempt at one job, shared by the two threads of a worker.

    Attributes
    ----------
    last_progress
        When the pipeline last reported progress (`time.monotonic`); None while it does not run.
    """

    job: Job
    token: CancelToken = field(default_factory=CancelToken)
    early_end: EarlyEnd | None = None
    last_progress: float | None = None
    is_stalled: bool = False

    def finish_early(self, reason: EarlyEnd) -> None:
        """Cancel the attempt; the first reason counts, but a lost lease overrides any other."""
        if self.early_end is None or reason is EarlyEnd.LEASE_LOST:
            self.early_end = reason
        self.token.cancel()


@dataclass(slots=True)
class WorkerState:
    """State that the threads of a worker share: its last status report (`sign`) and its running attempt."""

    sign: WorkerStatus
    attempt: Attempt | None = None


class AttemptRunner:
    """Runs attempts one at a time and owns the pipeline, which is kept between them.

    Parameters
    ----------
    make_pipeline
        Called for the first attempt, and again after a pipeline has failed.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        storage: Storage,
        make_pipeline: Callable[[], Pipeline],
        state: WorkerState,
    ) -> None:
        self._settings, self._store, self._storage = settings, store, storage
        self._make_pipeline, self._state = make_pipeline, state
        self._pipeline: Pipeline | None = None
        self._lock = threading.Lock()

    def run(self, attempt: Attempt) -> Outcome:
        """Run an attempt and return how it ended; errors become outcomes."""
        try:
            return self._run(attempt)
        except Exception as error:  # noqa: BLE001 - the worker must survive any failure of a job
            if not isinstance(error, Cancelled):
                self.close_pipeline()
            if attempt.early_end is EarlyEnd.DISK_FULL:
                return Outcome(JobState.FAILED, _DISK_FULL)
            if attempt.early_end is not None:
                is_cancelled = attempt.early_end is EarlyEnd.CANCELLED
                return Outcome(JobState.CANCELLED if is_cancelled else JobState.QUEUED)
            if attempt.is_stalled:
                return Outcome(JobState.QUEUED, self.stalled_problem(), crashed=True)
            return _outcome_of_failure(attempt.job, error)

    def stalled_problem(self) -> Problem:
        """Make the problem of a pipeline that reported no progress for too long."""
        seconds = self._settings.stall_seconds
        return problem("runner.stalled", f"the process that decodes and computes made no progress for {seconds:g} s")

    def close_pipeline(self) -> None:
        """End the pipeline's process. Can be called from any thread."""
        with self._lock:
            pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.close()

    def require_reserve(self, attempt: Attempt) -> None:
        """End the attempt if only the disk's reserve is left; the database needs that to record the failure."""
        if not self._storage.has_reserve():
            attempt.finish_early(EarlyEnd.DISK_FULL)

    def _run(self, attempt: Attempt) -> Outcome:
        slide = self._store.slide(attempt.job.order.slide)
        if slide is None:
            detail = f"slide {attempt.job.order.slide} was deleted"
            return Outcome(JobState.FAILED, problem("slide.unknown", detail))
        output = self._storage.begin_attempt(attempt.job)
        sealed = self._seal_earlier_output(attempt, output)
        if sealed is None:
            report = self._upscale(attempt, output, slide)
            attempt.token.raise_if_cancelled()
            sealed = report, _seal(attempt, output, report)
        report, result = sealed
        result = replace(result, summary=report.summary, few_enhanced=report.tiles.few_enhanced)
        return Outcome(JobState.SUCCEEDED, result=result, warnings=report.warnings)

    def _seal_earlier_output(self, attempt: Attempt, output: Path) -> tuple[Report, Result] | None:
        """Return the report and the result that an earlier attempt finished but did not seal; None if there is none.

        The report is written after the complete output. An output without a report, or one that
        has changed since (after a power cut), is removed.
        """
        report = self._storage.read_report(attempt.job)
        if report is not None and output.exists():
            try:
                return report, _seal(attempt, output, report)
            except ResultChangedError as error:
                log.warning("job %s: %s; the result is made again", attempt.job.id, error)
        self._storage.report_path(attempt.job).unlink(missing_ok=True)
        remove(output)
        return None

    def _upscale(self, attempt: Attempt, output: Path, slide: Slide) -> Report:
        """Run the pipeline, and store and return its report."""
        settings = self._settings
        request = attempt.job.order.request(
            self._storage.slide_path(slide),
            output,
            device=settings.device,
            scheduler=settings.scheduler,
            slide_sha256=slide.sha256,
        )
        # Problems and logs name the slide by its id, because its file name may contain a patient's name.
        request = replace(request, slide_name=f"slide {slide.id}")
        with self._lock:
            pipeline = self._pipeline = self._pipeline or self._make_pipeline()
        attempt.last_progress = time.monotonic()
        try:
            report = pipeline.run(request, self._progress_writer(attempt), attempt.token)
        finally:
            attempt.last_progress = None
        self._state.sign = replace(self._state.sign, device=report.model.device)
        self._storage.write_report(attempt.job, report)
        return report

    def _progress_writer(self, attempt: Attempt) -> Callable[[Progress], None]:
        """Make the function that writes each new stage to the store, and progress once per `PROGRESS_SECONDS`."""
        written: tuple[str, float] | None = None

        def write(progress: Progress) -> None:
            nonlocal written
            now = attempt.last_progress = time.monotonic()
            if written and written[0] == progress.stage and now - written[1] < PROGRESS_SECONDS:
                return
            written = (progress.stage, now)
            self.require_reserve(attempt)
            self._state.sign = replace(
                self._state.sign, tiles_per_second=progress.tiles_per_second, busy=progress.device_busy
            )
            try:
                self._store.advance(attempt.job.id, attempt.job.attempt, progress)
            except LeaseLostError:
                attempt.finish_early(EarlyEnd.LEASE_LOST)
            except (StoreUnavailableError, StoreFullError):
                log.exception("job %s: progress can't be written", attempt.job.id)

        return write


def _seal(attempt: Attempt, output: Path, report: Report) -> Result:
    return seal(output, report, attempt.job.order.format, attempt.token.raise_if_cancelled)


def _outcome_of_failure(job: Job, error: Exception) -> Outcome:
    if isinstance(error, ServiceError):
        found = error.problem
        if found.code == "runner.crashed":
            log.warning("job %s: %s", job.id, found.code)
            return Outcome(JobState.QUEUED, found, crashed=True)
        if found.code == "cluster.unreachable":  # the job is queued again and keeps its stripes
            log.warning("job %s: %s", job.id, found.detail)
            return Outcome(JobState.QUEUED)
        log.info("job %s: %s", job.id, found.code)
        return Outcome(JobState.FAILED, found)
    if isinstance(error, OSError) and is_disk_full(error):
        return Outcome(JobState.FAILED, _DISK_FULL)
    if isinstance(error, ResultChangedError):
        return Outcome(JobState.FAILED, problem("result.verification", f"{error}; check the disk, then retry"))
    log.error("job %s failed", job.id, exc_info=error)
    return Outcome(JobState.FAILED, problem("internal", "the worker failed unexpectedly; see its log for details"))
