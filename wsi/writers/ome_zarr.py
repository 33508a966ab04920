"""Stripes -> OME-Zarr 0.4 (Zarr v2), the version that QuPath reads, lossless.

Array ``0`` is the finest level, axes c, y, x; chunks of one plane of 512 x 512. Chunks of white are not stored:
the fill value is white. ``OME/METADATA.ome.xml`` tells QuPath pixel size, magnification and RGB, which it does not
take from the Zarr attributes.
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
blosc.use_threads = False  # tiles are encoded in parallel already, and one thread's bytes are always the same


def is_result_entry(name: str) -> bool:
    """Whether an entry of a result's folder is of those that `join` writes."""
    return name.isdigit() or name in {"OME", ".zattrs", ".zgroup", ".zmetadata"}


def encoder(_quality: int) -> Callable[[Pixels], Sequence[bytes]]:
    """A function from one tile, uint8 (512, 512, 3), to its three compressed planes, lossless."""
    return _encode


def _encode(tile: Pixels) -> Sequence[bytes]:
    return tuple(bytes(_CODEC.encode(np.ascontiguousarray(tile[..., channel]))) for channel in range(3))


def decode(parts: Sequence[bytes]) -> Pixels:
    """The tile, uint8 (512, 512, 3), of its planes."""
    planes = [np.frombuffer(_CODEC.decode(part), np.uint8).reshape(TILE, TILE) for part in parts]
    return np.stack(planes, axis=-1)


@cache
def _encoded_blank(value: int) -> bytes:
    return bytes(_CODEC.encode(np.full((TILE, TILE), value, np.uint8)))


def join(
    target: Path, levels: Iterable[Iterable[Entry]], facts: ImageMetadata, _quality: int, between: Callable[[], None]
) -> None:
    """Write the finished folder and flush it to disk.

    Parameters
    ----------
    levels
        For each level, finest first, its tiles' planes in the order of rows and columns.
    between
        Called after each file that is flushed; may raise to stop.
    """
    import zarr  # a third of a second, for which a TIFF need not wait

    group = zarr.create_group(str(target), zarr_format=2, attributes=_attributes(facts))
    for level, size in enumerate(facts.sizes):
        group.create_array(
            str(level),
            shape=(3, size.height, size.width),
            chunks=(1, TILE, TILE),
            dtype="u1",
            compressors=_CODEC,
            fill_value=FILL,
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )
    for level, entries in enumerate(levels):
        for entry in entries:
            for channel, data in parts(entry, _quality):
                chunk = _chunk(target, level, channel, entry.row, entry.column)
                chunk.parent.mkdir(parents=True, exist_ok=True)
                chunk.write_bytes(data)
    folder = target / "OME"
    zarr.create_group(str(folder), zarr_format=2)
    (folder / "METADATA.ome.xml").write_text(planar_xml(facts), encoding="utf-8")
    if facts.icc_profile is not None:
        (folder / "profile.icc").write_bytes(facts.icc_profile)
    sync_tree(target, between)
    sync_folder(target.parent)


def _chunk(target: Path, level: int, channel: int, row: int, column: int) -> Path:
    return target / str(level) / str(channel) / str(row) / str(column)


@contextmanager
def stored(path: Path) -> Iterator[Callable[[int, int, int, int], bytes]]:
    """What reads a part of the finished folder as it is stored, by level, row, column and part."""
    yield lambda level, row, column, part: _chunk(path, level, part, row, column).read_bytes()


def parts(entry: Entry, _quality: int) -> list[tuple[int, bytes]]:
    """What is stored of a tile: its planes by number, none for a plane of white."""
    if isinstance(entry.payload, Blank):
        colours = enumerate(entry.payload.colour)
        return [(channel, _encoded_blank(value)) for channel, value in colours if value != FILL]
    return [(entry.part, entry.payload)]


def _attributes(facts: ImageMetadata) -> dict[str, Any]:
    full = facts.sizes[0]
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [
                {
                    "type": "scale",
                    "scale": [1.0, facts.mpp[1] * full.height / size.height, facts.mpp[0] * full.width / size.width],
                }
            ],
        }
        for level, size in enumerate(facts.sizes)
    ]
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    return {
        "multiscales": [
            {
                "version": "0.4",
                "name": facts.name,
                "axes": [
                    {"name": "c", "type": "channel"},
                    {"name": "y", "type": "space", "unit": "micrometer"},
                    {"name": "x", "type": "space", "unit": "micrometer"},
                ],
                "datasets": datasets,
                "type": "mean",
                "metadata": {"description": "2x2 mean, rounded half up, an odd last row or column dropped"},
            }
        ],
        "omero": {
            "version": "0.4",
            "name": facts.name,
            "channels": [
                {"label": label, "color": colour, "active": True, "window": window}
                for label, colour in (("Red", "FF0000"), ("Green", "00FF00"), ("Blue", "0000FF"))
            ],
            "rdefs": {"model": "color"},
        },
        "slidelift": dict(facts.annotations),
    }
