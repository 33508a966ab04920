"""Basic operations on files: locks, deleting, hashing, and errors of a full disk."""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from slidelift.service.errors import refusal

CHUNK_BYTES = 2**20


@contextlib.contextmanager
def locked_file(path: Path, mode: int) -> Iterator[None]:
    """Hold a kernel lock (flock) on a file, which is created if missing; the lock ends with its process.

    Raises
    ------
    BlockingIOError
        The file is locked already and `mode` (of `fcntl.flock`) contains LOCK_NB.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, mode)
        yield
    finally:
        os.close(descriptor)


def size_and_sha256(path: Path, check: Callable[[], None]) -> tuple[int, str]:
    """Return size and SHA-256 of a file; `check` is called for each chunk and may raise to stop."""
    sha256, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            check()
            sha256.update(chunk)
            size += len(chunk)
    return size, sha256.hexdigest()


def is_disk_full(error: OSError) -> bool:
    """True for the errors of a full disk or an exceeded disk quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def map_disk_full() -> Iterator[None]:
    """Raise ServiceError storage.full in place of the OSError of a full disk."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise refusal("storage.full", "the disk is full; delete results or slides no longer needed") from error
        raise


def remove(path: Path) -> None:
    """Delete a file or folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def list_folder(folder: Path) -> list[Path]:
    """Return the sorted entries of a folder; empty if it does not exist, or another process has just removed it."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
