"""The workspace of a result: a hidden folder beside it with the plan and the finished stripes, kept across crashes."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from slidelift.durable import sync_folder, write_atomically
from slidelift.service.errors import ServiceError, problem
from slidelift.service.pipeline.targets import COMPANIONS, companion
from slidelift.wsi.errors import SegmentDamagedError
from slidelift.wsi.writers.segment import Segment

_IN_PIXELS = ("key", "precision", "plan")
"""Members of the state that the result's bytes depend on; the state has a checksum of them."""


WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
"""Errors of `flock` on a file system without locks."""


def no_locks(error: OSError) -> str:
    """Return the message about a file system without locks."""
    return (
        f"this file system has no file locks ({error.strerror}), without which two runs could spoil each other's work; "
        "choose a folder on another disk"
    )


class Workspace:
    """Context manager of a workspace, which a file lock reserves for one process until the process ends.

    The folder's name holds no ``.zarr``, since readers take the first such part of a path for the image.
    """

    def __init__(self, output: Path) -> None:
        token = hashlib.sha256(os.fsencode(output.name)).hexdigest()[:16]
        self.folder = output.parent / f".slidelift-{token}"
        self._output = output
        self._kept = False
        self.adopted = False
        """Whether the stored work belongs to this request: it was continued or begun."""

    def __enter__(self) -> "Workspace":
        while (lock := self._locked()) is None:
            continue
        self._lock = lock
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not (self._kept and self.state() is not None):
                self._clear()
                (self.folder / "lock").unlink(missing_ok=True)
                with suppress(OSError):  # another process has begun the next run
                    self.folder.rmdir()
        finally:
            os.close(self._lock)

    def _locked(self) -> int | None:
        """Lock the folder and return the descriptor; None if its last owner removed it meanwhile."""
        try:
            with suppress(FileExistsError):  # exist_ok would check again, when it may be gone
                self.folder.mkdir()
        except FileNotFoundError:
            raise ServiceError(
                problem("request.output", f"{self._output.parent}: no such folder; make it, or choose another output")
            ) from None
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise
            raise ServiceError(
                problem("request.output", f"{self._output.parent}: {error.strerror}; choose another output")
            ) from error
        try:
            lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_ino == (self.folder / "lock").stat().st_ino:
                return lock
        except BlockingIOError:
            os.close(lock)
            raise ServiceError(
                problem("request.in-progress", f"{self._output.name} is being made by another process right now")
            ) from None
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(lock)
            if error.errno not in WITHOUT_LOCKS:
                raise
            raise ServiceError(problem("request.output", f"{self._output.parent}: {no_locks(error)}")) from error
        os.close(lock)
        return None

    def _clear(self) -> None:
        for old in self.folder.iterdir():
            if old.name != "lock":
                _remove(old)

    def keep(self) -> None:
        """Keep finished work when the context ends, to be continued; otherwise everything is removed."""
        self._kept = True

    def adopt(self) -> None:
        """Continue the stored work; unfinished files are removed."""
        self.adopted = True
        for partial in self.folder.glob("*.part"):
            partial.unlink(missing_ok=True)

    def state(self) -> dict[str, Any] | None:
        """Return what `begin` stored, or None where it is missing or damaged."""
        try:
            state = json.loads((self.folder / "plan.json").read_bytes())
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
            return None
        return state if _is_state(state) else None

    def begin(self, state: dict[str, Any]) -> None:
        """Remove earlier work and store `state` atomically."""
        self.adopt()
        self._clear()
        write_atomically(self.folder / "plan.json", json.dumps({**state, "checksum": _checksum(state)}).encode())

    def segment_path(self, number: int) -> Path:
        """Path of a stripe's encoded tiles."""
        return self.folder / self.segment_name(number)

    @staticmethod
    def segment_name(number: int) -> str:
        """File name of a stripe in the folder."""
        return f"stripe-{number:05}.segment"

    def finished_segment(self, number: int, require: Callable[[Segment], None]) -> Segment | None:
        """Open a stripe's segment; a damaged one is removed, to be made again.

        Parameters
        ----------
        require
            Raises SegmentDamagedError if an undamaged segment is that of another stripe.
        """
        path = self.segment_path(number)
        try:
            segment = Segment(path)
            require(segment)
        except FileNotFoundError:
            return None
        except (SegmentDamagedError, IsADirectoryError):
            _remove(path)
            return None
        return segment

    @property
    def result(self) -> Path:
        """Where the joined file is written before it is verified."""
        return self.folder / ("joined" + "".join(self._output.suffixes[-2:]))

    @property
    def top_levels(self) -> Path:
        """Path of the coarse levels."""
        return self.folder / "top_levels.segment"

    def clear_result(self) -> None:
        """Remove the remains of an interrupted join."""
        _remove(self.result)

    def write_companion(self, name: str, text: str) -> None:
        """Store one of `COMPANIONS` until the result is published."""
        write_atomically(self.folder / name, text.encode("utf-8"))

    def publish(self) -> None:
        """Move the verified result and its companions to their names, in place of earlier ones; the result is last.

        Where one of them can't be moved, all earlier ones are restored.
        """
        made = {companion(self._output, name): self.folder / name for name in COMPANIONS} | {self._output: self.result}
        earlier = self.folder / "earlier"
        earlier.mkdir(exist_ok=True)
        begun: list[Path] = []
        try:
            for target, new in made.items():
                begun.append(target)
                _keep_aside(target, earlier / target.name)
                new.replace(target)
        except OSError:
            for target in begun:
                kept = earlier / target.name
                if kept.exists():
                    _remove(target)
                    kept.rename(target)
                elif not made[target].exists():
                    _remove(target)
            raise
        sync_folder(self._output.parent)


def _keep_aside(target: Path, kept: Path) -> None:
    """Keep an earlier file under a second name (a folder under another name) until the new one is in place."""
    _remove(kept)
    if target.is_dir():
        target.rename(kept)
    elif target.exists():
        with suppress(OSError):  # a file system without hard links
            kept.hardlink_to(target)


def _is_state(state: Any) -> bool:
    return (
        isinstance(state, dict)
        and state.keys() >= {*_IN_PIXELS, "warnings", "chosen_because", "checksum"}
        and state["checksum"] == _checksum(state)
        and isinstance(state["warnings"], list)
        and all(isinstance(warning, str) for warning in state["warnings"])
        and isinstance(state["chosen_because"], str | None)
    )


def _checksum(state: Mapping[str, Any]) -> str:
    """SHA-256 of the members that pixels depend on."""
    text = json.dumps([state[name] for name in _IN_PIXELS], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _remove(path: Path) -> None:
    """Remove a file or folder, if it exists; a worker of a cluster may have removed it before."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
