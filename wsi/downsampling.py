"""Regions of a slide at any power-of-two downsample, for viewers."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from slidelift.wsi.errors import TooCoarseError
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.slide import Level, Pixels, SlideReader

# Limit for the pixels that are decoded for one region: seconds of work. Only slides of over 16,000 px with a single
# level exceed it.
MAX_READ_PIXELS = 1 << 28
# Pixels that are decoded at a time.
_BLOCK_PIXELS = 1 << 22
_MARGIN = 2


def read_downsampled(reader: SlideReader, downsample: int, region: Region) -> Pixels:
    """Read a region of the slide downsampled to ceil(size / downsample) pixels, by block means.

    The pixels come from the coarsest level that is fine enough. Blocks that reach over the right or lower edge repeat
    it. Memory: 4 Mpx of the source besides the region itself.

    Parameters
    ----------
    downsample
        A power of two.
    region
        In pixels of the downsampled slide; must lie inside it.

    Returns
    -------
    Pixels
        uint8 (region.height, region.width, channels), with the channels of the reader.

    Raises
    ------
    TileReadError
        The region can't be decoded.
    TooCoarseError
        The slide has no level that is coarse enough.
    """
    downsamples = [exact_downsample(level, reader.info.levels) for level in reader.info.levels]
    index = max(number for number, step in enumerate(downsamples) if step <= downsample)
    factor = downsample / downsamples[index]
    pixel_count = region.width * region.height * factor**2
    if pixel_count > MAX_READ_PIXELS:
        raise TooCoarseError(
            f"{reader.info.name}: this view needs {pixel_count / 1e6:.0f} megapixels of level {index}, and the slide "
            "has no coarser level; zoom in, or save the slide as a pyramid"
        )
    rows = []
    for top, bottom in _split(region.y, region.bottom, factor):
        blocks = (Region(x, top, right - x, bottom - top) for x, right in _split(region.x, region.right, factor))
        rows.append(np.concatenate([_read_block(reader, index, factor, block) for block in blocks], axis=1))
    return np.concatenate(rows, axis=0)


def exact_downsample(level: Level, levels: Sequence[Level]) -> float:
    """Downsample of a level, rounded to a whole number if the sizes of the levels allow it.

    Readers give the ratio of the sizes, for example 4.0001 if an odd last row was dropped; the pixels are four apart.
    """
    step, full = round(level.downsample), levels[0].size
    sizes = zip((level.size.width, level.size.height), (full.width, full.height), strict=True)
    is_whole = all(small in (large // step, -(-large // step)) for small, large in sizes)
    return float(step) if is_whole else level.downsample


def _split(start: int, end: int, factor: float) -> Iterator[tuple[int, int]]:
    step = max(1, int(math.sqrt(_BLOCK_PIXELS) / factor))
    for first in range(start, end, step):
        yield first, min(end, first + step)


def _read_block(reader: SlideReader, index: int, factor: float, region: Region) -> Pixels:
    if factor.is_integer():
        pixels = _read_padded(reader, index, region.scaled(int(factor)))
        return pixels if factor == 1 else np.asarray(Image.fromarray(pixels).reduce(int(factor)))
    left, top, right, bottom = (factor * edge for edge in (region.x, region.y, region.right, region.bottom))
    x, y = int(left) - _MARGIN, int(top) - _MARGIN
    pixels = _read_padded(reader, index, Region(x, y, math.ceil(right) + _MARGIN - x, math.ceil(bottom) + _MARGIN - y))
    resampling = Image.Resampling.BOX if factor > 1.5 else Image.Resampling.BILINEAR
    box = (left - x, top - y, right - x, bottom - y)
    return np.asarray(Image.fromarray(pixels).resize((region.width, region.height), resampling, box))


def _read_padded(reader: SlideReader, index: int, region: Region) -> Pixels:
    """Read a region that may reach over the level's edges, which are repeated there."""
    size: Size = reader.info.levels[index].size
    x, y = min(max(region.x, 0), size.width - 1), min(max(region.y, 0), size.height - 1)
    right, bottom = max(x + 1, min(region.right, size.width)), max(y + 1, min(region.bottom, size.height))
    inside = Region(x, y, right - x, bottom - y)
    pixels = reader.read_region(index, inside)
    if inside == region:
        return np.ascontiguousarray(pixels)
    columns = np.clip(np.arange(region.x, region.right), x, right - 1) - x
    rows = np.clip(np.arange(region.y, region.bottom), y, bottom - 1) - y
    return pixels[np.ix_(rows, columns)]
