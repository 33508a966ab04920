"""Slides and results on disk: what arrives, what is kept, what is swept away.

    <data_dir>/slides/<slide id>/slide.svs        arrived whole, synced, probed, then committed to the database
               slides/<slide id>/arriving         an upload under way
               jobs/<job id>/result.ome.tiff      or result.ome.zarr.zip, made from the folder result.ome.zarr
               jobs/<job id>/report.json

A file appears by write → fsync → rename → commit: what the database knows is whole on disk, and what only the disk
knows is a leftover of a crash, which `Storage.sweep` removes. No path contains a word of a user's.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.codes import refusal
from service.jobs.job import Job, JobState, ResultFormat
from service.jobs.slide import Slide
from service.jobs.store import Store
from wsi.durable import sync_folder, write_whole

SLIDE_SUFFIXES = (
    *(".ome.tiff", ".ome.tif", ".tiff", ".tif", ".svs", ".ndpi", ".scn", ".bif", ".svslide", ".dcm"),
    *(".png", ".jpeg", ".jpg", ".jp2"),
)
"""Suffixes that decoders look at and that a stored file therefore keeps; the longer before those they end in."""

MULTI_FILE_SUFFIXES = (".mrxs", ".vms", ".vmu")
"""Formats whose named file holds no pixels: alone it can't be a slide."""

NAME_MAX_BYTES = 255
CHUNK_BYTES = 2**20
REPORT_FILE = "report.json"


@dataclass(frozen=True, slots=True)
class Landed:
    """A file that has arrived whole and lies where it will stay."""

    slide_id: str
    path: Path
    bytes: int
    sha256: str


