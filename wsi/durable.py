"""Files that appear whole or not at all, and stay after a power cut: write, flush, rename, flush the folder."""

import errno
import hashlib
import os
from pathlib import Path

_LONGEST_NAME = 255
# What file systems answer that keep no log of names to be flushed (some network and FUSE ones).
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EISDIR, errno.EACCES}


def write_whole(path: Path, data: bytes) -> None:
    """Put `data` at `path`, in the place of what was there."""
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
