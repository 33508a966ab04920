"""Writer of lossless OME-Zarr 0.4 (Zarr v2), the version that QuPath reads.

Array ``0`` is the finest level, with axes c, y, x and chunks of (1, 512, 512). White chunks are not stored, because the
fill value is white. QuPath takes pixel size, magnification and RGB from ``OME/METADATA.ome.xml``, not from the Zarr
attributes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
from numcodecs import blosc

from slidelift.durable import sync_folder, sync_tree
from slidelift.wsi.ome_xml import ImageMetadata, planar_xml
from slidelift.wsi.pyramid import TILE
from slidelift.wsi.slide import Pixels
from slidelift.wsi.suffixes import OME_ZARR
from slidelift.wsi.writers.segment import Blank, Entry

NAME = "ome-zarr"
SUFFIXES = OME_ZARR
FILL = 255

_CODEC = numcodecs.Blosc(cname="zstd", clevel=1, shuffle=numcodecs.Blosc.NOSHUFFLE)
_WINDOW = {"min": 0, "max": 255, "start": 0, "end": 255}
blosc.use_threads = False  # tiles are encoded in parallel already, and one thread always gives the same bytes


def is_result_entry(name: str) -> bool:
    """Whether `write` creates an entry with this name in the folder of a result."""
    return name.isdigit() or name in {"OME", ".zattrs", ".zgroup", ".zmetadata"}


def encoder(_quality: int) -> Callable[[Pixels], Sequence[bytes]]:
    """Return a function from a tile, uint8 (512, 512, 3), to its parts: one compressed plane per channel."""
    return _encode


def _encode(tile: Pixels) -> Sequence[bytes]:
    return tuple(bytes(_CODEC.encode(np.ascontiguousarray(tile[..., channel]))) for channel in range(3))


def decode(parts: Sequence[bytes]) -> Pixels:
    """Decode a tile to uint8 (512, 512, 3)."""
    planes = [np.frombuffer(_CODEC.decode(part), np.uint8).reshape(TILE, TILE) for part in parts]
    return np.stack(planes, axis=-1)


@cache
def _encoded_blank(value: int) -> bytes:
    return bytes(_CODEC.encode(np.full((TILE, TILE), value, np.uint8)))


def write(
    target: Path,
    levels: Iterable[Iterable[Entry]],
    metadata: ImageMetadata,
    _quality: int,
    check_cancelled: Callable[[], None],
) -> None:
    """Write the folder and flush it to disk.

    Parameters
    ----------
    levels
        Planes of the tiles of each level, finest first, in the order of rows and columns.
    check_cancelled
        Called after each flushed file; may raise to stop.
    """
    _create_arrays(target, metadata)
    for level, entries in enumerate(levels):
        for entry in entries:
            for channel, data in stored_parts(entry, _quality):
                chunk = _chunk(target, level, channel, entry.row, entry.column)
                chunk.parent.mkdir(parents=True, exist_ok=True)
                chunk.write_bytes(data)
    _write_ome_group(target / "OME", metadata)  # last, because it marks the folder as a finished result
    sync_tree(target, check_cancelled)
    sync_folder(target.parent)


def _create_arrays(target: Path, metadata: ImageMetadata) -> None:
    import zarr  # takes a third of a second, which a TIFF does not need

    group = zarr.create_group(str(target), zarr_format=2, attributes=_attributes(metadata))
    for level, size in enumerate(metadata.sizes):
        group.create_array(
            str(level),
            shape=(3, size.height, size.width),
            chunks=(1, TILE, TILE),
            dtype="u1",
            compressors=_CODEC,
            fill_value=FILL,
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )


def _write_ome_group(folder: Path, metadata: ImageMetadata) -> None:
    import zarr

    zarr.create_group(str(folder), zarr_format=2)
    (folder / "METADATA.ome.xml").write_text(planar_xml(metadata), encoding="utf-8")
    if metadata.icc_profile is not None:
        (folder / "profile.icc").write_bytes(metadata.icc_profile)


def _chunk(target: Path, level: int, channel: int, row: int, column: int) -> Path:
    return target / str(level) / str(channel) / str(row) / str(column)


@contextmanager
def open_stored(path: Path) -> Iterator[Callable[[int, int, int, int], bytes]]:
    """Open a finished folder; yields a function that reads stored bytes by level, row, column and part."""
    yield lambda level, row, column, part: _chunk(path, level, part, row, column).read_bytes()


def stored_parts(entry: Entry, _quality: int) -> list[tuple[int, bytes]]:
    """Return what `write` stores of an entry: its planes by channel, without those that are white."""
    if isinstance(entry.payload, Blank):
        channels = enumerate(entry.payload.colour)
        return [(channel, _encoded_blank(value)) for channel, value in channels if value != FILL]
    return [(entry.part, entry.payload)]


def _attributes(metadata: ImageMetadata) -> dict[str, Any]:
    """Metadata of the group: multiscales and omero of OME-Zarr 0.4, and the provenance."""
    return {
        "multiscales": [
            {
                "version": "0.4",
                "name": metadata.name,
                "axes": [
                    {"name": "c", "type": "channel"},
                    {"name": "y", "type": "space", "unit": "micrometer"},
                    {"name": "x", "type": "space", "unit": "micrometer"},
                ],
                "datasets": [_dataset(metadata, level) for level in range(len(metadata.sizes))],
                "type": "mean",
                "metadata": {"description": "2x2 mean, rounded half up, an odd last row or column dropped"},
            }
        ],
        "omero": {
            "version": "0.4",
            "name": metadata.name,
            "channels": [
                {"label": label, "color": colour, "active": True, "window": _WINDOW}
                for label, colour in (("Red", "FF0000"), ("Green", "00FF00"), ("Blue", "0000FF"))
            ],
            "rdefs": {"model": "color"},
        },
        "slidelift": dict(metadata.annotations),
    }


def _dataset(metadata: ImageMetadata, level: int) -> dict[str, Any]:
    full, size = metadata.sizes[0], metadata.sizes[level]
    scale = [1.0, metadata.mpp[1] * full.height / size.height, metadata.mpp[0] * full.width / size.width]
    return {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
