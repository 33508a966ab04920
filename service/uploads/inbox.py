"""The folder of all uploads.

    <data_dir>/uploads/<upload id>/info.json    the record of the upload
               uploads/<upload id>/data         the received bytes; the file's size is the upload's offset
               uploads/<upload id>/lock         locked by the process that writes or finishes the upload
               uploads/<upload id>/unchecked    while a piece with a checksum arrives: the offset where the piece began
               uploads/<upload id>/cancelled    the upload was deleted while it is being fetched
               uploads/<upload id>/slide/       the slide made of the data, before it moves to slides/<upload id>

Several API processes may share the folder; file locks exclude them from each other.
"""

import contextlib
import fcntl
import os
import re
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from slidelift.durable import sync_folder, write_atomically
from slidelift.service.errors import ServiceError, problem, refusal
from slidelift.service.storage.disk import locked_file, map_disk_full, remove
from slidelift.service.uploads.errors import unknown_upload
from slidelift.service.uploads.reservations import UnfinishedUpload, has_stalled
from slidelift.service.uploads.upload import Upload, UploadMethod, UploadStatus
from slidelift.service.uploads.upload_lock import lock_upload, lock_upload_soon
from slidelift.service.uploads.writer import WriteLimits, Writer, last_modified, read_upload

_ID = re.compile(r"[0-9a-f]{32}")


class Inbox:
    """The folder of all uploads; thread-safe and safe for several processes.

    Parameters
    ----------
    require_space
        Raises ServiceError storage.full if the disk has no space for so many bytes.
    clock
        Seconds since 1970, by which uploads expire.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        expiry_seconds: float,
        require_space: Callable[[int], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.max_bytes, self._require_space = max_bytes, require_space
        self._folder, self._expiry_seconds, self._clock = folder, expiry_seconds, clock
        folder.mkdir(exist_ok=True)

    def exclusive(self) -> AbstractContextManager[None]:
        """Exclude other threads and processes that begin uploads or delete expired ones."""
        return locked_file(self._folder / ".lock", fcntl.LOCK_EX)

    def create(
        self,
        name: str,
        method: UploadMethod,
        *,
        owner: str | None = None,
        total_bytes: int | None = None,
        expected_bytes: int = 0,
        metadata: str = "",
    ) -> Writer:
        """Make the folder of a new upload, inside `exclusive`; the caller closes or discards the writer."""
        upload_id = uuid.uuid4().hex
        expected = total_bytes if total_bytes is not None else expected_bytes
        upload = Upload(upload_id, name, method, owner, total_bytes, expected, metadata, time.time())
        folder = self._folder / upload_id
        with map_disk_full():
            folder.mkdir()
            lock = lock_upload(folder)
            try:
                writer = self._writer(folder, lock, upload)
            except BaseException:
                os.close(lock)
                remove(folder)
                raise
            try:
                writer.save(upload)
                sync_folder(self._folder)
            except BaseException:
                writer.discard()
                raise
        return writer

    def status(self, upload_id: str) -> UploadStatus:
        """Return the status of an upload; raises ServiceError upload.unknown, upload.expired."""
        folder = self._folder_of(upload_id)
        try:
            os.close(lock_upload(folder, fcntl.LOCK_SH))
        except BlockingIOError:
            return self._status(folder, is_locked=True)
        return self._status(folder, is_locked=False)

    def open(self, upload_id: str) -> Writer:
        """Lock an upload for writing; raises ServiceError upload.unknown, upload.expired, upload.locked."""
        folder = self._folder_of(upload_id)
        lock = lock_upload_soon(folder)
        try:
            status = self._status(folder, is_locked=False)
            writer = self._writer(folder, lock, status.upload)
            if writer.bytes != status.bytes and not status.upload.is_finished:
                writer.truncate(status.bytes)
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
            status = self.status(upload_id) if error.problem.code == "upload.locked" else None
            if status is None or status.upload.method is not UploadMethod.URI or status.upload.is_complete:
                raise
            write_atomically(self._folder / upload_id / "cancelled", b"")  # the fetch tests for this file

    def unfinished(self, except_id: str = "") -> list[UnfinishedUpload]:
        """Return all uploads that have neither become a slide nor failed, except one."""
        found = []
        for folder in self._folders():
            with contextlib.suppress(OSError, ValueError):
                upload = read_upload(folder)
                if folder.name != except_id and not upload.is_finished:
                    size = (folder / "data").stat().st_size
                    is_stalled = has_stalled(last_modified(folder), time.time())
                    found.append(UnfinishedUpload(upload.owner, max(size, upload.expected_bytes), size, is_stalled))
        return found

    def delete_expired(self) -> list[str]:
        """Delete uploads that have expired or that nobody can continue.

        Safe beside any number of processes that receive uploads, because locked uploads are skipped. A fetch whose
        process was killed is recorded as failed.

        Returns
        -------
        list
            Ids of uploads whose bytes are complete and whose finishing was interrupted.
        """
        interrupted = []
        with self.exclusive():
            for folder in self._folders():
                with contextlib.suppress(BlockingIOError, ServiceError):
                    lock = lock_upload(folder)
                    try:
                        if self._is_interrupted(folder, lock):
                            interrupted.append(folder.name)
                    finally:
                        os.close(lock)
        return interrupted

    def _is_interrupted(self, folder: Path, lock: int) -> bool:
        """Delete the upload if it is of no use; return True if it needs finishing."""
        try:
            status = self._status(folder, is_locked=False)
        except (ServiceError, OSError, ValueError):  # expired, or its creation was cut short
            remove(folder)
            return False
        upload = status.upload
        if upload.method.is_single_request or (folder / "cancelled").exists():
            remove(folder)
            return False
        if upload.method is UploadMethod.URI and not upload.is_complete and not upload.is_finished:
            detail = "the service stopped while it fetched the slide; send the request again"
            writer = self._writer(folder, os.dup(lock), upload)
            writer.set_outcome(None, problem("upload.interrupted", detail))
            writer.close()
        return status.needs_finishing

    def _writer(self, folder: Path, lock: int, upload: Upload) -> Writer:
        return Writer(folder, lock, upload, WriteLimits(self.max_bytes, self._require_space, self.unfinished))

    def _folder_of(self, upload_id: str) -> Path:
        folder = self._folder / upload_id
        if not _ID.fullmatch(upload_id) or not folder.is_dir() or (folder / "cancelled").exists():
            raise unknown_upload(upload_id)
        return folder

    def _status(self, folder: Path, *, is_locked: bool) -> UploadStatus:
        try:
            upload = read_upload(folder)
            modified = (folder / "info.json").stat().st_mtime
            size = upload.bytes
            if size is None:
                data = (folder / "data").stat()
                size, modified = data.st_size, max(modified, data.st_mtime)
                with contextlib.suppress(FileNotFoundError):
                    size = min(size, int((folder / "unchecked").read_bytes()))
        except FileNotFoundError as error:
            raise unknown_upload(folder.name) from error
        expires = modified + self._expiry_seconds
        if self._clock() > expires and not is_locked:
            raise refusal("upload.expired", "the upload was not continued in time and has expired; begin a new upload")
        return UploadStatus(upload, size, expires, is_locked)

    def _folders(self) -> list[Path]:
        return [path for path in self._folder.iterdir() if path.is_dir()]
