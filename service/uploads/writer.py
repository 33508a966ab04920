"""Writes the data and the record of one upload."""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from slidelift.durable import sync_folder, write_atomically
from slidelift.service.errors import Problem, refusal
from slidelift.service.storage.disk import CHUNK_BYTES, map_disk_full, remove
from slidelift.service.uploads.errors import upload_too_large
from slidelift.service.uploads.reservations import (
    RESERVED_AHEAD_BYTES,
    UnfinishedUpload,
    has_stalled,
    reserved_bytes,
)
from slidelift.service.uploads.upload import Upload, UploadMethod

_UPLOAD = TypeAdapter(Upload)


@dataclass(frozen=True, slots=True)
class WriteLimits:
    """Limits that each appended chunk must keep.

    Attributes
    ----------
    require_space
        Raises ServiceError storage.full if the disk has no space for so many bytes.
    unfinished
        Returns all unfinished uploads except the one of the given id.
    """

    max_bytes: int
    require_space: Callable[[int], None]
    unfinished: Callable[[str], list[UnfinishedUpload]]


class Writer:
    """Exclusive access to one upload: holds its lock until `close`. Not thread-safe.

    Parameters
    ----------
    lock
        Descriptor of the locked file; the writer closes it.
    """

    def __init__(self, folder: Path, lock: int, upload: Upload, limits: WriteLimits) -> None:
        self.folder, self.upload = folder, upload
        self._limits, self._lock = limits, lock
        self._file = None if upload.is_finished else self.data.open("ab", buffering=0)
        self.bytes = self._file.tell() if self._file else upload.bytes or 0
        self._reserved_until = max(upload.expected_bytes, self.bytes)
        self._hashes: list[Any] = []
        self._sha256 = hashlib.sha256() if self.bytes == 0 else None

    @property
    def data(self) -> Path:
        """The file of received bytes."""
        return self.folder / "data"

    @property
    def is_cancelled(self) -> bool:
        """True once a client has deleted the upload while it is being fetched."""
        return (self.folder / "cancelled").exists()

    @property
    def has_stalled(self) -> bool:
        """True if nothing was received for so long that the upload's reservation has ended."""
        return has_stalled(last_modified(self.folder), time.time())

    @property
    def has_announced_size(self) -> bool:
        """True if as many bytes were received as announced."""
        return self.upload.total_bytes is not None and self.bytes == self.upload.total_bytes

    def hash_from_here(self, algorithm: str) -> Any:  # a hashlib object; its type has no public name
        """Return a hash object that is updated with all bytes appended from now on."""
        made = hashlib.new(algorithm, usedforsecurity=False)
        self._hashes.append(made)
        return made

    def append(self, chunk: bytes) -> None:
        """Append a chunk; on an error nothing of it is kept.

        Raises
        ------
        ServiceError
            upload.too-large, storage.full.
        """
        total = self.upload.total_bytes
        if total is not None and self.bytes + len(chunk) > total:
            raise refusal("upload.too-large", f"the upload was announced with {total} bytes, and more were sent")
        if self.bytes + len(chunk) > self._limits.max_bytes:
            raise upload_too_large(self._limits.max_bytes)
        self._require_space(len(chunk))
        rest = memoryview(chunk)
        try:
            with map_disk_full():
                while rest:
                    rest = rest[self._open_file.write(rest) :]
        except BaseException:
            self._open_file.truncate(self.bytes)
            raise
        self.bytes += len(chunk)
        for one in (*self._hashes, *([self._sha256] if self._sha256 is not None else [])):
            one.update(chunk)

    def sync(self) -> None:
        """Make the appended bytes durable; they may be acknowledged only afterwards."""
        with map_disk_full():
            os.fsync(self._open_file.fileno())

    def truncate(self, size: int) -> None:
        """Drop the bytes after `size`."""
        self._open_file.truncate(size)
        os.fsync(self._open_file.fileno())
        self.bytes = size
        self._sha256 = None

    def begin_unchecked(self) -> None:
        """Record durably that the bytes that follow do not count before `end_unchecked`."""
        with map_disk_full():
            write_atomically(self.folder / "unchecked", str(self.bytes).encode())

    def end_unchecked(self) -> None:
        """Let the appended bytes count; call it after `sync`."""
        (self.folder / "unchecked").unlink()
        sync_folder(self.folder)

    def set_total_bytes(self, total_bytes: int) -> None:
        """Record a size that was unknown when the upload began."""
        self._reserved_until = max(self._reserved_until, total_bytes)
        self.save(replace(self.upload, total_bytes=total_bytes, expected_bytes=total_bytes))

    def mark_complete(self) -> None:
        """Record durably that all bytes were received."""
        self.sync()
        self.save(replace(self.upload, is_complete=True, total_bytes=self.bytes, expected_bytes=self.bytes))

    def sha256(self, check: Callable[[], None]) -> str:
        """Return the hash of all received bytes; reads them again unless this writer received them all.

        Parameters
        ----------
        check
            Called after each chunk; may raise to stop.
        """
        if self._sha256 is not None:
            return str(self._sha256.hexdigest())
        digest = hashlib.sha256()
        with self.data.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                check()
                digest.update(chunk)
        return digest.hexdigest()

    def set_outcome(self, slide: str | None, error: Problem | None) -> None:
        """Record the slide or the error. The data is deleted, unless the service failed and the client can retry."""
        self.save(replace(self.upload, slide=slide, error=error, bytes=self.bytes))
        method = self.upload.method
        can_retry = method is UploadMethod.TUS or (method is UploadMethod.URI and self.upload.is_complete)
        if error is None or error.by_user or not can_retry:
            self._close_file()
            remove(self.data)
            remove(self.folder / "slide")

    def make_resumable(self) -> None:
        """Turn the upload into a tus upload, which a client continues by its id."""
        self.save(replace(self.upload, method=UploadMethod.TUS))

    def clear_error(self) -> None:
        """Remove a failure of the service, to try again."""
        self.save(replace(self.upload, error=None, bytes=None))

    def save(self, upload: Upload) -> None:
        """Replace the record of the upload."""
        with map_disk_full():
            write_atomically(self.folder / "info.json", _UPLOAD.dump_json(upload))
        self.upload = upload

    def touch(self) -> None:
        """Postpone the expiry."""
        os.utime(self.folder / "info.json")

    def discard(self) -> None:
        """Delete the upload."""
        self._close_file()
        remove(self.folder)
        self.close()

    def close(self) -> None:
        """Release the lock; may be called again."""
        self._close_file()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def _open_file(self) -> Any:  # an unbuffered io.FileIO
        if self._file is None:
            raise refusal("upload.offset", "the upload has ended; begin a new upload")
        return self._file

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _require_space(self, size: int) -> None:
        """Within the admitted size only the disk counts; beyond it, the reservations of other uploads count too."""
        self._limits.require_space(size)
        if self.bytes + size > self._reserved_until:
            reserved = reserved_bytes(self._limits.unfinished(self.upload.id), self.upload.owner)
            self._limits.require_space(size + reserved)
            self._reserved_until = self.bytes + size + RESERVED_AHEAD_BYTES


def read_upload(folder: Path) -> Upload:
    """Read the record of an upload; raises OSError, ValueError."""
    return _UPLOAD.validate_json((folder / "info.json").read_bytes())


def last_modified(folder: Path) -> float:
    """Return when the record or the data last changed."""
    return max((folder / name).stat().st_mtime for name in ("info.json", "data"))
