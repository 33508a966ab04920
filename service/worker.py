"""The worker: claims jobs one after another and sees each through to its result.

Two threads. The main one claims, waits for the pipeline (which decodes and computes in the runner's child process) and
seals the result. The other, the pulse, keeps the lease, and turns everything that must end the work (a cancellation, a
lost lease, a stop of the worker) into the one thing that the pipeline looks at: its CancelToken.
"""

import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from slidelift.service.errors import EXIT_DONE, EXIT_FAILED, Cancelled, Problem, ServiceError, problem
from slidelift.service.jobs.job import Job, JobState, Outcome, Result, ResultFormat
from slidelift.service.jobs.open_store import open_store
from slidelift.service.jobs.slide import Slide
from slidelift.service.jobs.store import Beat, LeaseLostError, Store, StoreFullError, StoreUnavailableError, WorkerSign
from slidelift.service.logs import about_job, configure
from slidelift.service.pipeline.progress import CancelToken, Progress
from slidelift.service.pipeline.report import Report
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.settings import Settings
from slidelift.service.storage.data_identity import require_same_identity
from slidelift.service.storage.files import Storage, digest, is_full, remove, under_its_name
from slidelift.service.storage.start_checks import require_usable
from slidelift.service.storage.zip_folder import archive

GRACE_SECONDS = 15
"""How long the pipeline gets to look at its token before its process is killed; a batch takes a second or two."""

STOP_SECONDS = 28
"""When a worker that was told to stop leaves, come what may; supervisors kill after 30."""

PROGRESS_SECONDS = 0.5
"""How often progress is worth a commit; whoever polls sees no more."""

log = logging.getLogger(__name__)


_FULL = problem(
    "storage.full", "the disk filled up; make room, then retry the job: it goes on from its last finished stripe"
)


class Pipeline(Protocol):
    """What the worker needs of `service.processes.runner.Runner`."""

    def run(self, request: UpscaleRequest, on_progress: Callable[[Progress], None], cancel: CancelToken) -> Report:
        """Upscale one slide and return the report; raises ServiceError."""

    def close(self) -> None:
        """End the child process, from any thread and also in the middle of a run."""


class _End(StrEnum):
    """Why an attempt must end before it is done, the weightiest last."""

    STOPPED = "the worker stops"
    PAUSED = "paused on request"
    FULL = "the disk has no room but the reserve"
    CANCELLED = "cancelled on request"
    LOST = "another worker has the job"


@dataclass(slots=True)
class _Attempt:
    """One taking of one job, shared by the two threads.

    Attributes
    ----------
    heard_at
        When the pipeline last told its progress; None while it does not run.
    """

    job: Job
    token: CancelToken = field(default_factory=CancelToken)
    end: _End | None = None
    ended_at: float = 0
    heard_at: float | None = None
    is_stalled: bool = False

    def finish_early(self, end: _End) -> None:
        """Ask the pipeline to stop; a lost lease overrides any other reason."""
        if self.end is None:
            self.ended_at = time.monotonic()
        if self.end is None or end is _End.LOST:
            self.end = end
        self.token.cancel()


