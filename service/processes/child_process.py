"""A child process and its messages, as the parent sees them."""

import contextlib
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

from slidelift.service.errors import Problem, problem
from slidelift.service.processes.protocol import Answer, MalformedMessageError, Request, decode_answer, encode
from slidelift.wsi.errors import without_path

CHILD_MODULE = "slidelift.service.processes.child"
_OUTSIDE_SIGNALS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
"""Signals that no file can cause: they come from the kernel when memory has run out, from a supervisor or a person. A
child that exceeds its processor time gets SIGXCPU."""
_CLOSE_SECONDS = 5
_STDERR_CHARACTERS = 300


class ChildEndedError(Exception):
    """The child ended, or was ended because of a malformed message, before it answered."""


class ChildProcess:
    """One child process; a thread of its own reads its messages."""

    def __init__(self, *module_and_role: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", *module_and_role],  # never a module of the current folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,  # not a file: a probe may not write files
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # the parent handles the terminal's Ctrl-C
        )
        self._answers: queue.Queue[Answer | None] = queue.Queue()
        self._malformed: str | None = None
        self._stderr_end = ""
        self._stderr_reader = threading.Thread(target=self._read_stderr, daemon=True)
        self._stderr_reader.start()
        threading.Thread(target=self._read_answers, daemon=True).start()

    def send(self, message: Request) -> None:
        assert self.process.stdin is not None  # noqa: S101 - opened above
        with contextlib.suppress(BrokenPipeError):  # it died: `receive` raises
            self.process.stdin.write(encode(message))
            self.process.stdin.flush()

    def receive(self, timeout_seconds: float) -> Answer:
        """Wait for the next message.

        Raises
        ------
        TimeoutError
            No message arrived in time.
        ChildEndedError
            The child has ended.
        """
        try:
            answer = self._answers.get(timeout=timeout_seconds)
        except queue.Empty:
            raise TimeoutError from None
        if answer is None:
            raise ChildEndedError
        return answer

    def close(self) -> None:
        """Close its input, at which it ends; kill it if it has not ended after 5 seconds."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # closing flushes what a dead child did not read
                self.process.stdin.close()
        try:
            self.process.wait(timeout=_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill it and wait for its end."""
        self.process.kill()
        self.process.wait()

    def failure(self, name: str, path: Path) -> Problem:
        """Describe why there is no answer; waits for the end of the process.

        Parameters
        ----------
        name, path
            Name of the child's file in the message; and the file's path, which the message never contains.
        """
        end = self.cause_of_death()
        self._stderr_reader.join(timeout=_CLOSE_SECONDS)
        last_line = self._stderr_end.strip().splitlines()[-1:]
        hint = f" ({without_path(last_line[0], path, name)})" if last_line else ""
        return problem(
            "runner.crashed",
            f"{name}: the process that decodes and computes {end}{hint}; the slide may be damaged, or memory has run "
            "out; asking again continues from the last finished stripe",
        )

    @property
    def was_killed_from_outside(self) -> bool:
        """Whether a signal from outside ended it, so that its file is not the cause."""
        return not self.is_malformed and -self.process.wait() in _OUTSIDE_SIGNALS

    @property
    def is_malformed(self) -> bool:
        """Whether it was ended because it sent a malformed message."""
        return self._malformed is not None

    def cause_of_death(self) -> str:
        """Describe how it ended, as a predicate whose subject is the process."""
        if self._malformed is not None:
            return f"sent a malformed message ({self._malformed})"
        code = self.process.wait()
        return f"died of signal {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def _read_stderr(self) -> None:
        """Keep the end of its error output, and keep it from blocking on a full pipe."""
        assert self.process.stderr is not None  # noqa: S101 - opened above
        with self.process.stderr as stream:
            while text := stream.read(1024):
                self._stderr_end = (self._stderr_end + text)[-_STDERR_CHARACTERS:]

    def _read_answers(self) -> None:
        assert self.process.stdout is not None  # noqa: S101 - opened above
        with self.process.stdout as stream:
            for line in stream:
                try:
                    self._answers.put(decode_answer(line))
                except MalformedMessageError as error:
                    self._malformed = str(error)
                    self.process.kill()
                    break
        self._answers.put(None)
