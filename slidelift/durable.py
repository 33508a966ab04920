"""Atomic and durable writing of files: write beside, fsync, rename, fsync the folder.

The lowest module of the package: `wsi`, `models` and `service` all write through it.
"""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_SYNCS_AT_ONCE = 16
_LONGEST_NAME = 255
# What file systems answer that keep no log of names to be flushed (some network and FUSE ones).
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EISDIR, errno.EACCES}


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file at `path` by one that holds `data`; see `atomic_file`."""
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(
    path: Path, *, partial: Path | None = None, mode: int = 0o666, replace: bool = True
) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the name `path` when the block ends; on an exception nothing is left.

    Parameters
    ----------
    partial
        The name while the file is written, in the same folder. By default it follows from `path`, so that one process
        at a time may write; a partial file that a killed process left is overwritten by the next.
    mode
        Permissions of the new file, before the process's umask.
    replace
        False to keep a file that is at `path` already.

    Raises
    ------
    FileExistsError
        If `replace` is False and there is a file at `path`.
    """
    partial = path.with_name(_partial_name(path.name)) if partial is None else partial
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if replace:
            partial.replace(path)
        else:
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_tree(folder: Path, between: Callable[[], None] = lambda: None) -> None:
    """Make every file and every name below a folder durable; raises OSError where the disk could not.

    One `os.sync` would be simpler, and tells nothing of a disk that fails.

    Parameters
    ----------
    between
        Called after each file, of which there may be a million; may raise to stop.
    """
    files: list[Path] = []
    folders = [folder]
    for path in folder.rglob("*"):
        (folders if path.is_dir() else files).append(path)
    with ThreadPoolExecutor(_SYNCS_AT_ONCE) as pool:  # a file system's journal takes many in one commit
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
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # so that who reads it back asks the disk
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where its file system can do that for a folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def _partial_name(name: str) -> str:
    """The name while a file is written; one that would be too long is replaced by a hash."""
    if len(os.fsencode(name)) + len(".part") <= _LONGEST_NAME:
        return name + ".part"
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}.part"
