"""Slides and results on disk: what is kept, what is swept away.

    <data_dir>/uploads/<upload id>/                   what is arriving; see `service.uploads.inbox`
               slides/<slide id>/slide.svs            arrived whole, synced, probed, then committed to the database
               jobs/<job id>/attempt-3/               everything that the job's third attempt wrote
               jobs/<job id>/attempt-3/result.ome.tiff      or result.ome.zarr.zip, packed from result.ome.zarr
               jobs/<job id>/attempt-3/report.json
               set-aside/<seconds>-slide-<slide id>/  what the database does not know, until it is deleted
               identity                               what the database has, too; see `service.storage.data_identity`

A file appears by write → fsync → rename → commit: what the database knows is whole on disk. No path contains a word of
a user's.

An attempt writes into the folder of its own number alone. The next attempt takes the work of the one before over by
renaming its folder. A process of an earlier attempt that wakes up late finds its paths gone, so that it can neither
change nor remove what a later attempt made.
"""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from slidelift.durable import sync_folder, write_atomically
from slidelift.service.errors import refusal
from slidelift.service.jobs.job import Job, JobState
from slidelift.service.jobs.slide import Slide
from slidelift.service.jobs.store import Store, admit_any_bytes
from slidelift.service.pipeline.report import Report, ReportError

log = logging.getLogger(__name__)

CHUNK_BYTES = 2**20
REPORT_FILE = "report.json"
WORKSPACE = ".slidelift-"
"""How the folder begins in which `service.pipeline.workspace` keeps finished stripes."""
ARRIVING = ".arriving"
"""How a file ends that takes its name when it is whole."""
_ATTEMPT, _DISCARDED = "attempt-", ".discarded"
BESIDE = {"html": ".report.html", "geojson": ".tissue.geojson"}
"""Suffixes of the companion files of a result."""


