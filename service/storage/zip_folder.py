"""A folder as one stored zip: how an OME-Zarr travels over HTTP.

Stored, since chunks are compressed already; the bytes depend on names and contents alone: sorted names, one fixed date,
fixed modes.
"""

import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path

from slidelift.durable import atomic_file
from slidelift.service.storage.files import ARRIVING, CHUNK_BYTES
from slidelift.wsi.result_hash import FolderHash

_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say
_MODE = 0o100644 << 16
_UNIX = 3


def archive(folder: Path, target: Path, between_chunks: Callable[[], None]) -> str:
    """Write the folder, under its own name, into a zip that appears whole or not at all.

    Parameters
    ----------
    between_chunks
        Called before each MiB; may raise to stop.

    Returns
    -------
    str
        The hash of the files that were packed, as `wsi.result_hash.result_hash` makes it of the folder.
    """
    # The name is this call's own: another process that packs the same folder must not write into the same file.
    arriving = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}{ARRIVING}")
    packed = FolderHash()
    with atomic_file(target, partial=arriving) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archived:
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
