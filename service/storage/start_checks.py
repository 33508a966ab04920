"""What must hold before the service starts: said once, with what to do, and not as a 500 at each upload."""

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
from slidelift.service.storage.files import is_full

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Need:
    """A limit of the system that children set lower for themselves, and which therefore must not be lower yet."""

    number: int
    option: str
    unit: int
    least: int
    what: str


def require_usable(settings: Settings) -> None:
    """Make a data folder private, and try what uploads will do in it; what this process makes is private from now on.

    Raises
    ------
    ServiceError
        service.unsuited, with what is wrong and what to do.
    """
    os.umask(0o077)
    _require_limits(settings)
    uploads, slides = settings.data_dir / "uploads", settings.data_dir / "slides"
    with _said(settings.data_dir, "be written to", "give it to the user of the service, or name another by --data-dir"):
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        uploads.mkdir(exist_ok=True)
        slides.mkdir(exist_ok=True)
    keep_private(settings)
    _require_one_file_system(uploads, slides)


def keep_private(settings: Settings) -> None:
    """Take from others what they may do in the data folder and with the database, however that came to be."""
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
        todo = "let its owner run: chmod go-rwx"
        log.warning("%s is open to other users of this machine (mode %o): %s %s", path, mode, todo, path)
    else:
        log.warning("%s was open to other users of this machine (mode %o) and is no longer", path, mode)


def _require_limits(settings: Settings) -> None:
    for need in _needs(settings):
        found = [limit for limit in resource.getrlimit(need.number) if limit != resource.RLIM_INFINITY]
        hard_alone = need.number == resource.RLIMIT_NOFILE  # the soft one is raised
        least = found[-1] if hard_alone and found else min(found, default=need.least)
        if least < need.least:
            shown, wanted = least // need.unit, -(-need.least // need.unit)
            detail = f"the limit of {need.what} is too low for this service: `ulimit {need.option}` says {shown}"
            raise refusal("service.unsuited", f"{detail}, at least {wanted} is needed; raise it where it is started")


def _needs(settings: Settings) -> tuple[_Need, ...]:
    return (
        _Need(resource.RLIMIT_AS, "-v", 2**10, 4 << 30, "memory"),
        _Need(resource.RLIMIT_NOFILE, "-n", 1, 1024, "open files"),
        _Need(resource.RLIMIT_FSIZE, "-f", 2**10, 2 * settings.max_upload_bytes, "the size of a file"),
        _Need(resource.RLIMIT_CPU, "-t", 1, 3605, "processor time"),
    )


def _require_one_file_system(uploads: Path, slides: Path) -> None:
    """Do what an upload does: lock, link, and move."""
    name = f".start-{uuid.uuid4().hex}"
    made, linked, moved = uploads / name, uploads / f"{name}-link", slides / name
    try:
        with _said(uploads, "be written to", "give it to the user of the service"):
            made.touch(mode=0o600)
        with _said(uploads, "lock files", "put the data folder on a local disk"), made.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with _said(uploads, "give a file two names (hard links)", "put the data folder on a local disk"):
            linked.hardlink_to(made)
        together = "let the whole data folder lie on one file system, and mount that, not a folder in it"
        with _said(slides, "take over what was uploaded", together):
            made.rename(moved)
    except OSError as error:
        if not is_full(error):
            raise
        # It starts all the same, so that something can be deleted; an upload is refused by 507.
    finally:
        for path in (made, linked, moved):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _said(folder: Path, what: str, todo: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise
        detail = f"{folder} can't {what} ({error.strerror}): no upload could become a slide"
        raise refusal("service.unsuited", f"{detail}; {todo}") from error
