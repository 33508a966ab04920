"""Records unfinished uploads in files below XDG_STATE_HOME, so that another process can continue them.

A file is named by a hash of the service's address and the slide's path, size and modification time, so a changed slide
starts a new upload. If a file can't be written, the upload continues without a record.
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
"""Longer than a service keeps an unfinished upload."""


class UploadRecord:
    """Record of one upload: its path on the service."""

    def __init__(self, folder: Path, address: str, source: UploadSource) -> None:
        key = "\n".join((address, source.name, source.version))
        self._file = folder / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()

    def load(self) -> str | None:
        """The path of an upload that was begun earlier; None without one."""
        try:
            return self._file.read_text("utf-8").strip() or None
        except (OSError, ValueError):
            return None

    def save(self, upload: str) -> None:
        """Record the path of an upload that has begun, and delete old records."""
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            for old in self._file.parent.iterdir():
                if old.stat().st_mtime < time.time() - _KEPT_SECONDS:
                    old.unlink()
            write_atomically(self._file, upload.encode())

    def delete(self) -> None:
        """Delete the record, after the upload has ended."""
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)


def default_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Folder of the records, by the XDG Base Directory specification."""
    home = environment.get("XDG_STATE_HOME", "")
    return (Path(home) if Path(home).is_absolute() else Path.home() / ".local" / "state") / "slidelift" / "uploads"
