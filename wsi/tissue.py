"""Tissue detection: a mask from a low-resolution level, then the Shannon entropy of each full patch.

Entropy after Sun, Khvostikov, Krylov, Krainiukov, GraphiCon 2023: H = -sum p log2 p over the 256 grey levels.
Both steps reject only tiles that are certainly empty; rejected tiles are resampled, never blanked.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidelift.wsi.errors import TileReadError
from slidelift.wsi.geometry import Region
from slidelift.wsi.slide import Level, Pixels, SlideReader
from slidelift.wsi.tile_mask import MaskCell

# Bits. At about 1 µm per pixel all 127 patches (256 px or less) of six H&E sets, fat and pale stroma included, have
# 3.46 bits or more. Evenly lit glass has at most 1.5; a mosaic of unequally bright fields reaches 3.35, and some of it
# is enhanced needlessly (docs/decisions/entropy.md). The 7 bits of Sun et al. suit their stain and scanner only: they
# would keep 39 % of these patches, and 1 of the palest set's 37.
DEFAULT_ENTROPY = 3.0
ENTROPY_BLOCK = 64

# Most pixels of a survey; a tile should still cover several of them.
SURVEY_PIXELS = 16_000_000
_FLAT_RANGE = 8
_GLASS_LUMA = 200
_GLASS_SATURATION = 25
_GLASS_SHARE = 0.02
_BRIGHT_LUMA = 100
_BRIGHT_SHARE = 0.05


def grey_levels(pixels: Pixels) -> NDArray[np.uint8]:
    """Convert RGB pixels (h, w, 3) to rounded luma (BT.601), (h, w)."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))


def shannon_entropy(grey: NDArray[np.uint8]) -> float:
    """Compute the entropy of the distribution of grey levels in bits, 0 to 8."""
    share = np.bincount(grey.ravel(), minlength=256) / grey.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def is_tissue(pixels: Pixels, threshold: float) -> bool:
    """Whether a patch, or any of its 64-px blocks, has more entropy than `threshold` bits; 0 keeps everything.

    The blocks find a sliver of tissue at the edge of a patch of glass: 5 % of tissue raise the entropy of the whole
    patch by only half a bit.
    """
    if threshold <= 0:
        return True
    grey = grey_levels(pixels)
    if shannon_entropy(grey) > threshold:
        return True
    rows, columns = (range(0, size, ENTROPY_BLOCK) for size in grey.shape)
    blocks = (grey[y : y + ENTROPY_BLOCK, x : x + ENTROPY_BLOCK] for y in rows for x in columns)
    return any(shannon_entropy(block) > threshold for block in blocks)


def looks_dark(pixels: Pixels) -> bool:
    """Whether under 5 % of the pixels have a luma over 100."""
    return float((grey_levels(pixels) > _BRIGHT_LUMA).mean()) < _BRIGHT_SHARE


