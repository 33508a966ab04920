"""Files of slides and results below the data folder.

    <data_dir>/uploads/<upload id>/                   uploads; see `service.uploads.inbox`
               slides/<slide id>/slide.svs            moved here after upload and probe, then committed to the database
               jobs/<job id>/attempt-3/               all files that the third attempt of a job writes
               jobs/<job id>/attempt-3/result.ome.tiff      or result.ome.zarr.zip, packed from result.ome.zarr
               jobs/<job id>/attempt-3/report.json
               set-aside/<seconds>-slide-<slide id>/  unknown to the database; see `service.storage.set_aside`
               identity                               also in the database; see `service.storage.data_identity`

Each file is written, synced, renamed and only then committed, so files that the database knows are complete. No path
contains text of a user.

An attempt writes only into the folder of its own number. The next attempt takes over the work by renaming that folder.
A process of an earlier attempt that is still running finds its paths gone, so it can neither change nor remove files of
a later attempt.
"""

import contextlib
import fcntl
import shutil
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from slidelift.durable import sync_folder, write_atomically
from slidelift.service.errors import refusal
from slidelift.service.jobs.job import Job, JobState
from slidelift.service.jobs.slide import Slide
from slidelift.service.jobs.store import Store, admit_any_bytes
from slidelift.service.pipeline.report import Report, ReportError
from slidelift.service.storage.disk import list_folder, locked_file, map_disk_full, remove
from slidelift.service.storage.set_aside import SetAside

REPORT_FILE = "report.json"
WORKSPACE_PREFIX = ".slidelift-"
"""Prefix of the folder where `service.pipeline.workspace` keeps finished stripes."""
_ATTEMPT, _DISCARDED = "attempt-", ".discarded"
COMPANION_SUFFIXES = {"html": ".report.html", "geojson": ".tissue.geojson"}
"""Suffixes of the files that `service.pipeline.companion_files` writes beside a result."""