class Upload:
    """One slide on its way in; holds no more than the chunk it is given. Whoever began it calls discard or close."""

    def __init__(self, folder: Path, file: str, lock: int, room: Callable[[int], None], max_bytes: int) -> None:
        self._folder, self._final, self._lock = folder, folder / file, lock
        self._arriving = folder / "arriving"
        self._room, self._max_bytes = room, max_bytes
        self._hash, self._bytes = hashlib.sha256(), 0
        self._file = self._arriving.open("xb")

    def write(self, chunk: bytes) -> None:
        """Append, hash and count; raises ServiceError (upload.too-large, storage.full)."""
        if self._bytes + len(chunk) > self._max_bytes:
            raise too_large(self._max_bytes)
        self._room(len(chunk))
        with _full_disk_said():
            self._file.write(chunk)
        self._hash.update(chunk)
        self._bytes += len(chunk)

    def land(self, expected_bytes: int | None, expected_sha256: bytes | None) -> Landed:
        """Check that all of it arrived, and put it durably in place.

        Raises
        ------
        ServiceError
            upload.empty, upload.incomplete, upload.digest-mismatch, storage.full.
        """
        if expected_bytes is not None and self._bytes != expected_bytes:
            detail = f"{self._bytes} of {expected_bytes} bytes arrived; send the file again"
            raise refusal("upload.incomplete", detail)
        if not self._bytes:
            raise refusal(
                "upload.empty", "the body has no bytes; send the slide's file as it is: curl -T slide.svs URL"
            )
        if expected_sha256 is not None and self._hash.digest() != expected_sha256:
            detail = (
                f"what arrived has SHA-256 {self._hash.hexdigest()}, the header says otherwise; send the file again"
            )
            raise refusal("upload.digest-mismatch", detail)
        with _full_disk_said():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._arriving.rename(self._final)
            sync_folder(self._folder)
            sync_folder(self._folder.parent)
        return Landed(self._folder.name, self._final, self._bytes, self._hash.hexdigest())

    def discard(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(OSError):  # closing flushes, and a full disk says so once more
            self._file.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Let go of the lock that keeps the sweep away."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class Storage:
    """The folders below `data_dir`; callable from any thread and by several processes."""

    def __init__(self, data_dir: Path, *, max_upload_bytes: int, disk_reserve_bytes: int) -> None:
        self._slides, self._jobs = data_dir / "slides", data_dir / "jobs"
        self._max_upload_bytes, self._disk_reserve_bytes = max_upload_bytes, disk_reserve_bytes
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._slides.mkdir(exist_ok=True)
        self._jobs.mkdir(exist_ok=True)

    def receive(self, name: str, expected_bytes: int | None) -> Upload:
        """Begin an upload.

        Parameters
        ----------
        name
            As the user calls the slide; only a known suffix of it reaches the disk.
        expected_bytes
            What the sender announced, None if nothing.

        Raises
        ------
        ServiceError
            upload.name, slide.multi-file, upload.too-large, storage.full: all before a byte is read.
        """
        file = stored_file_name(name)
        if expected_bytes is not None and expected_bytes > self._max_upload_bytes:
            raise too_large(self._max_upload_bytes)
        self.require_room(expected_bytes or 0)
        folder = self._slides / uuid.uuid4().hex
        with _full_disk_said():
            lock = self._lock_slides(fcntl.LOCK_SH)
            try:
                folder.mkdir()
                return Upload(folder, file, lock, self.require_room, self._max_upload_bytes)
            except OSError:
                os.close(lock)
                shutil.rmtree(folder, ignore_errors=True)
                raise

    def require_room(self, wanted_bytes: int) -> None:
        """Raise ServiceError storage.full if writing that much would eat into the reserve."""
        free = self.free_bytes()
        if free - wanted_bytes < self._disk_reserve_bytes:
            detail = (
                f"{wanted_bytes} bytes are wanted, {free} are free and {self._disk_reserve_bytes} of them are kept in "
                "reserve; delete results or slides that are no longer needed"
            )
            raise refusal("storage.full", detail)

    def room_bytes(self) -> int:
        """Free on disk less the reserve; negative where that is eaten into."""
        return self.free_bytes() - self._disk_reserve_bytes

    def written_bytes(self, job: Job) -> int:
        """What a job's files take now."""
        total = 0
        for path in (self._jobs / job.id).rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # renamed or removed while we look
                total += path.lstat().st_blocks * 512
        return total

    def free_bytes(self) -> int:
        """Room left on the disk of the slides."""
        return shutil.disk_usage(self._slides).free

    def has_reserve(self) -> bool:
        """True while more than the reserve is free."""
        return self.free_bytes() >= self._disk_reserve_bytes

    def slide_path(self, slide: Slide) -> Path:
        """Where a slide's file lies."""
        return self._slides / slide.id / slide.file

    def remove_slide(self, slide_id: str) -> None:
        """Delete a slide's files, after the database has forgotten it."""
        shutil.rmtree(self._slides / slide_id, ignore_errors=True)

    def output_path(self, job_id: str, result_format: ResultFormat) -> Path:
        """Where the pipeline writes; its folder is made."""
        folder = self._jobs / job_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"result{result_format.suffix}"

    def result_path(self, job: Job) -> Path | None:
        """The file to download, None where there is none."""
        if job.result is None or job.result_deleted is not None:
            return None
        return self._jobs / job.id / job.result.file

    def report_path(self, job_id: str) -> Path:
        """Where a job's report lies, or would."""
        return self._jobs / job_id / REPORT_FILE

    def write_report(self, job_id: str, report: dict[str, Any]) -> None:
        """Put a report durably in place."""
        with _full_disk_said():
            write_whole(self.report_path(job_id), json.dumps(report, ensure_ascii=False, indent=2).encode())

    def read_report(self, job_id: str) -> dict[str, Any] | None:
        """The report of a job, None where there is none."""
        try:
            report: dict[str, Any] = json.loads(self.report_path(job_id).read_bytes())
        except FileNotFoundError:
            return None
        return report

    def tidy_job(self, job: Job) -> None:
        """Remove of an ended job what is of no use: all but a success's result and report, and a failure's stripes."""
        if not job.state.is_ended:
            return
        folder = self._jobs / job.id
        if job.state is JobState.FAILED and job.result_deleted is None:
            kept = set(folder.glob(".slidelift-*"))
        else:
            report = self.report_path(job.id) if job.state is JobState.SUCCEEDED else None
            kept = {path for path in (report, self.result_path(job)) if path is not None}
        for path in self._entries(folder):
            if path not in kept and not _is_worked_in(path):
                remove(path)

    def sweep(self, store: Store) -> None:
        """Remove what crashes have left: uploads that never arrived, files of slides and jobs that are no more.

        Does nothing to slides while any process receives one: the next start will do.
        """
        with contextlib.suppress(BlockingIOError):
            lock = self._lock_slides(fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                for folder in self._entries(self._slides):
                    if folder.is_dir() and store.slide(folder.name) is None:
                        remove(folder)
            finally:
                os.close(lock)
        for folder in self._entries(self._jobs):
            job = store.job(folder.name)
            if job is None:
                remove(folder)
            else:
                self.tidy_job(job)

    def _lock_slides(self, mode: int) -> int:
        descriptor = os.open(self._slides / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, mode)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    @staticmethod
    def _entries(folder: Path) -> list[Path]:
        return sorted(folder.iterdir()) if folder.is_dir() else []


def stored_file_name(name: str) -> str:
    """The safe file name under which a slide of that name is stored.

    Raises
    ------
    ServiceError
        upload.name where a file could not be called so; slide.multi-file where one file can't be the slide.
    """
    size = len(name.encode("utf-8", errors="replace"))
    if not name.strip() or name in (".", "..") or size > NAME_MAX_BYTES:
        raise refusal("upload.name", f"a name is 1 to {NAME_MAX_BYTES} bytes long and neither blank, '.' nor '..'")
    if any(character in "/\\" or not character.isprintable() for character in name):
        raise refusal("upload.name", "a name holds no slash, backslash or control character; send the bare file name")
    lower = name.lower()
    for suffix in MULTI_FILE_SUFFIXES:
        if lower.endswith(suffix):
            detail = (
                f"a {suffix} slide is several files and an upload is one; run `slidelift upscale` where the files lie, "
                "or convert the slide to OME-TIFF"
            )
            raise refusal("slide.multi-file", detail)
    return "slide" + next((suffix for suffix in SLIDE_SUFFIXES if lower.endswith(suffix)), "")


def too_large(max_bytes: int) -> Exception:
    """The refusal of an upload over the limit."""
    return refusal("upload.too-large", f"this service takes up to {max_bytes} bytes (SLIDELIFT_MAX_UPLOAD_BYTES)")


def digest(path: Path, between_chunks: Callable[[], None]) -> tuple[int, str]:
    """Size and SHA-256 of a file; `between_chunks` may raise to stop."""
    sha256, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            between_chunks()
            sha256.update(chunk)
            size += len(chunk)
    return size, sha256.hexdigest()


def under_its_name(said: str, path: Path, name: str) -> str:
    """A message about a stored file, in the word that its reader knows the slide by."""
    said = said.replace(str(path), name)
    return name + said.removeprefix(path.name) if said.startswith(f"{path.name}:") else said


def is_full(error: OSError) -> bool:
    """True for the errors of a full disk or a used-up quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def _full_disk_said() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise refusal("storage.full", "the disk is full; delete results or slides no longer needed") from error
        raise


def _is_worked_in(workspace: Path) -> bool:
    """Whether a process holds the lock of `service.pipeline.workspace`: somebody has just asked for the job again."""
    try:
        lock = os.open(workspace / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def remove(path: Path) -> None:
    """Delete a file or a folder; there may be none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