class Storage:
    """The folders below `data_dir`; callable from any thread and by several processes."""

    def __init__(self, data_dir: Path, *, disk_reserve_bytes: int) -> None:
        self.data_dir = data_dir
        self._slides, self._jobs, self._aside = data_dir / "slides", data_dir / "jobs", data_dir / "set-aside"
        self._identity = data_dir / "identity"
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
        with full_disk_said(), held_lock(self._slides_lock, fcntl.LOCK_SH):
            try:
                remove(home)
                sync_folder(folder)
                folder.rename(home)
                sync_folder(self._slides)
                store.add_slide(slide, admit_bytes)
            except BaseException:
                remove(home)
                raise

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

    def free_bytes(self) -> int:
        """Room left on the disk of the slides."""
        return shutil.disk_usage(self._slides).free

    def has_reserve(self) -> bool:
        """True while more than the reserve is free."""
        return self.free_bytes() >= self.disk_reserve_bytes

    def slide_path(self, slide: Slide) -> Path:
        """Where a slide's file lies."""
        return self._slides / slide.id / slide.file

    def remove_slide(self, slide_id: str, store: Store) -> None:
        """Delete a slide from the database, then its files; no sweep takes them for unknown in between.

        Raises
        ------
        SlideInUseError, UnknownSlideError
            As `Store.remove_slide`.
        """
        with held_lock(self._slides_lock, fcntl.LOCK_SH):
            store.remove_slide(slide_id)
            remove(self._slides / slide_id)

    def attempt_folder(self, job: Job) -> Path:
        """Where the job's last attempt writes, or wrote."""
        return self._jobs / job.id / f"{_ATTEMPT}{job.attempt}"

    def begin_attempt(self, job: Job) -> Path:
        """Make the attempt's folder durably, with what the attempt before has left, and return the output's path.

        What that attempt had not finished is removed, and so is the lock of its process, which may only be stopped.
        """
        home, folder = self._jobs / job.id, self.attempt_folder(job)
        with full_disk_said():
            while (earlier := [one for one in self._attempts(job.id) if one < job.attempt]) and not folder.exists():
                with contextlib.suppress(FileNotFoundError):  # an attempt in between was quicker, and is looked for
                    (home / f"{_ATTEMPT}{max(earlier)}").rename(folder)
            folder.mkdir(parents=True, exist_ok=True)
            for path in (*folder.glob(f"*{ARRIVING}"), *folder.glob("*.part"), *folder.glob(f"{WORKSPACE}*/lock")):
                path.unlink(missing_ok=True)
            self._remove_attempts(job, lambda number: number < job.attempt)
            sync_folder(home)
            sync_folder(self._jobs)
        return self.output_path(job)

    def output_path(self, job: Job) -> Path:
        """Where the pipeline writes in the last attempt, or would."""
        return self.attempt_folder(job) / f"result{job.order.format.suffix}"

    def result_path(self, job: Job) -> Path | None:
        """The file to download, None where there is none."""
        if job.result is None or job.result_deleted is not None:
            return None
        return self.attempt_folder(job) / job.result.file

    def beside_result(self, job: Job, kind: str) -> Path | None:
        """Path of a companion file of a result; None where the result was deleted."""
        if job.result is None or job.result_deleted is not None:
            return None
        return self.attempt_folder(job) / f"result{BESIDE[kind]}"

    def report_path(self, job: Job) -> Path:
        """Path of a job's report."""
        return self.attempt_folder(job) / REPORT_FILE

    def write_report(self, job: Job, report: Report) -> None:
        """Write a report atomically and durably."""
        with full_disk_said():
            write_atomically(self.report_path(job), report.as_bytes())

    def read_report(self, job: Job) -> Report | None:
        """Return a job's report, or None where there is none or it is damaged."""
        try:
            return Report.from_bytes(self.report_path(job).read_bytes())
        except (FileNotFoundError, ReportError):
            return None

    def tidy_job(self, job: Job) -> None:
        """Remove of an ended job what is of no use.

        A success keeps its result and report. A failure keeps what a retry can go on with: its stripes, and the result
        that only had to be packed.
        """
        if not job.state.is_ended:
            return
        folder = self.attempt_folder(job)
        kept: set[Path] = set()
        if job.state is JobState.FAILED and job.result_deleted is None:
            if not folder.exists():  # it failed before it could take over what an earlier attempt has left
                return
            kept |= set(folder.glob(f"{WORKSPACE}*"))
            if self.read_report(job) is not None:
                kept |= {self.report_path(job), self.output_path(job), *self._beside(folder)}
        elif job.state is JobState.SUCCEEDED:
            kept.add(self.report_path(job))
            if (result := self.result_path(job)) is not None:
                kept |= {result, *self._beside(folder)}
        if not kept:
            self._discard(folder)
        for path in self._entries(folder):
            if path not in kept:
                remove(path)
        self._remove_attempts(job, lambda number: number < job.attempt)
        for path in self._entries(self._jobs / job.id):
            if path.name.endswith(_DISCARDED):
                remove(path)
        with contextlib.suppress(OSError):  # it holds something
            (self._jobs / job.id).rmdir()

    @staticmethod
    def _discard(folder: Path) -> None:
        """Take a folder's name away before what is in it is removed.

        A retry would else take the folder over while it is being emptied, and lose what it writes there.
        """
        with contextlib.suppress(OSError):
            folder.rename(folder.with_name(f"{uuid.uuid4().hex}{_DISCARDED}"))

    @staticmethod
    def _beside(folder: Path) -> set[Path]:
        return {folder / f"result{suffix}" for suffix in BESIDE.values()}

    def _attempts(self, job_id: str) -> list[int]:
        """The numbers of the attempts that have left something."""
        names = (path.name.removeprefix(_ATTEMPT) for path in self._entries(self._jobs / job_id) if path.is_dir())
        return [int(name) for name in names if name.isdecimal()]

    def _remove_attempts(self, job: Job, chosen: Callable[[int], bool]) -> None:
        for number in filter(chosen, self._attempts(job.id)):
            remove(self._jobs / job.id / f"{_ATTEMPT}{number}")

    def sweep(self, store: Store, now: float) -> None:
        """Tidy up ended jobs, and set aside what the database does not know.

        That may be a leftover of a crash, but also somebody's work after an older database was restored: so it is
        moved, and told in the log, and `delete_set_aside` deletes it later. Does nothing to slides while any process
        adds one: the next sweep will do.

        Parameters
        ----------
        now
            Seconds since 1970; kept in the name.
        """
        with contextlib.suppress(BlockingIOError), held_lock(self._slides_lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
            for folder in self._entries(self._slides):
                if folder.is_dir() and not store.slide_is_known(folder.name):
                    self._set_aside(folder, "slide", folder.name, now)
        for folder in self._entries(self._jobs):
            attempts = self._attempts(folder.name)  # before the job is read: a retry may begin at any moment
            job = store.job(folder.name)
            if job is None and not store.job_is_known(folder.name):
                self._set_aside(folder, "job", folder.name, now)
            elif job is not None and job.state.is_ended:
                self.tidy_job(job)
                for number in attempts:
                    if number > job.attempt:  # the database was restored from before that attempt
                        self._set_aside(folder / f"{_ATTEMPT}{number}", "job", f"{job.id}-{number}", now)

    def delete_set_aside(self, before: float) -> None:
        """Delete for good what was set aside before that moment."""
        for path in self._entries(self._aside):
            moment = path.name.partition("-")[0]
            if moment.isdecimal() and int(moment) < before:
                log.warning("%s is deleted: nobody has asked for it since it was set aside", path.name)
                remove(path)

    def _set_aside(self, path: Path, kind: str, name: str, now: float) -> None:
        target = self._aside / f"{int(now)}-{kind}-{name}"
        try:
            self._aside.mkdir(mode=0o700, exist_ok=True)
            path.rename(target)
        except FileNotFoundError:  # another process was quicker
            return
        except OSError as error:
            log.warning("%s: the database does not know it, and it can't be set aside (%s)", path, error.strerror)
            return
        log.warning("%s: the database does not know it; it was moved to %s, to be deleted later", path, target)

    def stored_ids(self) -> list[str]:
        """The ids of the slides and jobs of which there are files."""
        folders = (*self._entries(self._slides), *self._entries(self._jobs))
        return [folder.name for folder in folders if folder.is_dir()]

    def identity(self) -> str | None:
        """What the database of this folder has, too; None before the first start."""
        try:
            return self._identity.read_text("utf-8").strip() or None
        except FileNotFoundError:
            return None

    def keep_identity(self, identity: str) -> None:
        """Replace the identity, durably."""
        write_atomically(self._identity, f"{identity}\n".encode())

    def alone(self) -> AbstractContextManager[None]:
        """While inside, no other process is inside; for the start of a service."""
        return held_lock(self.data_dir / ".lock", fcntl.LOCK_EX)

    @property
    def _slides_lock(self) -> Path:
        return self._slides / ".lock"

    @staticmethod
    def _entries(folder: Path) -> list[Path]:
        try:
            return sorted(folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):  # also where another process has just removed it
            return []


@contextlib.contextmanager
def held_lock(path: Path, mode: int) -> Iterator[None]:
    """Hold a lock of the kernel's on a file, which is made if need be; it ends with its process, too.

    Raises
    ------
    BlockingIOError
        Another has it, and `mode` (of `fcntl.flock`) says not to wait.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, mode)
        yield
    finally:
        os.close(descriptor)


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


def remove(path: Path) -> None:
    """Delete a file or a folder; there may be none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
