"""Uploads on disk: what has arrived of each, who may write, and when it goes away.

    <data_dir>/uploads/<upload id>/info.json    what was said when it began, and what became of it
               uploads/<upload id>/data         what has arrived; its size is the offset, so nothing else can disagree
               uploads/<upload id>/lock         held by the one who writes or finishes, freed by the kernel if he dies
               uploads/<upload id>/unchecked    while a piece with a checksum arrives: the offset that it began at
               uploads/<upload id>/slide/       the slide being made of it, until it moves to slides/<upload id>

Several API processes may share the folder: all that must not happen at once happens under a lock of the kernel's.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from slidelift.durable import sync_folder, write_atomically
from slidelift.service.errors import Problem, ServiceError, problem, refusal
from slidelift.service.storage.files import CHUNK_BYTES, full_disk_said, held_lock, remove, too_large
from slidelift.service.uploads.promises import BOOKED_AHEAD_BYTES, Unfinished, claimed_bytes, has_stalled

_ID = re.compile(r"[0-9a-f]{32}")

_LOCK_TRIES, _LOCK_SECONDS = 20, 0.2


class Way(StrEnum):
    """How an upload arrives: whole or as a form in one request, in pieces, or fetched."""

    PUT = "put"
    FORM = "form"
    TUS = "tus"
    URI = "uri"

    @property
    def dies_with_its_request(self) -> bool:
        """True where nobody else knows the upload's id."""
        return self in (Way.PUT, Way.FORM)


class UploadState(StrEnum):
    """Where an upload stands."""

    ARRIVING = "arriving"
    CHECKING = "checking"
    LANDED = "landed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Upload:
    """What is written down of an upload.

    Attributes
    ----------
    id
        Random; the slide that comes of it has the same.
    name
        As its user calls the slide.
    owner
        Id of the token of who began it, None where none is asked for.
    total_bytes
        How many bytes it will have, None while nobody has said.
    booked_bytes
        For how many bytes room is kept: the total, or what is known to be its upper bound.
    metadata
        The client's Upload-Metadata, to be told again.
    arrived
        True once all bytes are there and durable; from then on nothing is appended.
    bytes
        The final size, once it has landed or failed; until then the data's own size counts.
    """

    id: str
    name: str
    way: Way
    owner: str | None
    total_bytes: int | None
    booked_bytes: int
    metadata: str
    created: float
    arrived: bool = False
    bytes: int | None = None
    slide: str | None = None
    error: Problem | None = None

    @property
    def is_settled(self) -> bool:
        """True once it has become a slide or has failed."""
        return self.bytes is not None


_UPLOAD = TypeAdapter(Upload)


@dataclass(frozen=True, slots=True)
class Seen:
    """An upload as it is right now; `busy` while somebody writes or finishes it."""

    upload: Upload
    bytes: int
    expires: float
    busy: bool

    @property
    def state(self) -> UploadState:
        """The one word for it."""
        if self.upload.error is not None:
            return UploadState.FAILED
        if self.upload.slide is not None:
            return UploadState.LANDED
        return UploadState.CHECKING if self._is_whole else UploadState.ARRIVING

    @property
    def waits_to_be_finished(self) -> bool:
        """True where all bytes are there and nobody is at work: whoever was has died."""
        return self._is_whole and not self.upload.is_settled and not self.busy

    @property
    def _is_whole(self) -> bool:
        """Also where a crash came between the last byte and the note of it: a tus client takes that for the end."""
        return self.upload.arrived or (self.upload.way is Way.TUS and self.bytes == self.upload.total_bytes)


