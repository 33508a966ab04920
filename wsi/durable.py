"""Files that appear whole or not at all, and stay after a power cut: write, flush, rename, flush the folder."""

import errno
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_SYNCS_AT_ONCE = 16
_LONGEST_NAME = 255
# What file systems answer that keep no log of names to be flushed (some network and FUSE ones).
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EISDIR, errno.EACCES}


def write_whole(path: Path, data: bytes) -> None:
    """Put `data` at `path`, in the place of what was there; one process at a time.

    What a killed process has left half-written is written anew by the next one, since its name is the same.
    """
    partial = path.with_name(_partial_name(path.name))
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
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
