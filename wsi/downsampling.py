"""What a viewer sees of a slide: any part of it at a reduction by a power of two."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from slidelift.wsi.errors import TooCoarseError
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.slide import Level, Pixels, SlideReader

# What one view may decode: seconds of work. More is asked for only where a slide of over 16,000 px has one level.
MAX_READ_PIXELS = 1 << 28
# What is decoded at a time.
_PIECE_PIXELS = 1 << 22
_MARGIN = 2


def read_downsampled(reader: SlideReader, downsample: int, region: Region) -> Pixels:
    """The slide as a picture of ceil(size / downsample), cut to `region`: each pixel the mean of those it stands for.

    Taken from the coarsest level that is fine enough. What reaches over the right or lower edge repeats it. Memory:
    4 Mpx of the source besides the view itself.

    Parameters
    ----------
    downsample
        A power of two.
    region
        In pixels of the reduced slide, inside it.

    Returns
    -------
    Pixels
        uint8 (region.height, region.width, channels), as many channels as the reader gives.

    Raises
    ------
    TileReadError
        Any of it can't be decoded.
    TooCoarseError
        The slide has no level coarse enough for it.
    """
    steps = [exact_downsample(level, reader.info.levels) for level in reader.info.levels]
    index = max(number for number, step in enumerate(steps) if step <= downsample)
    factor = downsample / steps[index]
    if region.width * region.height * factor**2 > MAX_READ_PIXELS:
        raise TooCoarseError(
            f"{reader.info.name}: this view takes {region.width * region.height * factor**2 / 1e6:.0f} megapixels of "
            f"level {index}, and the slide has no coarser one; zoom in, or save the slide as a pyramid"
        )
    rows = []
    for top, bottom in _pieces(region.y, region.bottom, factor):
        pieces = (Region(x, top, right - x, bottom - top) for x, right in _pieces(region.x, region.right, factor))
        rows.append(np.concatenate([_piece(reader, index, factor, one) for one in pieces], axis=1))
    return np.concatenate(rows, axis=0)


def exact_downsample(level: Level, levels: Sequence[Level]) -> float:
    """Pixels of level 0 for each of this one: a whole number where the level has the size that such a step leaves.

    A level's downsample is told as the ratio of the sizes, and 4.0001 where an odd last row was dropped; its pixels
    lie four apart all the same.
    """
    step, full = round(level.downsample), levels[0].size
    sizes = zip((level.size.width, level.size.height), (full.width, full.height), strict=True)
    whole = all(small in (large // step, -(-large // step)) for small, large in sizes)
    return float(step) if whole else level.downsample


def _pieces(start: int, end: int, factor: float) -> Iterator[tuple[int, int]]:
    step = max(1, int(math.sqrt(_PIECE_PIXELS) / factor))
    for first in range(start, end, step):
        yield first, min(end, first + step)


def _piece(reader: SlideReader, index: int, factor: float, region: Region) -> Pixels:
    if factor.is_integer():
        pixels = _read(reader, index, region.scaled(int(factor)))
        return pixels if factor == 1 else np.asarray(Image.fromarray(pixels).reduce(int(factor)))
    left, top, right, bottom = (factor * edge for edge in (region.x, region.y, region.right, region.bottom))
    x, y = int(left) - _MARGIN, int(top) - _MARGIN
    pixels = _read(reader, index, Region(x, y, math.ceil(right) + _MARGIN - x, math.ceil(bottom) + _MARGIN - y))
    kind = Image.Resampling.BOX if factor > 1.5 else Image.Resampling.BILINEAR
    inside = (left - x, top - y, right - x, bottom - y)
    return np.asarray(Image.fromarray(pixels).resize((region.width, region.height), kind, inside))


def _read(reader: SlideReader, index: int, wanted: Region) -> Pixels:
    """A region that may reach over the level's edges, whose pixels are repeated there."""
    size: Size = reader.info.levels[index].size
    x, y = min(max(wanted.x, 0), size.width - 1), min(max(wanted.y, 0), size.height - 1)
    right, bottom = max(x + 1, min(wanted.right, size.width)), max(y + 1, min(wanted.bottom, size.height))
    inside = Region(x, y, right - x, bottom - y)
    pixels = reader.read_region(index, inside)
    if inside == wanted:
        return np.ascontiguousarray(pixels)
    columns = np.clip(np.arange(wanted.x, wanted.right), x, right - 1) - x
    rows = np.clip(np.arange(wanted.y, wanted.bottom), y, bottom - 1) - y
    return pixels[np.ix_(rows, columns)]
