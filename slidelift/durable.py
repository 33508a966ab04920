"""Atomic and durable writing of files: write a partial file, fsync, rename, fsync the folder.

The lowest module of the package; `wsi`, `models` and `service` use it.
"""

import errno
import fcntl
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_PARALLEL_SYNCS = 16
_NAME_MAX_BYTES = 255
# Errors of file systems that cannot sync a folder (some network and FUSE ones).
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EISDIR, errno.EACCES}


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file at `path` by one with the contents `data`; see `atomic_file`."""
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(path: Path, *, mode: int = 0o666, replace: bool = True) -> Iterator[BinaryIO]:
    """Open a file for writing that is renamed to `path` at the end of the block, or deleted on an exception.

    Threads and processes may write the same path at once: the last one to end wins. While it is written, the file is
    called ``NAME.part`` and locked. A partial file that a killed process left is deleted by the next writer.

    Parameters
    ----------
    mode
        Permissions of the new file, before the process's umask.
    replace
        False to keep a file that exists at `path`.

    Raises
    ------
    FileExistsError
        If `replace` is False and a file exists at `path`.
    """
    partial, descriptor = _create_partial(path, mode)
    with os.fdopen(descriptor, "wb") as file:  # closed, and so unlocked, after the rename
        try:
            yield file
            file.flush()
            os.fsync(descriptor)
            if replace:
                partial.replace(path)
            else:
                os.link(partial, path)
                partial.unlink()
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    sync_folder(path.parent)


def _create_partial(path: Path, mode: int) -> tuple[Path, int]:
    """Create and lock the partial file of `path`.

    If another writer has it, the name is a unique one. Waiting for the other writer could take forever, because its
    process may be suspended.
    """
    partial = path.with_name(_partial_name(path.name))
    _delete_abandoned(partial)
    with suppress(FileExistsError):
        descriptor = _create(partial, mode)
        if _has_lock(descriptor, partial):
            return partial, descriptor
        os.close(descriptor)
    partial = path.with_name(_partial_name(f"{path.name}.{uuid.uuid4().hex[:8]}"))
    return partial, _create(partial, mode)


def _create(partial: Path, mode: int) -> int:
    return os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)


def _has_lock(descriptor: int, partial: Path) -> bool:
    """Lock a new partial file; False if another writer took it for abandoned before it was locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks on this file system, so no writer takes a partial file for abandoned
        return True
    return _is_at(descriptor, partial)


def _delete_abandoned(partial: Path) -> None:
    """Delete a partial file that no process has locked."""
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        with suppress(OSError):  # locked by its writer, or no locks on this file system
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, partial):
                partial.unlink()
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _partial_name(name: str) -> str:
    """Return the name of the partial file; a name that would be too long is replaced by a hash."""
    if len(os.fsencode(name)) + len(".part") <= _NAME_MAX_BYTES:
        return name + ".part"
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}.part"


def sync_tree(folder: Path, between: Callable[[], None] = lambda: None) -> None:
    """Sync all files and folders below a folder; raises OSError if the disk fails, which `os.sync` would not report.

    Parameters
    ----------
    between
        Called after each file; may raise to stop. There may be a million files.
    """
    files: list[Path] = []
    folders = [folder]
    for path in folder.rglob("*"):
        (folders if path.is_dir() else files).append(path)
    with ThreadPoolExecutor(_PARALLEL_SYNCS) as pool:  # file systems commit parallel syncs together
        try:
            for _ in pool.map(_sync_file, files):
                between()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for one in folders:
        sync_folder(one)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # so that reading it back reads from the disk
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder, if its file system supports that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
