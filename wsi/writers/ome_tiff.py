"""Writer of pyramidal OME-TIFF: JPEG 4:2:0 in 512-px tiles, which QuPath and OpenSlide read best."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

from slidelift.wsi.ome_xml import ImageMetadata, interleaved_xml
from slidelift.wsi.pyramid import TILE
from slidelift.wsi.slide import Pixels
from slidelift.wsi.suffixes import OME_TIFF
from slidelift.wsi.writers.bigtiff import BigTiffWriter
from slidelift.wsi.writers.segment import Blank, Entry

NAME = "ome-tiff"
SUFFIXES = OME_TIFF


def encoder(quality: int) -> Callable[[Pixels], Sequence[bytes]]:
    """Return a function from a tile, uint8 (512, 512, 3), to its one part, a JPEG stream."""

    def encode(tile: Pixels) -> Sequence[bytes]:
        data = imagecodecs.jpeg8_encode(
            tile, level=quality, colorspace="RGB", outcolorspace="YCBCR", subsampling="420", optimize=False
        )
        return (bytes(data),)

    return encode


def decode(parts: Sequence[bytes]) -> Pixels:
    """Decode a tile to uint8 (512, 512, 3)."""
    return np.asarray(imagecodecs.jpeg8_decode(parts[0]))


def write(
    target: Path,
    levels: Iterable[Iterable[Entry]],
    metadata: ImageMetadata,
    quality: int,
    _check_cancelled: Callable[[], None],
) -> None:
    """Write the file, with the tiles in the order (level, row, column).

    Parameters
    ----------
    levels
        Tiles of each level, finest first, in the order of rows and columns.
    """
    writer = BigTiffWriter(target, metadata.sizes, TILE)
    try:
        for level, entries in enumerate(levels):
            for entry in entries:
                for _, data in stored_parts(entry, quality):
                    writer.put(level, entry.row, entry.column, data, shared=isinstance(entry.payload, Blank))
        pixels_per_cm = (1e4 / metadata.mpp[0], 1e4 / metadata.mpp[1])
        writer.close(interleaved_xml(metadata), metadata.software, pixels_per_cm, metadata.icc_profile)
    finally:
        writer.abandon()


def stored_parts(entry: Entry, quality: int) -> list[tuple[int, bytes]]:
    """Return what `write` stores of an entry: part 0, a JPEG stream."""
    if isinstance(entry.payload, Blank):
        return [(0, _encoded_blank(entry.payload.colour, quality))]
    return [(0, entry.payload)]


@lru_cache(256)
def _encoded_blank(colour: tuple[int, int, int], quality: int) -> bytes:
    return encoder(quality)(np.full((TILE, TILE, 3), colour, np.uint8))[0]


@contextmanager
def open_stored(path: Path) -> Iterator[Callable[[int, int, int, int], bytes]]:
    """Open a finished file; yields a function that reads stored bytes by level, row, column and part."""
    with tifffile.TiffFile(path) as tiff, path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # read from the disk, not from the page cache
        pages = [level.pages[0] for level in tiff.series[0].levels]
        tables = [(page.dataoffsets, page.databytecounts, -(-page.imagewidth // TILE)) for page in pages]

        def read(level: int, row: int, column: int, _part: int) -> bytes:
            offsets, byte_counts, columns = tables[level]
            file.seek(offsets[row * columns + column])
            return file.read(byte_counts[row * columns + column])

        yield read
