"""Where decoders and networks run: a child process, so that a crash of theirs ends a job and not the program.

This is the parent's side; it loads no decoder and no torch. The two speak JSON, a line a message, over the
child's standard input and output. The child (`service.processes.child`) ends when its input does, so that none
outlives its parent, however that died.
"""

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from slidelift.service.errors import Cancelled, Problem, ServiceError, problem
from slidelift.service.pipeline.progress import CancelToken, Progress, Stage
from slidelift.service.pipeline.report import Report
from slidelift.service.pipeline.request import UpscaleRequest

# A cancelled batch of the slowest network takes seconds; after this the child is killed.
_GRACE_SECONDS = 20.0
_POLL_SECONDS = 0.2
_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
"""Ends that no file can cause: the kernel when memory has run out, a supervisor, a person. A file's own limit of
processor time ends with SIGXCPU."""
_PAUSES_SECONDS = (1.0, 4.0)
"""Before a child that was killed is started again: whatever took the memory may have ended by then."""

Done = TypeVar("Done")


class Child:
    """One child process and the reader of its messages."""

    def __init__(self, *module_and_role: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", *module_and_role],  # never a module of the current folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,  # not a file: a probe may write none
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # the terminal's Ctrl-C is the parent's to handle
        )
        self.messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._last_words = ""
        self._overhearing = threading.Thread(target=self._overhear, daemon=True)
        self._overhearing.start()
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None  # noqa: S101 - opened above
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it died: the listener will say so

    def close(self) -> None:
        """Let it end; kill it if it does not within 5 seconds."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it died, and closing sends what is left once more
                self.process.stdin.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def obituary(self, subject: str) -> Problem:
        """Why there is no answer."""
        how = self.cause_of_death()
        self._overhearing.join(timeout=5)
        last = self._last_words.strip().splitlines()[-1:]
        hint = f" ({last[0]})" if last else ""
        return problem(
            "runner.crashed",
            f"{subject}: the process that decodes and computes died of {how}{hint}; the slide may be damaged, or "
            "memory has run out; asking again continues from the last finished stripe",
        )

    @property
    def was_killed(self) -> bool:
        """Whether what ended it came from outside, and says nothing of the file."""
        return -self.process.wait() in _FROM_OUTSIDE

    def cause_of_death(self) -> str:
        """The signal that ended it, or its exit code."""
        code = self.process.wait()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def _overhear(self) -> None:
        """Keep the end of what the child says of its death; it must not block on a full pipe."""
        assert self.process.stderr is not None  # noqa: S101 - opened above
        with self.process.stderr as stream:
            while text := stream.read(1024):
                self._last_words = (self._last_words + text)[-300:]

    def _listen(self) -> None:
        assert self.process.stdout is not None  # noqa: S101 - opened above
        with self.process.stdout as stream:
            for line in stream:
                try:
                    self.messages.put(json.loads(line))
                except json.JSONDecodeError:
                    self.process.kill()  # not our child's words
                    break
        self.messages.put(None)


class Runner:
    """Runs one request after another in a child process, so that what is slow to import is imported once.

    A context manager; `close` ends the child.
    """

    def __init__(self) -> None:
        self._child: Child | None = None

    def run(self, request: UpscaleRequest, on_progress: Callable[[Progress], None], cancel: CancelToken) -> Report:
        """Upscale and return the report; see `service.pipeline.upscale.upscale`.

        Raises
        ------
        ServiceError
            With the problem that the child met; code ``runner.crashed`` where the child itself died.
        Cancelled
            `cancel` was set.
        """
        child = self._child = self._child or Child("slidelift.service.processes.child", "upscale")
        child.send({"request": request.as_dict()})
        deadline: float | None = None
        while True:
            try:
                message = child.messages.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                message = {}
            if message is None:
                self._child = None
                raise Cancelled if deadline else ServiceError(child.obituary(request.slide.name))
            if "progress" in message:
                on_progress(Progress(**{**message["progress"], "stage": Stage(message["progress"]["stage"])}))
            elif "report" in message:
                return Report.from_dict(message["report"])
            elif "problem" in message:
                raise _raised(Problem(**message["problem"]))
            if cancel.is_set and deadline is None:
                deadline = time.monotonic() + _GRACE_SECONDS
                child.send({"cancel": True})
            if deadline is not None and time.monotonic() > deadline:
                child.kill()

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def __enter__(self) -> "Runner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _go_on() -> None:
    """Stop nothing."""


def probe(slide: Path, between: Callable[[], None] = _go_on, *, timeout_seconds: float = 120) -> dict[str, Any]:
    """Facts of a slide, found by a child with little memory and time: it is opened and sample tiles are decoded.

    A child that was killed from outside is started again, twice.

    Parameters
    ----------
    between
        Called while the child is at it; may raise to stop.

    Raises
    ------
    ServiceError
        It can't be read, or reading it crashed or outlasted the decoder; slide.not-checked where the child was killed
        each time.
    """
    return _unless_killed(lambda: _probed(slide, between, timeout_seconds), between)


def _unless_killed(work: Callable[[], Done], between: Callable[[], None]) -> Done:
    for pause in _PAUSES_SECONDS:
        try:
            return work()
        except _KilledError:
            end = time.monotonic() + pause
            while time.monotonic() < end:
                between()
                time.sleep(_POLL_SECONDS)
    return work()


class _KilledError(ServiceError):
    """A child was killed from outside: nothing is known of the file."""

    def __init__(self, subject: str, cause: str) -> None:
        detail = f"{subject}: the process that looks into it was killed ({cause}), most likely since memory has run out"
        super().__init__(problem("slide.not-checked", f"{detail}; nothing is known against the file: ask again later"))


def _probed(slide: Path, between: Callable[[], None], timeout_seconds: float) -> dict[str, Any]:
    child = Child("slidelift.service.processes.child", "probe")
    child.send({"probe": str(slide)})
    try:
        message = _awaited(child, timeout_seconds, between)
        if message is None:
            cause = child.obituary(slide.name)
            if child.was_killed:
                raise _KilledError(slide.name, child.cause_of_death())
            if child.process.returncode >= 0:
                raise ServiceError(cause)  # it could not work at all: not the slide's fault
            raise ServiceError(
                problem("slide.unreadable", f"{cause.detail.split(';')[0]}; it is damaged: copy or export it again")
            )
    except queue.Empty:
        raise ServiceError(
            problem(
                "slide.unreadable",
                f"{slide.name}: opening it and decoding nine tiles took more than {timeout_seconds:g} s; it is "
                "probably damaged: copy or export it again",
            )
        ) from None
    finally:
        child.kill()
        child.close()
    if "problem" in message:
        raise _raised(Problem(**message["problem"]))
    facts: dict[str, Any] = message["facts"]
    return facts


def _awaited(child: Child, timeout_seconds: float, between: Callable[[], None]) -> dict[str, Any] | None:
    """The child's next message, None where it has died; raises queue.Empty when the time is over."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return child.messages.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            between()
            if time.monotonic() > deadline:
                raise


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
        How messages call the archive.
    most_bytes, free_bytes
        What it may unpack to at most, and before the disk's reserve is touched.
    between
        Called again and again while it runs; may raise to stop it.

    Returns
    -------
    str
        The slide's main file, relative to `target`.

    Raises
    ------
    ServiceError
        upload.bundle, slide.multi-file, upload.too-large, storage.full; slide.not-checked where the child was killed.
    """
    request = {"archive": str(archive), "bundle": bundle, "target": str(target)}
    return _unpacked({**request, "most_bytes": most_bytes, "free_bytes": free_bytes}, name, between)


def _unpacked(request: dict[str, Any], name: str, between: Callable[[], None]) -> str:
    child = Child("slidelift.service.uploads.unpack")
    child.send(request)
    try:
        message: dict[str, Any] | None = {}
        while message == {}:
            between()
            with contextlib.suppress(queue.Empty):
                message = child.messages.get(timeout=_POLL_SECONDS)
        if message is None:
            cause = child.obituary(name)
            if child.was_killed:
                raise _KilledError(name, child.cause_of_death())
            if child.process.returncode >= 0:
                raise ServiceError(cause)
            raise ServiceError(problem("upload.bundle", f"{name}: unpacking it takes more than it may; pack it again"))
    finally:
        child.kill()
        child.close()
    if "problem" in message:
        raise ServiceError(Problem(**message["problem"]))
    return str(message["file"])


def _raised(found: Problem) -> ServiceError:
    return Cancelled() if found.code == "job.cancelled" else ServiceError(found)
