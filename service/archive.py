"""A folder as one stored zip: how an OME-Zarr travels over HTTP.

Stored, since chunks are compressed already; the bytes depend on names and contents alone: sorted names, one fixed date,
fixed modes.
"""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

from service.storage import CHUNK_BYTES
from wsi.durable import sync_folder

_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say
_MODE = 0o100644 << 16
_UNIX = 3


def archive(folder: Path, target: Path, between_chunks: Callable[[], None]) -> None:
    """Write the folder, under its own name, into a zip that appears whole or not at all.

    Parameters
    ----------
    between_chunks
        Called before each MiB; may raise to stop.
    """
    arriving = target.with_name(target.name + ".arriving")
    try:
        with arriving.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archived:
                for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                    _add(archived, path, f"{folder.name}/{path.relative_to(folder).as_posix()}", between_chunks)
            file.flush()
            os.fsync(file.fileno())
        arriving.rename(target)
    except BaseException:
        arriving.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def _add(archived: zipfile.ZipFile, path: Path, name: str, between_chunks: Callable[[], None]) -> None:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.external_attr, entry.create_system, entry.file_size = _MODE, _UNIX, path.stat().st_size
    with path.open("rb") as source, archived.open(entry, "w") as copy:
        while chunk := source.read(CHUNK_BYTES):
            between_chunks()
            copy.write(chunk)
