"""Checks the data folder and system limits before the service starts, so that uploads do not fail later."""

import contextlib
import fcntl
import logging
import os
import resource
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slidelift.service.errors import refusal
from slidelift.service.settings import Settings
from slidelift.service.storage.disk import is_disk_full

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Limit:
    """Minimum of a resource limit; child processes set lower limits for themselves, which must be allowed."""

    number: int
    option: str
    unit: int
    minimum: int
    what: str


def require_usable(settings: Settings) -> None:
    """Make the data folder private, test the file operations of uploads in it, and set the umask to private.

    Raises
    ------
    ServiceError
        service.unsuited.
    """
    os.umask(0o077)
    _require_limits(settings)
    uploads, slides = settings.data_dir / "uploads", settings.data_dir / "slides"
    with _map_errors(
        settings.data_dir, "be written to", "make the service's user its owner, or set another folder with --data-dir"
    ):
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        uploads.mkdir(exist_ok=True)
        slides.mkdir(exist_ok=True)
    keep_private(settings)
    _require_one_file_system(uploads, slides)


def keep_private(settings: Settings) -> None:
    """Remove the permissions of group and others on the data folder and the database."""
    database = settings.database
    beside = (database.with_name(database.name + suffix) for suffix in ("-wal", "-shm", "-journal"))
    for path in (settings.data_dir, database, *beside):
        with contextlib.suppress(FileNotFoundError):
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                _tighten(path, mode)


def _tighten(path: Path, mode: int) -> None:
    try:
        path.chmod(mode & 0o700)
    except PermissionError:
        log.warning("%s: open to other users (mode %o); as its owner, run: chmod go-rwx %s", path, mode, path)
    else:
        log.warning("%s: was open to other users (mode %o); now private", path, mode)


def _require_limits(settings: Settings) -> None:
    for limit in _limits(settings):
        values = [value for value in resource.getrlimit(limit.number) if value != resource.RLIM_INFINITY]
        only_hard = limit.number == resource.RLIMIT_NOFILE  # the service raises the soft limit
        lowest = values[-1] if only_hard and values else min(values, default=limit.minimum)
        if lowest < limit.minimum:
            shown, wanted = lowest // limit.unit, -(-limit.minimum // limit.unit)
            detail = f"the limit of {limit.what} is too low for this service: `ulimit {limit.option}` says {shown}"
            raise refusal("service.unsuited", f"{detail}, at least {wanted} is needed; raise it where it is started")


def _limits(settings: Settings) -> tuple[_Limit, ...]:
    return (
        _Limit(resource.RLIMIT_AS, "-v", 2**10, 4 << 30, "memory"),
        _Limit(resource.RLIMIT_NOFILE, "-n", 1, 1024, "open files"),
        _Limit(resource.RLIMIT_FSIZE, "-f", 2**10, 2 * settings.max_upload_bytes, "the size of a file"),
        _Limit(resource.RLIMIT_CPU, "-t", 1, 3605, "processor time"),
    )


def _require_one_file_system(uploads: Path, slides: Path) -> None:
    """Test the operations of an upload: lock, link and move."""
    name = f".start-{uuid.uuid4().hex}"
    made, linked, moved = uploads / name, uploads / f"{name}-link", slides / name
    try:
        with _map_errors(uploads, "be written to", "make the service's user its owner"):
            made.touch(mode=0o600)
        with _map_errors(uploads, "lock files", "put the data folder on a local disk"), made.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with _map_errors(uploads, "create hard links", "put the data folder on a local disk"):
            linked.hardlink_to(made)
        together = "keep the whole data folder on one file system; mount the folder itself, not folders in it"
        with _map_errors(slides, "receive files moved from uploads", together):
            made.rename(moved)
    except OSError as error:
        if not is_disk_full(error):
            raise
        # A full disk does not prevent the start: results can be deleted, and uploads are refused with 507.
    finally:
        for path in (made, linked, moved):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _map_errors(folder: Path, operation: str, advice: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise
        detail = f"{folder} cannot {operation} ({error.strerror}), so uploads would fail"
        raise refusal("service.unsuited", f"{detail}; {advice}") from error
