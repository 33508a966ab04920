"""File locks of single uploads; the kernel releases them when their process ends."""

import contextlib
import fcntl
import os
import time
from pathlib import Path

from slidelift.service.errors import refusal
from slidelift.service.uploads.errors import unknown_upload

_TRIES, _WAIT_SECONDS = 20, 0.2


def lock_upload(folder: Path, mode: int = fcntl.LOCK_EX) -> int:
    """Lock an upload without waiting; return the descriptor, which the caller closes to release the lock.

    Raises
    ------
    BlockingIOError
        If the upload is locked already.
    ServiceError
        upload.unknown.
    """
    try:
        descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except FileNotFoundError as error:
        raise unknown_upload(folder.name) from error
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def lock_upload_soon(folder: Path) -> int:
    """Lock an upload; wait up to 0.2 s, because other requests lock it briefly to test whether it is locked.

    Raises
    ------
    ServiceError
        upload.unknown, upload.locked.
    """
    for _ in range(_TRIES):
        with contextlib.suppress(BlockingIOError):
            return lock_upload(folder)
        time.sleep(_WAIT_SECONDS / _TRIES)
    raise refusal("upload.locked", "another request is writing to this upload; try again when it has ended")
