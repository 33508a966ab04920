"""Packs an OME-Zarr folder into a zip for download.

The zip is stored, because the chunks are compressed already. Its bytes depend only on names and contents: names are
sorted, dates and modes fixed.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path

from slidelift.durable import atomic_file
from slidelift.service.storage.disk import CHUNK_BYTES
from slidelift.wsi.result_hash import FolderHash

_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest date of the format
_MODE = 0o100644 << 16
_UNIX = 3


def archive(folder: Path, target: Path, between_chunks: Callable[[], None]) -> str:
    """Pack a folder, under its own name, into a zip that appears atomically.

    Parameters
    ----------
    between_chunks
        Called before each MiB; may raise to stop.

    Returns
    -------
    str
        Hash of the packed files, equal to `wsi.result_hash.result_hash` of the folder.
    """
    packed = FolderHash()
    with atomic_file(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archived:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            with packed.file(name) as update:
                _add(archived, path, f"{folder.name}/{name}", between_chunks, update)
    return packed.hexdigest()


def _add(
    archived: zipfile.ZipFile,
    path: Path,
    name: str,
    between_chunks: Callable[[], None],
    update: Callable[[bytes], None],
) -> None:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.external_attr, entry.create_system, entry.file_size = _MODE, _UNIX, path.stat().st_size
    with path.open("rb") as source, archived.open(entry, "w") as copy:
        while chunk := source.read(CHUNK_BYTES):
            between_chunks()
            update(chunk)
            copy.write(chunk)
