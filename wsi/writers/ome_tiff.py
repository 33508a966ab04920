"""Stripes -> pyramidal OME-TIFF: JPEG 4:2:0 in 512-px tiles, as QuPath and OpenSlide read it best."""

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
    """A function from one tile, uint8 (512, 512, 3), to its JPEG bytes."""

    def encode(tile: Pixels) -> Sequence[bytes]:
        data = imagecodecs.jpeg8_encode(
            tile, level=quality, colorspace="RGB", outcolorspace="YCBCR", subsampling="420", optimize=False
        )
        return (bytes(data),)

    return encode


def decode(parts: Sequence[bytes]) -> Pixels:
    """The tile, uint8 (512, 512, 3), of its JPEG bytes."""
    return np.asarray(imagecodecs.jpeg8_decode(parts[0]))


def join(
    target: Path, levels: Iterable[Iterable[Entry]], facts: ImageMetadata, quality: int, _between: Callable[[], None]
) -> None:
    """Write the finished file; bytes lie in the order (level, row, column).

    Parameters
    ----------
    levels
        For each level, finest first, its tiles in the order of rows and columns.
    """
    writer = BigTiffWriter(target, facts.sizes, TILE)
    try:
        for level, entries in enumerate(levels):
            for entry in entries:
                for _, data in parts(entry, quality):
                    writer.put(level, entry.row, entry.column, data, shared=isinstance(entry.payload, Blank))
        density = (1e4 / facts.mpp[0], 1e4 / facts.mpp[1])
        writer.close(interleaved_xml(facts), facts.software, density, facts.icc_profile)
    finally:
        writer.abandon()


def parts(entry: Entry, quality: int) -> list[tuple[int, bytes]]:
    """What is stored of a tile: one JPEG."""
    if isinstance(entry.payload, Blank):
        return [(0, _encoded_blank(entry.payload.colour, quality))]
    return [(0, entry.payload)]


@lru_cache(256)
def _encoded_blank(colour: tuple[int, int, int], quality: int) -> bytes:
    return encoder(quality)(np.full((TILE, TILE, 3), colour, np.uint8))[0]


@contextmanager
def stored(path: Path) -> Iterator[Callable[[int, int, int, int], bytes]]:
    """What reads a tile of the finished file as it is stored, by level, row, column and part."""
    with tifffile.TiffFile(path) as tiff, path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # ask the disk
        pages = [level.pages[0] for level in tiff.series[0].levels]
        places = [(page.dataoffsets, page.databytecounts, -(-page.imagewidth // TILE)) for page in pages]

        def read(level: int, row: int, column: int, _part: int) -> bytes:
            offsets, sizes, columns = places[level]
            file.seek(offsets[row * columns + column])
            return file.read(sizes[row * columns + column])

        yield read
