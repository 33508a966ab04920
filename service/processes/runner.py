"""Runs decoders and networks in child processes, so that a crash of theirs fails one job and not the program.

This is the parent's side; it loads neither a decoder nor torch. Parent and child exchange the messages of
`service.processes.protocol` over the child's standard input and output. A child (`service.processes.child`) ends when
its standard input does, so that none outlives its parent.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from slidelift.service.errors import Cancelled, ServiceError, problem
from slidelift.service.pipeline.progress import CancelToken, Progress
from slidelift.service.pipeline.report import Report
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.processes.child_process import CHILD_MODULE, ChildEndedError, ChildProcess
from slidelift.service.processes.protocol import (
    Answer,
    Cancel,
    Failed,
    Probed,
    ProbeSlide,
    ProgressChanged,
    RunUpscale,
    UnpackArchive,
    Unpacked,
    Upscaled,
)

CANCEL_SECONDS = 15.0
"""How long a cancelled upscale may go on before its child is killed. A batch of the slowest network takes seconds. The
only such deadline: it must leave a worker time to write the end of its job before `service.worker.STOP_SECONDS`."""
_POLL_SECONDS = 0.2
_RESTART_PAUSES_SECONDS = (1.0, 4.0)
"""Pauses before a killed child is started again: what used up the memory may have ended by then."""

T = TypeVar("T")


class Runner:
    """Runs one upscale after another in one child process, which imports the slow libraries only once.

    A context manager; `close` ends the child.
    """

    def __init__(self) -> None:
        self._child: ChildProcess | None = None

    def run(self, request: UpscaleRequest, on_progress: Callable[[Progress], None], cancel: CancelToken) -> Report:
        """Upscale and return the report; see `service.pipeline.upscale.upscale`.

        Raises
        ------
        ServiceError
            The problem that the child reported; code ``runner.crashed`` if the child itself died.
        Cancelled
            `cancel` was set. A child that does not stop within `CANCEL_SECONDS` is killed.
        """
        child = self._child = self._child or ChildProcess(CHILD_MODULE, "upscale")
        child.send(RunUpscale(request))
        deadline: float | None = None
        while True:
            try:
                answer = child.receive(_POLL_SECONDS)
            except TimeoutError:
                answer = None
            except ChildEndedError:
                self.close()
                name = request.slide_name or request.slide.name
                raise Cancelled if deadline else ServiceError(child.failure(name, request.slide)) from None
            if isinstance(answer, ProgressChanged):
                on_progress(answer.progress)
            elif isinstance(answer, Upscaled):
                return Report.from_dict(answer.report)
            elif answer is not None:
                raise error_of(answer)
            if cancel.is_set and deadline is None:
                deadline = time.monotonic() + CANCEL_SECONDS
                child.send(Cancel())
            if deadline is not None and time.monotonic() > deadline:
                child.kill()

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def __enter__(self) -> "Runner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _do_nothing() -> None:
    pass


def probe(
    slide: Path,
    name: str | None = None,
    between: Callable[[], None] = _do_nothing,
    *,
    timeout_seconds: float = 120,
) -> dict[str, Any]:
    """Read the facts of a slide in a child with little memory and time, which opens it and decodes sample tiles.

    A child that was killed from outside is started again, twice.

    Parameters
    ----------
    name
        Name of the slide in messages; None for the name of its file.
    between
        Called every 0.2 s while the child runs; may raise to stop it.

    Raises
    ------
    ServiceError
        The slide can't be read, or reading it crashed or took too long; slide.not-checked if the child was killed each
        time.
    """
    request = ProbeSlide(slide, name or slide.name)
    return _retried_if_killed(lambda: _probe_once(request, between, timeout_seconds), between)


def _retried_if_killed(work: Callable[[], T], between: Callable[[], None]) -> T:
    for pause in _RESTART_PAUSES_SECONDS:
        try:
            return work()
        except _KilledError:
            end = time.monotonic() + pause
            while time.monotonic() < end:
                between()
                time.sleep(_POLL_SECONDS)
    return work()


class _KilledError(ServiceError):
    """A child was killed from outside; the file is not the cause."""

    def __init__(self, name: str, cause: str) -> None:
        detail = f"{name}: the process that checks it {cause}, most likely because memory has run out"
        super().__init__(problem("slide.not-checked", f"{detail}; the file is not the cause: try again later"))


class _CrashedError(ServiceError):
    """A child was ended by a signal that the file can have caused."""


def _probe_once(request: ProbeSlide, between: Callable[[], None], timeout_seconds: float) -> dict[str, Any]:
    child = ChildProcess(CHILD_MODULE, "probe")
    try:
        answer = _only_answer(child, request, request.name, request.path, between, timeout_seconds)
    except _CrashedError as error:
        detail = f"{error.problem.detail.split(';')[0]}; it is damaged: copy or export it again"
        raise ServiceError(problem("slide.unreadable", detail)) from None
    except TimeoutError:
        detail = (
            f"{request.name}: opening it and decoding nine tiles took more than {timeout_seconds:g} s; it is probably "
            "damaged: copy or export it again"
        )
        raise ServiceError(problem("slide.unreadable", detail)) from None
    if not isinstance(answer, Probed):
        raise error_of(answer)
    return answer.facts


def _only_answer(
    child: ChildProcess,
    request: ProbeSlide | UnpackArchive,
    name: str,
    path: Path,
    between: Callable[[], None],
    timeout_seconds: float = math.inf,
) -> Answer:
    """Send the only request of a child, and end the child once it has answered.

    Raises
    ------
    TimeoutError
        There was no answer in time.
    _KilledError, _CrashedError, ServiceError
        The child was killed from outside; was ended by another signal; could not work at all.
    """
    deadline = time.monotonic() + timeout_seconds
    child.send(request)
    try:
        while True:
            try:
                return child.receive(_POLL_SECONDS)
            except TimeoutError:
                between()
                if time.monotonic() > deadline:
                    raise
    except ChildEndedError:
        if child.was_killed_from_outside:
            raise _KilledError(name, child.cause_of_death()) from None
        is_crash = not child.is_malformed and child.process.returncode < 0
        raise (_CrashedError if is_crash else ServiceError)(child.failure(name, path)) from None
    finally:
        child.kill()
        child.close()


def unpack(
    archive: Path,
    bundle: str,
    target: Path,
    *,
    name: str,
    most_bytes: int,
    free_bytes: int,
    between: Callable[[], None],
) -> str:
    """Unpack the one slide of an archive into an empty folder, in a child with little memory that loads no decoder.

    Parameters
    ----------
    name
        Name of the archive in messages.
    most_bytes, free_bytes
        Limits of the unpacked size: in all, and before the disk's reserve is touched.
    between
        Called every 0.2 s while the child runs; may raise to stop it.

    Returns
    -------
    str
        The slide's main file, relative to `target`.

    Raises
    ------
    ServiceError
        upload.bundle, slide.multi-file, upload.too-large, storage.full; slide.not-checked where the child was killed.
    """
    request = UnpackArchive(archive, bundle, target, most_bytes, free_bytes)
    between()
    child = ChildProcess("slidelift.service.uploads.unpack")
    try:
        answer = _only_answer(child, request, name, archive, between)
    except _CrashedError:
        detail = f"{name}: unpacking it takes more memory or time than allowed; pack it again"
        raise ServiceError(problem("upload.bundle", detail)) from None
    if not isinstance(answer, Unpacked):
        raise error_of(answer)
    return answer.file


def error_of(answer: Answer) -> ServiceError:
    """Make the exception of a child's answer that is not the one that was expected."""
    if not isinstance(answer, Failed):
        return ServiceError(problem("internal", f"a child process answered with {type(answer).__name__}"))
    return Cancelled() if answer.problem.code == "job.cancelled" else ServiceError(answer.problem)