class Worker:
    """Runs jobs of a store one at a time; owns the runner and the pulse thread, and closes both.

    Parameters
    ----------
    runner_factory
        Makes the Pipeline; called again after one has failed.
    stop
        Set from outside to hand back the running job and return.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        storage: Storage,
        runner_factory: Callable[[], Pipeline],
        stop: threading.Event,
    ) -> None:
        self._settings, self._store, self._storage = settings, store, storage
        self._runner_factory, self._stop = runner_factory, stop
        self._name = name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._sign = WorkerSign(name, 0)
        self._runner: Pipeline | None = None
        self._attempt: _Attempt | None = None
        self._retired = threading.Event()

    def work(self) -> None:
        """Claim and run jobs until told to stop."""
        pulse = threading.Thread(target=self._pulse, name="pulse")
        pulse.start()
        try:
            while not self._stop.is_set():
                job = self._claim()
                if job is None:
                    self._stop.wait(self._settings.poll_seconds)
                else:
                    self._see_through(job)
        finally:
            self._retired.set()
            pulse.join()
            self._drop_runner()

    def _claim(self) -> Job | None:
        try:
            return self._store.claim(self._name)
        except (StoreUnavailableError, StoreFullError):
            log.exception("no job can be claimed")
            return None

    def _see_through(self, job: Job) -> None:
        with about_job(job.id):
            self._attempt_it(job)

    def _attempt_it(self, job: Job) -> None:
        log.info("job %s: attempt %d", job.id, job.attempt)
        self._attempt = attempt = _Attempt(job)
        try:
            outcome = self._outcome(attempt)
            if attempt.end is _End.LOST:
                raise LeaseLostError(_End.LOST)
            settled = self._store.settle(job.id, job.attempt, outcome)
        except LeaseLostError:
            log.warning("job %s: %s", job.id, _End.LOST)
            return
        except (StoreUnavailableError, StoreFullError):
            log.exception("job %s: its end can't be written; its lease runs out and it is taken up again", job.id)
            return
        finally:
            self._attempt = None
            self._sign = replace(self._sign, tiles_per_second=None)
        log.info("job %s: %s", job.id, settled.state)
        if (now := self._store.job(job.id)) is not None:  # it may have been asked for again since
            self._storage.tidy_job(now)

    def _outcome(self, attempt: _Attempt) -> Outcome:
        """Run one attempt to whatever end."""
        try:
            return self._run(attempt)
        except Exception as error:  # noqa: BLE001 - whatever it is, the job ends with it and the worker goes on
            if not isinstance(error, Cancelled):
                self._drop_runner()
            if attempt.end is _End.FULL:
                return Outcome(JobState.FAILED, _FULL)
            if attempt.end is not None:
                cancelled = attempt.end is _End.CANCELLED
                return Outcome(JobState.CANCELLED if cancelled else JobState.QUEUED)
            if attempt.is_stalled:
                return Outcome(JobState.QUEUED, self._stalled(), crashed=True)
            return self._failed(attempt.job, error)

    def _stalled(self) -> Problem:
        seconds = self._settings.stall_seconds
        return problem("runner.stalled", f"the process that decodes and computes made no progress for {seconds:g} s")

    def _run(self, attempt: _Attempt) -> Outcome:
        slide = self._store.slide(attempt.job.order.slide)
        if slide is None:
            detail = f"{attempt.job.order.slide}: the slide is no longer there"
            return Outcome(JobState.FAILED, problem("slide.unknown", detail))
        output = self._storage.begin_attempt(attempt.job)
        sealed = self._left_by_another(attempt, output)
        if sealed is None:
            report = self._report(attempt, output, slide)
            attempt.token.raise_if_cancelled()
            sealed = report, _seal(output, report, attempt)
        report, result = sealed
        result = replace(result, summary=report.summary, few_enhanced=report.tiles.few_enhanced)
        return Outcome(JobState.SUCCEEDED, result=result, warnings=report.warnings)

    def _left_by_another(self, attempt: _Attempt, output: Path) -> tuple[Report, Result] | None:
        """Return the report and result that an earlier attempt finished but did not pack, or None.

        The pipeline's output appears whole, and the report after it. An output without a report, or one that changed
        since its report was made (a power cut can do that), is removed.
        """
        report = self._storage.read_report(attempt.job)
        if report is not None and output.exists():
            try:
                return report, _seal(output, report, attempt)
            except ResultChangedError as error:
                log.warning("job %s: %s; it is made again", attempt.job.id, error)
        self._storage.report_path(attempt.job).unlink(missing_ok=True)
        remove(output)
        return None

    def _report(self, attempt: _Attempt, output: Path, slide: Slide) -> Report:
        """Upscale, and store the report."""
        settings = self._settings
        request = attempt.job.order.request(
            self._storage.slide_path(slide),
            output,
            device=settings.device,
            scheduler=settings.scheduler,
            slide_sha256=slide.sha256,
        )
        if self._runner is None:
            self._runner = self._runner_factory()
        attempt.heard_at = time.monotonic()
        try:
            ran = self._runner.run(request, self._teller(attempt), attempt.token)
        finally:
            attempt.heard_at = None
        report = Report.from_dict(_without_paths(ran.as_dict(), request.slide, output, slide))
        self._sign = replace(self._sign, device=report.model.device)
        self._storage.write_report(attempt.job, report)
        return report

    def _failed(self, job: Job, error: Exception) -> Outcome:
        if isinstance(error, ServiceError):
            found = error.problem
            if found.code == "runner.crashed":
                log.warning("job %s: %s", job.id, found.code)
                return Outcome(JobState.QUEUED, self._pathless(job, found), crashed=True)
            if found.code == "cluster.unreachable":  # finished stripes are kept, and it was waited for long enough
                log.warning("job %s: %s", job.id, found.detail)
                return Outcome(JobState.QUEUED)
            if found.code == "request.in-progress":  # a worker that lost the job has not noticed yet
                self._stop.wait(self._settings.lease_seconds)
                return Outcome(JobState.QUEUED)
            log.info("job %s: %s", job.id, found.code)
            return Outcome(JobState.FAILED, self._pathless(job, found))
        if isinstance(error, OSError) and is_full(error):
            return Outcome(JobState.FAILED, _FULL)
        if isinstance(error, ResultChangedError):
            return Outcome(JobState.FAILED, problem("result.verification", f"{error}; check the disk, then retry"))
        log.error("job %s failed", job.id, exc_info=error)
        return Outcome(JobState.FAILED, problem("internal", "the worker failed unexpectedly; its log says more"))

    def _pathless(self, job: Job, found: Problem) -> Problem:
        slide = self._store.slide(job.order.slide)
        if slide is None:
            return found
        output = self._storage.output_path(job)
        detail = _without_paths(found.detail, self._storage.slide_path(slide), output, slide)
        return Problem(found.code, detail, found.status, found.by_user)

    def _teller(self, attempt: _Attempt) -> Callable[[Progress], None]:
        """Write progress to the store, at each new stage and else now and then."""
        told: tuple[str, float] | None = None

        def tell(progress: Progress) -> None:
            nonlocal told
            now = attempt.heard_at = time.monotonic()
            if told and told[0] == progress.stage and now - told[1] < PROGRESS_SECONDS:
                return
            told = (progress.stage, now)
            self._mind_the_reserve(attempt)
            self._sign = replace(self._sign, tiles_per_second=progress.tiles_per_second, busy=progress.device_busy)
            try:
                self._store.advance(attempt.job.id, attempt.job.attempt, progress)
            except LeaseLostError:
                attempt.finish_early(_End.LOST)
            except (StoreUnavailableError, StoreFullError):
                log.exception("job %s: its progress can't be written", attempt.job.id)

        return tell

    def _mind_the_reserve(self, attempt: _Attempt) -> None:
        """Stop in time: a disk without any room keeps the database from writing down that it is full."""
        if not self._storage.has_reserve():
            attempt.finish_early(_End.FULL)

    def _pulse(self) -> None:
        """Keep the lease and hear of cancellations until the worker retires."""
        last_beat = time.monotonic()
        while True:
            attempt = self._attempt
            try:
                self._store.sign_of_life(self._sign)
                if attempt is not None:
                    beat = self._store.heartbeat(attempt.job.id, attempt.job.attempt)
                    if beat is not Beat.GO_ON:
                        attempt.finish_early(_End.CANCELLED if beat is Beat.CANCEL else _End.PAUSED)
                last_beat = time.monotonic()
            except LeaseLostError:
                if attempt is not None and attempt is self._attempt:
                    attempt.finish_early(_End.LOST)
            except (StoreUnavailableError, StoreFullError):
                log.exception("the heartbeat can't be written")
                if attempt is not None and time.monotonic() - last_beat > self._settings.lease_seconds:
                    attempt.finish_early(_End.LOST)
            if attempt is not None and attempt is self._attempt:
                self._mind_the_reserve(attempt)
                self._press(attempt)
            if self._retired.wait(self._next_beat()):
                return

    def _next_beat(self) -> float:
        """Beat faster while somebody waits for the end of an attempt."""
        ending = self._stop.is_set() or (self._attempt is not None and self._attempt.end is not None)
        return min(0.5, self._settings.heartbeat_seconds) if ending else self._settings.heartbeat_seconds

    def _press(self, attempt: _Attempt) -> None:
        """Stop the attempt if the worker stops; kill a pipeline that does not listen."""
        if self._stop.is_set():
            attempt.finish_early(_End.STOPPED)
        heard_at = attempt.heard_at
        if heard_at is not None and time.monotonic() - heard_at > self._settings.stall_seconds:
            log.warning("job %s: %s, and is ended", attempt.job.id, self._stalled().detail)
            attempt.heard_at, attempt.is_stalled = None, True
            self._drop_runner()
        if attempt.end is not None and time.monotonic() - attempt.ended_at > GRACE_SECONDS:
            log.warning("job %s: its process does not stop and is ended", attempt.job.id)
            self._drop_runner()

    def _drop_runner(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()


def work(settings: Settings, stop: threading.Event, runner_factory: Callable[[], Pipeline] | None = None) -> None:
    """Run jobs of a data folder until `stop` is set; returns within 30 seconds of that."""
    if runner_factory is None:
        from slidelift.service.processes.runner import Runner

        runner_factory = Runner
    storage = Storage(settings.data_dir, disk_reserve_bytes=settings.disk_reserve_bytes)
    store = open_store(settings)
    try:
        require_same_identity(storage, store)
        Worker(settings, store, storage, runner_factory, stop).work()
    finally:
        store.close()


def main(settings: Settings | None = None, runner_factory: Callable[[], Pipeline] | None = None) -> int:
    """Run a worker until SIGTERM or SIGINT; the running job is handed back and goes on where it was."""
    settings = settings or Settings()
    configure(settings.log_format)
    require_usable(settings)
    stop = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if not stop.is_set():
            log.info("%s: handing back the running job", signal.Signals(number).name)
            stop.set()
            last_resort = threading.Timer(STOP_SECONDS, os._exit, (EXIT_FAILED,))
            last_resort.daemon = True
            last_resort.start()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    work(settings, stop, runner_factory)
    return EXIT_DONE


class ResultChangedError(Exception):
    """The result on disk is not the one that was verified."""


def _seal(output: Path, report: Report, attempt: _Attempt) -> Result:
    """Turn the pipeline's output into the file that is downloaded, and return its size and hash.

    The output is read a second time after the report was made, since only that finds a file of unchanged size that the
    disk or another program altered in between.

    Raises
    ------
    ResultChangedError
        The output has another hash than the report says.
    """
    if not output.exists():
        raise FileNotFoundError(f"the pipeline reported success and wrote no {output.name}")
    file, check = output, attempt.token.raise_if_cancelled
    if attempt.job.order.format is ResultFormat.OME_ZARR:
        file = output.with_name(output.name + ".zip")
        found = archive(output, file, check)
        size, sha256 = digest(file, check)
    else:
        size, sha256 = digest(file, check)
        found = sha256
    if found != report.output.sha256:
        remove(file)
        raise ResultChangedError(f"{output.name} is not what was written: the disk or another program changed it")
    return Result(file.name, size, sha256)


def _without_paths(value: Any, source: Path, output: Path, slide: Slide) -> Any:
    """Replace this machine's paths in a report or a message."""
    if isinstance(value, str):
        text = under_its_name(value, source, f"slide {slide.id}")
        return text.replace(str(output), output.name).replace(f"{output.parent}{os.sep}", "")
    if isinstance(value, dict):
        return {key: _without_paths(member, source, output, slide) for key, member in value.items()}
    if isinstance(value, list):
        return [_without_paths(item, source, output, slide) for item in value]
    return value
