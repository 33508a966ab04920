"""Slides and results on disk: what is kept, what is swept away.

    <data_dir>/uploads/<upload id>/               what is arriving; see `service.uploads.inbox`
               slides/<slide id>/slide.svs        arrived whole, synced, probed, then committed to the database
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from service.codes import refusal
from service.jobs.job import Job, JobState, ResultFormat
from service.jobs.slide import Slide
from service.jobs.store import Store, admit_any_bytes
from wsi.durable import sync_folder, write_whole

CHUNK_BYTES = 2**20
REPORT_FILE = "report.json"
BESIDE = {"html": ".report.html", "geojson": ".tissue.geojson"}
"""What `service.pipeline.package` puts beside a result, by its suffix."""


class Storage:
    """The folders below `data_dir`; callable from any thread and by several processes."""

    def __init__(self, data_dir: Path, *, disk_reserve_bytes: int) -> None:
        self._slides, self._jobs = data_dir / "slides", data_dir / "jobs"
        self.disk_reserve_bytes = disk_reserve_bytes
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._slides.mkdir(exist_ok=True)
        self._jobs.mkdir(exist_ok=True)

    def adopt(
        self, folder: Path, slide: Slide, store: Store, admit_bytes: Callable[[int], None] = admit_any_bytes
    ) -> None:
        """Move a slide's folder to where slides lie and commit it to the database; if that fails it is gone.

        Done again after a crash in between, it does what is left to do.
        """
        home = self._slides / slide.id
        with full_disk_said():
            lock = self._lock_slides(fcntl.LOCK_SH)
            try:
                remove(home)
                sync_folder(folder)
                folder.rename(home)
                sync_folder(self._slides)
                store.add_slide(slide, admit_bytes)
            except BaseException:
                remove(home)
                raise
            finally:
                os.close(lock)

    def require_room(self, wanted_bytes: int) -> None:
        """Raise ServiceError storage.full if writing that much would eat into the reserve."""
        free = self.free_bytes()
        if free - wanted_bytes < self.disk_reserve_bytes:
            detail = (
                f"{wanted_bytes} bytes are wanted, {free} are free and {self.disk_reserve_bytes} of them are kept in "
                "reserve; delete results or slides that are no longer needed"
            )
            raise refusal("storage.full", detail)

    def room_bytes(self) -> int:
        """Free on disk less the reserve; negative where that is eaten into."""
        return self.free_bytes() - self.disk_reserve_bytes

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
        return self.free_bytes() >= self.disk_reserve_bytes

    def slide_path(self, slide: Slide) -> Path:
        """Where a slide's file lies."""
        return self._slides / slide.id / slide.file

    def remove_slide(self, slide_id: str) -> None:
        """Delete a slide's files, after the database has forgotten it."""
        shutil.rmtree(self._slides / slide_id, ignore_errors=True)

    def planned_output(self, job_id: str, result_format: ResultFormat) -> Path:
        """Where the pipeline writes, or would."""
        return self._jobs / job_id / f"result{result_format.suffix}"

    def output_path(self, job_id: str, result_format: ResultFormat) -> Path:
        """Where the pipeline writes; its folder is made."""
        output = self.planned_output(job_id, result_format)
        output.parent.mkdir(parents=True, exist_ok=True)
        return output

    def result_path(self, job: Job) -> Path | None:
        """The file to download, None where there is none."""
        if job.result is None or job.result_deleted is not None:
            return None
        return self._jobs / job.id / job.result.file

    def beside_result(self, job: Job, kind: str) -> Path | None:
        """What the pipeline wrote beside a result; None where that is gone."""
        if job.result is None or job.result_deleted is not None:
            return None
        return self._jobs / job.id / f"result{BESIDE[kind]}"

    def report_path(self, job_id: str) -> Path:
        """Where a job's report lies, or would."""
        return self._jobs / job_id / REPORT_FILE

    def write_report(self, job_id: str, report: dict[str, Any]) -> None:
        """Put a report durably in place."""
        with full_disk_said():
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
            files = (report, self.result_path(job), *(self.beside_result(job, kind) for kind in BESIDE))
            kept = {path for path in files if path is not None}
        for path in self._entries(folder):
            if path not in kept and not _is_worked_in(path):
                remove(path)

    def sweep(self, store: Store) -> None:
        """Remove what crashes have left: files of slides and jobs that are no more.

        Does nothing to slides while any process adds one: the next sweep will do.
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
    return name + said.removeprefix(path.name) if said.startswith((f"{path.name}:", f"{path.name} ")) else said


def is_full(error: OSError) -> bool:
    """True for the errors of a full disk or a used-up quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def full_disk_said() -> Iterator[None]:
    """Make of a full disk's error the refusal that says so."""
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