class Writer:
    """The one who may change an upload: holds its lock until `close`; keeps no bytes; for one thread at a time."""

    def __init__(self, inbox: "Inbox", folder: Path, lock: int, upload: Upload) -> None:
        self.folder, self.upload = folder, upload
        self._inbox, self._lock = inbox, lock
        self._file = None if upload.is_settled else self.data.open("ab", buffering=0)
        self.bytes = self._file.tell() if self._file else upload.bytes or 0
        self._booked = max(upload.booked_bytes, self.bytes)
        self._hashes: list[Any] = []
        self._sha256 = hashlib.sha256() if self.bytes == 0 else None

    @property
    def data(self) -> Path:
        """The file of what has arrived."""
        return self.folder / "data"

    @property
    def is_cancelled(self) -> bool:
        """True once somebody wants the upload to be gone; a fetch looks here between pieces."""
        return (self.folder / "cancelled").exists()

    @property
    def has_stalled(self) -> bool:
        """True where nothing has come for so long that its room may have gone to others."""
        return has_stalled(_touched(self.folder), time.time())

    @property
    def is_whole(self) -> bool:
        """True where as much has arrived as was announced."""
        return self.upload.total_bytes is not None and self.bytes == self.upload.total_bytes

    def hash_from_here(self, algorithm: str) -> Any:  # a hashlib object; its type has no public name
        """A hash that is fed with all that is appended from now on."""
        found = hashlib.new(algorithm, usedforsecurity=False)
        self._hashes.append(found)
        return found

    def append(self, chunk: bytes) -> None:
        """Write at the end; raises ServiceError (upload.too-large, storage.full), and then nothing of it counts."""
        total = self.upload.total_bytes
        if total is not None and self.bytes + len(chunk) > total:
            raise refusal("upload.too-large", f"more bytes arrived than the {total} that were announced")
        if self.bytes + len(chunk) > self._inbox.max_bytes:
            raise too_large(self._inbox.max_bytes)
        self._require_room(len(chunk))
        rest = memoryview(chunk)
        try:
            with full_disk_said():
                while rest:
                    rest = rest[self._opened.write(rest) :]
        except BaseException:
            self._opened.truncate(self.bytes)
            raise
        self.bytes += len(chunk)
        for one in (*self._hashes, *([self._sha256] if self._sha256 is not None else [])):
            one.update(chunk)

    def sync(self) -> None:
        """Make what was appended durable: only then may it be acknowledged."""
        with full_disk_said():
            os.fsync(self._opened.fileno())

    def truncate(self, size: int) -> None:
        """Forget what was appended after `size`."""
        self._opened.truncate(size)
        os.fsync(self._opened.fileno())
        self.bytes = size
        self._sha256 = None

    def begin_unchecked(self) -> None:
        """Note durably that what follows does not count before `end_unchecked`."""
        with full_disk_said():
            write_atomically(self.folder / "unchecked", str(self.bytes).encode())

    def end_unchecked(self) -> None:
        """What was appended counts; call it after `sync`."""
        (self.folder / "unchecked").unlink()
        sync_folder(self.folder)

    def announce(self, total_bytes: int) -> None:
        """Note the size that was not known when the upload began."""
        self._booked = max(self._booked, total_bytes)
        self.note(replace(self.upload, total_bytes=total_bytes, booked_bytes=total_bytes))

    def arrive(self) -> None:
        """Note durably that all bytes are there."""
        self.sync()
        self.note(replace(self.upload, arrived=True, total_bytes=self.bytes, booked_bytes=self.bytes))

    def sha256(self, between_chunks: Callable[[], None]) -> str:
        """Of all that has arrived; read again unless one writer has seen it all."""
        if self._sha256 is not None:
            return str(self._sha256.hexdigest())
        found = hashlib.sha256()
        with self.data.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                between_chunks()
                found.update(chunk)
        return found.hexdigest()

    def settle(self, slide: str | None, error: Problem | None) -> None:
        """Note what became of it; its bytes go, unless the service itself failed and the client can ask again."""
        self.note(replace(self.upload, slide=slide, error=error, bytes=self.bytes))
        is_kept = self.upload.way is Way.TUS or (self.upload.way is Way.URI and self.upload.arrived)
        if error is None or error.by_user or not is_kept:
            self._close_file()
            remove(self.data)
            remove(self.folder / "slide")

    def outlive_request(self) -> None:
        """From now on it is one that is continued by its id, whichever way it came."""
        self.note(replace(self.upload, way=Way.TUS))

    def reopen(self) -> None:
        """Take back a failure of the service's own, to try once more."""
        self.note(replace(self.upload, error=None, bytes=None))

    def note(self, upload: Upload) -> None:
        """Write down what is now true."""
        with full_disk_said():
            write_atomically(self.folder / "info.json", _UPLOAD.dump_json(upload))
        self.upload = upload

    def touch(self) -> None:
        """Put off the expiry."""
        os.utime(self.folder / "info.json")

    def discard(self) -> None:
        """Leave nothing behind."""
        self._close_file()
        remove(self.folder)
        self.close()

    def close(self) -> None:
        """Let others write; may be called again."""
        self._close_file()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def _opened(self) -> Any:  # an unbuffered io.FileIO
        if self._file is None:
            raise refusal("upload.offset", "the upload has ended; begin another one")
        return self._file

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _require_room(self, wanted: int) -> None:
        """What was announced was admitted, so the disk must do; beyond that, what others were promised counts."""
        self._inbox.require_room(wanted)
        if self.bytes + wanted > self._booked:
            claimed = claimed_bytes(self._inbox.unfinished(but_for=self.upload.id), self.upload.owner)
            self._inbox.require_room(wanted + claimed)
            self._booked = self.bytes + wanted + BOOKED_AHEAD_BYTES


