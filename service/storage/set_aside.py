"""Files that the database does not know: moved to the folder set-aside first, deleted later.

Such files may be left by a crash. They may also be needed, if an older database was restored, so they are not deleted
at once.
"""

import logging
from pathlib import Path

from slidelift.service.storage.disk import list_folder, remove

log = logging.getLogger(__name__)


class SetAside:
    """The folder of files that the database does not know; names begin with the time (seconds since 1970)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def move(self, path: Path, kind: str, name: str, now: float) -> None:
        """Move a folder here, and log it; a folder that cannot be moved stays."""
        target = self._folder / f"{int(now)}-{kind}-{name}"
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            path.rename(target)
        except FileNotFoundError:  # another process has moved it
            return
        except OSError as error:
            log.warning("%s: not in the database, and moving it failed (%s)", path, error.strerror)
            return
        log.warning("%s: not in the database; moved to %s, which is deleted later", path, target)

    def delete_older_than(self, before: float) -> None:
        """Delete what was moved here before a time."""
        for path in list_folder(self._folder):
            moved = path.name.partition("-")[0]
            if moved.isdecimal() and int(moved) < before:
                log.warning("%s: deleted, its retention time in set-aside has passed", path.name)
                remove(path)
