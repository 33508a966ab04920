"""Where unfinished uploads lie, remembered between processes: one small file each below XDG_STATE_HOME.

A file is named by a hash of the service's address and the slide's path, size and time, so that a slide that has changed
is another upload. What can't be written is not remembered: the upload itself goes on.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

from slidelift.durable import write_atomically
from slidelift.service.client.upload_source import UploadSource

_KEPT_SECONDS = 30 * 86400
"""Longer than a service keeps an upload that does not go on."""


class Journal:
    """What is remembered of one upload."""

    def __init__(self, folder: Path, address: str, parcel: UploadSource) -> None:
        key = "\n".join((address, parcel.name, parcel.mark))
        self._file = folder / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()

    def remembered(self) -> str | None:
        """The path of an upload that was begun before."""
        try:
            return self._file.read_text("utf-8").strip() or None
        except (OSError, ValueError):
            return None

    def remember(self, upload: str) -> None:
        """Note the path of an upload that has begun; what is too old goes."""
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            for old in self._file.parent.iterdir():
                if old.stat().st_mtime < time.time() - _KEPT_SECONDS:
                    old.unlink()
            write_atomically(self._file, upload.encode())

    def forget(self) -> None:
        """The upload has ended."""
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)


def folder_of(environment: Mapping[str, str] = os.environ) -> Path:
    """Where programs keep such things (XDG Base Directory specification)."""
    home = environment.get("XDG_STATE_HOME", "")
    return (Path(home) if Path(home).is_absolute() else Path.home() / ".local" / "state") / "slidelift" / "uploads"