class Inbox:
    """The folder of all uploads; callable from any thread and by several processes.

    Parameters
    ----------
    require_room
        Raises ServiceError storage.full where that many bytes have no room on the disk.
    clock
        Seconds since 1970, by which uploads expire.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        expiry_seconds: float,
        require_room: Callable[[int], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.max_bytes, self.require_room = max_bytes, require_room
        self._folder, self._expiry_seconds, self._clock = folder, expiry_seconds, clock
        folder.mkdir(exist_ok=True)

    def alone(self) -> AbstractContextManager[None]:
        """While inside, no other thread or process begins an upload or sweeps: what is free stays free."""
        return held_lock(self._folder / ".lock", fcntl.LOCK_EX)

    def begin(
        self,
        name: str,
        way: Way,
        *,
        owner: str | None = None,
        total_bytes: int | None = None,
        booked_bytes: int = 0,
        metadata: str = "",
    ) -> Writer:
        """Make the folder of a new upload, inside `alone`; the caller closes or discards the writer."""
        upload_id = uuid.uuid4().hex
        booked = total_bytes if total_bytes is not None else booked_bytes
        upload = Upload(upload_id, name, way, owner, total_bytes, booked, metadata, time.time())
        folder = self._folder / upload_id
        with full_disk_said():
            folder.mkdir()
            lock = self._lock(folder)
            try:
                writer = Writer(self, folder, lock, upload)
            except BaseException:
                os.close(lock)
                remove(folder)
                raise
            try:
                writer.note(upload)
                sync_folder(self._folder)
            except BaseException:
                writer.discard()
                raise
        return writer

    def find(self, upload_id: str) -> Seen:
        """Look at an upload; raises ServiceError upload.unknown, upload.expired."""
        folder = self._known(upload_id)
        try:
            os.close(self._lock(folder, fcntl.LOCK_SH))
        except BlockingIOError:
            return self._look(folder, busy=True)
        return self._look(folder, busy=False)

    def open(self, upload_id: str) -> Writer:
        """Take an upload to change it; raises ServiceError upload.unknown, upload.expired, upload.locked."""
        folder = self._known(upload_id)
        lock = self._lock_soon(folder)
        try:
            seen = self._look(folder, busy=False)
            writer = Writer(self, folder, lock, seen.upload)
            if writer.bytes != seen.bytes and not seen.upload.is_settled:
                writer.truncate(seen.bytes)
            (folder / "unchecked").unlink(missing_ok=True)
        except BaseException:
            os.close(lock)
            raise
        return writer

    def cancel(self, upload_id: str) -> None:
        """Delete an upload; raises ServiceError upload.unknown, upload.locked while another request writes to it."""
        try:
            self.open(upload_id).discard()
        except ServiceError as error:
            seen = self.find(upload_id) if error.problem.code == "upload.locked" else None
            if seen is None or seen.upload.way is not Way.URI or seen.upload.arrived:
                raise
            write_atomically(self._folder / upload_id / "cancelled", b"")  # the fetch will see it

    def unfinished(self, but_for: str = "") -> list[Unfinished]:
        """All uploads that have neither become a slide nor failed."""
        found = []
        for folder in self._folders():
            with contextlib.suppress(OSError, ValueError):
                upload = _read(folder)
                if folder.name != but_for and not upload.is_settled:
                    size, touched = (folder / "data").stat().st_size, _touched(folder)
                    booked = max(size, upload.booked_bytes)
                    found.append(Unfinished(upload.owner, booked, size, has_stalled(touched, time.time())))
        return found

    def sweep(self) -> list[str]:
        """Remove uploads that nobody has touched for long, or that nobody can continue.

        Safe beside any number of processes that receive: what somebody writes is locked, and left alone. A fetch whose
        process has died is noted as failed, since nothing would go on with it.

        Returns
        -------
        list
            Ids of uploads that have arrived whole and wait to be finished, since whoever did that has died.
        """
        waiting = []
        with self.alone():
            for folder in self._folders():
                with contextlib.suppress(BlockingIOError, ServiceError):
                    lock = self._lock(folder)
                    try:
                        if self._waits_after_tidying(folder, lock):
                            waiting.append(folder.name)
                    finally:
                        os.close(lock)
        return waiting

    def _waits_after_tidying(self, folder: Path, lock: int) -> bool:
        try:
            seen = self._look(folder, busy=False)
        except (ServiceError, OSError, ValueError):  # expired, or it never quite began
            remove(folder)
            return False
        upload = seen.upload
        if upload.way.dies_with_its_request or (folder / "cancelled").exists():
            remove(folder)
            return False
        if upload.way is Way.URI and not upload.arrived and not upload.is_settled:
            detail = "the service was stopped while it fetched the slide; ask again"
            writer = Writer(self, folder, os.dup(lock), upload)
            writer.settle(None, problem("upload.interrupted", detail))
            writer.close()
        return seen.waits_to_be_finished

    def _known(self, upload_id: str) -> Path:
        folder = self._folder / upload_id
        if not _ID.fullmatch(upload_id) or not folder.is_dir() or (folder / "cancelled").exists():
            raise unknown(upload_id)
        return folder

    def _look(self, folder: Path, *, busy: bool) -> Seen:
        try:
            upload = _read(folder)
            touched = (folder / "info.json").stat().st_mtime
            size = upload.bytes
            if size is None:
                found = (folder / "data").stat()
                size, touched = found.st_size, max(touched, found.st_mtime)
                with contextlib.suppress(FileNotFoundError):
                    size = min(size, int((folder / "unchecked").read_bytes()))
        except FileNotFoundError as error:
            raise unknown(folder.name) from error
        expires = touched + self._expiry_seconds
        if self._clock() > expires and not busy:
            raise refusal("upload.expired", "nobody has continued this upload for too long; begin another one")
        return Seen(upload, size, expires, busy)

    def _folders(self) -> list[Path]:
        return [path for path in self._folder.iterdir() if path.is_dir()]

    def _lock_soon(self, folder: Path) -> int:
        """Take an upload's lock, past those who only look at whether it is free."""
        for _ in range(_LOCK_TRIES):
            with contextlib.suppress(BlockingIOError):
                return self._lock(folder)
            time.sleep(_LOCK_SECONDS / _LOCK_TRIES)
        raise refusal("upload.locked", "another request writes to this upload; ask again when it has ended")

    @staticmethod
    def _lock(folder: Path, mode: int = fcntl.LOCK_EX) -> int:
        """Take an upload's lock; raises BlockingIOError while another has it, ServiceError upload.unknown."""
        try:
            descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except FileNotFoundError as error:
            raise unknown(folder.name) from error
        try:
            fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor


def _read(folder: Path) -> Upload:
    return _UPLOAD.validate_json((folder / "info.json").read_bytes())


def _touched(folder: Path) -> float:
    """When something was last noted or appended."""
    return max((folder / name).stat().st_mtime for name in ("info.json", "data"))


def unknown(upload_id: str) -> ServiceError:
    """Make the refusal of an id that names no upload, or none of the caller's."""
    return refusal("upload.unknown", f"{upload_id}: no such id, or it has expired; begin another upload")