@dataclass(frozen=True, slots=True)
class Survey:
    """A low-resolution picture of a region of a level.

    Attributes
    ----------
    pixels
        uint8 (h, w, 3); None where no level is small enough or it can't be read.
    per_pixel
        Pixels of the surveyed level per pixel of this picture, along x and y.
    """

    pixels: Pixels | None
    per_pixel: tuple[float, float]

    def is_dark(self) -> bool:
        """Whether hardly any pixel is bright, as in fluorescence; False for brightfield in a black frame."""
        return self.pixels is not None and looks_dark(self.pixels)

    def tissue_rows(self, tile: int, rows: int, columns: int) -> tuple[str, ...]:
        """Return the mask of a grid of tiles, one string a row, one letter of `MaskCell` a tile.

        A tile is glass if every pixel of it and of its neighbourhood differs from the glass colour by at most 8
        levels in each channel. Without a bright, colourless, frequent colour no tile is glass.
        """
        everything = tuple(MaskCell.MAYBE_TISSUE * columns for _ in range(rows))
        glass = None if self.pixels is None else _glass_colour(self.pixels)
        if self.pixels is None or glass is None:
            return everything
        differs = (np.abs(self.pixels.astype(np.int16) - glass) > _FLAT_RANGE).any(axis=2)
        sums = np.pad(differs.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
        tops, bottoms = _spans(rows, tile / self.per_pixel[1], differs.shape[0])
        lefts, rights = _spans(columns, tile / self.per_pixel[0], differs.shape[1])
        counts = (
            sums[np.ix_(bottoms, rights)]
            - sums[np.ix_(tops, rights)]
            - sums[np.ix_(bottoms, lefts)]
            + sums[np.ix_(tops, lefts)]
        )
        return tuple("".join(MaskCell.MAYBE_TISSUE if count else MaskCell.GLASS for count in row) for row in counts)


def survey(reader: SlideReader, level: int, region: Region) -> Survey:
    """Read `region` of `level` from the finest coarser level on which it is small enough.

    Without such a level, or where it can't be read, the survey is empty and rejects no tile.
    """
    levels = reader.info.levels
    for index in range(level, len(levels)):
        source = _on_level(levels, level, region, index)
        if source.width * source.height <= SURVEY_PIXELS and not source.is_empty:
            ratio_x = levels[level].size.width / levels[index].size.width
            ratio_y = levels[level].size.height / levels[index].size.height
            try:
                return Survey(reader.read_region(index, source), (ratio_x, ratio_y))
            except TileReadError:
                break
    return Survey(None, (1.0, 1.0))


def thumbnail(reader: SlideReader, level: int, region: Region, longest: int) -> Pixels | None:
    """Read `region` of `level`, at most `longest` pixels wide and high, from the coarsest level that has as many.

    None where no level is small enough, or it can't be decoded.
    """
    levels = reader.info.levels
    for index in range(len(levels) - 1, level - 1, -1):
        source = _on_level(levels, level, region, index)
        enough = max(source.width, source.height) >= longest or index == level
        if enough and not source.is_empty:
            if source.width * source.height > SURVEY_PIXELS:
                return None
            try:
                small = Image.fromarray(reader.read_region(index, source))
            except TileReadError:
                return None
            small.thumbnail((longest, longest), Image.Resampling.BICUBIC)
            return np.asarray(small)
    return None


def _on_level(levels: Sequence[Level], level: int, region: Region, index: int) -> Region:
    """Return the region of level `index` that holds `region` of `level`."""
    ratio_x = levels[level].size.width / levels[index].size.width
    ratio_y = levels[level].size.height / levels[index].size.height
    x, y = math.floor(region.x / ratio_x), math.floor(region.y / ratio_y)
    covered = Region(x, y, math.ceil(region.right / ratio_x) - x, math.ceil(region.bottom / ratio_y) - y)
    return covered.intersect(Region(0, 0, levels[index].size.width, levels[index].size.height))


def _spans(count: int, step: float, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the start and end pixel of each of `count` steps, widened by one pixel and clipped."""
    edges = np.arange(count + 1) * step
    return (
        np.clip(np.floor(edges[:-1]).astype(np.int64) - 1, 0, size),
        np.clip(np.ceil(edges[1:]).astype(np.int64) + 1, 0, size),
    )


def _glass_colour(pixels: Pixels) -> NDArray[np.int16] | None:
    """Return the brightest frequent colour, if it is nearly colourless; pale tissue is never brighter than glass."""
    grey = grey_levels(pixels)
    share = np.convolve(np.bincount(grey.ravel(), minlength=256) / grey.size, np.ones(3), "same")
    bright = [luma for luma in range(_GLASS_LUMA, 256) if share[luma] >= _GLASS_SHARE]
    if not bright:
        return None
    peak = max(range(max(bright) - 3, max(bright) + 1), key=lambda luma: share[luma])
    colour = np.median(pixels[np.abs(grey.astype(np.int16) - peak) <= 1], axis=0).astype(np.int16)
    return colour if int(np.ptp(colour)) <= _GLASS_SATURATION else None