class Storage:
    """The folders below `data_dir`; thread-safe and safe for several processes."""

    def __init__(self, data_dir: Path, *, disk_reserve_bytes: int) -> None:
        self.data_dir = data_dir
        self._slides, self._jobs = data_dir / "slides", data_dir / "jobs"
        self._set_aside, self._identity = SetAside(data_dir / "set-aside"), data_dir / "identity"
        self.disk_reserve_bytes = disk_reserve_bytes
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._slides.mkdir(exist_ok=True)
        self._jobs.mkdir(exist_ok=True)

    def add_slide(
        self, folder: Path, slide: Slide, store: Store, admit_bytes: Callable[[int], None] = admit_any_bytes
    ) -> None:
        """Move a slide's folder here and commit the slide to the database; on an error the folder is deleted.

        Calling it again after a crash completes the work.
        """
        home = self._slides / slide.id
        with map_disk_full(), locked_file(self._slides_lock, fcntl.LOCK_SH):
            try:
                remove(home)
                sync_folder(folder)
                folder.rename(home)
                sync_folder(self._slides)
                store.add_slide(slide, admit_bytes)
            except BaseException:
                remove(home)
                raise

    def require_space(self, size: int) -> None:
        """Raise ServiceError storage.full if writing so many bytes would use the disk reserve."""
        free = self.free_bytes()
        if free - size < self.disk_reserve_bytes:
            detail = (
                f"{size} bytes are needed; {free} are free, of which {self.disk_reserve_bytes} are kept in reserve; "
                "delete results or slides that are no longer needed"
            )
            raise refusal("storage.full", detail)

    def available_bytes(self) -> int:
        """Free disk space less the reserve; negative if the reserve is in use."""
        return self.free_bytes() - self.disk_reserve_bytes

    def free_bytes(self) -> int:
        """Free space on the disk of the slides."""
        return shutil.disk_usage(self._slides).free

    def has_reserve(self) -> bool:
        """True while at least the reserve is free."""
        return self.free_bytes() >= self.disk_reserve_bytes

    def slide_path(self, slide: Slide) -> Path:
        """Path of a slide's main file."""
        return self._slides / slide.id / slide.file

    def remove_slide(self, slide_id: str, store: Store) -> None:
        """Delete a slide from the database, then its files, which `clean_up` does not set aside in between.

        Raises
        ------
        SlideInUseError, UnknownSlideError
            As `Store.remove_slide`.
        """
        with locked_file(self._slides_lock, fcntl.LOCK_SH):
            store.remove_slide(slide_id)
            remove(self._slides / slide_id)

    def attempt_folder(self, job: Job) -> Path:
        """Folder of the job's last attempt."""
        return self._jobs / job.id / f"{_ATTEMPT}{job.attempt}"

    def begin_attempt(self, job: Job) -> Path:
        """Make the attempt's folder durably, take over the files of the attempt before, and return the output's path.

        Partial files of that attempt are deleted, and so is the lock of its process, which may be suspended.
        """
        home, folder = self._jobs / job.id, self.attempt_folder(job)
        with map_disk_full():
            while (earlier := [number for number in self._attempts(job.id) if number < job.attempt]) and (
                not folder.exists()
            ):
                with contextlib.suppress(FileNotFoundError):  # another attempt renamed it; look again
                    (home / f"{_ATTEMPT}{max(earlier)}").rename(folder)
            folder.mkdir(parents=True, exist_ok=True)
            for path in (*folder.glob("*.part"), *folder.glob(f"{WORKSPACE_PREFIX}*/lock")):
                path.unlink(missing_ok=True)
            self._remove_attempts_before(job)
            sync_folder(home)
            sync_folder(self._jobs)
        return self.output_path(job)

    def output_path(self, job: Job) -> Path:
        """Path of the pipeline's output in the last attempt; there may be no file."""
        return self.attempt_folder(job) / f"result{job.order.format.suffix}"

    def result_path(self, job: Job) -> Path | None:
        """Path of the result, None if there is none."""
        if job.result is None or job.result_deleted is not None:
            return None
        return self.attempt_folder(job) / job.result.file

    def companion_path(self, job: Job, kind: str) -> Path | None:
        """Path of a file beside the result, by its kind in `COMPANION_SUFFIXES`; None if the result was deleted."""
        if job.result is None or job.result_deleted is not None:
            return None
        return self.attempt_folder(job) / f"result{COMPANION_SUFFIXES[kind]}"

    def report_path(self, job: Job) -> Path:
        """Path of a job's report; there may be no file."""
        return self.attempt_folder(job) / REPORT_FILE

    def write_report(self, job: Job, report: Report) -> None:
        """Put a report durably in place."""
        with map_disk_full():
            write_atomically(self.report_path(job), report.as_bytes())

    def read_report(self, job: Job) -> Report | None:
        """Return a job's report, or None where there is none or it is damaged."""
        try:
            return Report.from_bytes(self.report_path(job).read_bytes())
        except (FileNotFoundError, ReportError):
            return None

    def tidy_job(self, job: Job) -> None:
        """Delete the files of an ended job that are no longer needed.

        A successful job keeps its result and report. A failed job keeps what a retry can use: its stripes, and a result
        that only has to be packed.
        """
        if not job.state.is_ended:
            return
        folder = self.attempt_folder(job)
        if job.state is JobState.FAILED and job.result_deleted is None and not folder.exists():
            return  # it failed before it took over the files of an earlier attempt
        kept = self._kept_files(job)
        if not kept:
            self._discard(folder)
        for path in list_folder(folder):
            if path not in kept:
                remove(path)
        self._remove_attempts_before(job)
        for path in list_folder(self._jobs / job.id):
            if path.name.endswith(_DISCARDED):
                remove(path)
        with contextlib.suppress(OSError):  # not empty
            (self._jobs / job.id).rmdir()

    def _kept_files(self, job: Job) -> set[Path]:
        folder = self.attempt_folder(job)
        companions = {folder / f"result{suffix}" for suffix in COMPANION_SUFFIXES.values()}
        kept: set[Path] = set()
        if job.state is JobState.FAILED and job.result_deleted is None:
            kept |= set(folder.glob(f"{WORKSPACE_PREFIX}*"))
            if self.read_report(job) is not None:
                kept |= {self.report_path(job), self.output_path(job), *companions}
        elif job.state is JobState.SUCCEEDED:
            kept.add(self.report_path(job))
            if (result := self.result_path(job)) is not None:
                kept |= {result, *companions}
        return kept

    @staticmethod
    def _discard(folder: Path) -> None:
        """Rename a folder before its files are deleted.

        Otherwise a retry could take over the folder while it is being emptied, and lose the files that it writes there.
        """
        with contextlib.suppress(OSError):
            folder.rename(folder.with_name(f"{uuid.uuid4().hex}{_DISCARDED}"))

    def _attempts(self, job_id: str) -> list[int]:
        """Return the numbers of the attempts that have a folder."""
        names = (path.name.removeprefix(_ATTEMPT) for path in list_folder(self._jobs / job_id) if path.is_dir())
        return [int(name) for name in names if name.isdecimal()]

    def _remove_attempts_before(self, job: Job) -> None:
        for number in self._attempts(job.id):
            if number < job.attempt:
                remove(self._jobs / job.id / f"{_ATTEMPT}{number}")

    def clean_up(self, store: Store, now: float) -> None:
        """Delete unneeded files of ended jobs, and set files aside that the database does not know.

        Slides are skipped while another process adds or deletes one; the next call sets them aside.

        Parameters
        ----------
        now
            Seconds since 1970; part of the name in the folder set-aside.
        """
        with contextlib.suppress(BlockingIOError), locked_file(self._slides_lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
            for folder in list_folder(self._slides):
                if folder.is_dir() and not store.has_slide(folder.name):
                    self._set_aside.move(folder, "slide", folder.name, now)
        for folder in list_folder(self._jobs):
            attempts = self._attempts(folder.name)  # before the job is read: a retry may begin at any moment
            job = store.job(folder.name)
            if job is None and not store.has_job(folder.name):
                self._set_aside.move(folder, "job", folder.name, now)
            elif job is not None and job.state.is_ended:
                self.tidy_job(job)
                for number in attempts:
                    if number > job.attempt:  # the database was restored from a backup before that attempt
                        self._set_aside.move(folder / f"{_ATTEMPT}{number}", "job", f"{job.id}-{number}", now)

    def delete_set_aside(self, before: float) -> None:
        """Delete files that were set aside before a time."""
        self._set_aside.delete_older_than(before)

    def stored_ids(self) -> list[str]:
        """Return the ids of all slides and jobs that have files."""
        folders = (*list_folder(self._slides), *list_folder(self._jobs))
        return [folder.name for folder in folders if folder.is_dir()]

    def identity(self) -> str | None:
        """Return the identity of this folder, None before the first start."""
        try:
            return self._identity.read_text("utf-8").strip() or None
        except FileNotFoundError:
            return None

    def write_identity(self, identity: str) -> None:
        """Replace the identity durably."""
        write_atomically(self._identity, f"{identity}\n".encode())

    def exclusive(self) -> AbstractContextManager[None]:
        """Exclude other processes that are starting."""
        return locked_file(self.data_dir / ".lock", fcntl.LOCK_EX)

    @property
    def _slides_lock(self) -> Path:
        return self._slides / ".lock"
