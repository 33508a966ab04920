"""Stripes -> pyramidal OME-TIFF: JPEG 4:2:0 in 512-px tiles, as QuPath and OpenSlide read it best."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import imagecodecs
import numpy as np

from wsi.ome_xml import ImageFacts, interleaved_xml
from wsi.pyramid import TILE
from wsi.slide import Pixels
from wsi.suffixes import OME_TIFF
from wsi.writers.bigtiff import BigTiffWriter
from wsi.writers.segment import Blank, Entry

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


def join(target: Path, levels: Iterable[Iterable[Entry]], facts: ImageFacts, quality: int) -> None:
    """Write the finished file; bytes lie in the order (level, row, column).

    Parameters
    ----------
    levels
        For each level, finest first, its tiles in the order of rows and columns.
    """
    encode = encoder(quality)
    writer = BigTiffWriter(target, facts.sizes, TILE)
    try:
        for level, entries in enumerate(levels):
            for entry in entries:
                if isinstance(entry.payload, Blank):
                    tile = np.full((TILE, TILE, 3), entry.payload.colour, np.uint8)
                    writer.put(level, entry.row, entry.column, encode(tile)[0], shared=True)
                else:
                    writer.put(level, entry.row, entry.column, entry.payload)
        density = (1e4 / facts.mpp[0], 1e4 / facts.mpp[1])
        writer.close(interleaved_xml(facts), facts.software, density, facts.icc_profile)
    finally:
        writer.abandon()
