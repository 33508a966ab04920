"""Where the tissue is: a mask from a low-resolution level, then the Shannon entropy of each full patch.

Entropy after Sun, Khvostikov, Krylov, Krainiukov, GraphiCon 2023: H = -sum p log2 p over the 256 grey levels.
Both steps reject only what is surely empty, and what they reject is still resampled, never blanked.
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

# Bits. At about 1 µm per pixel all 127 patches (256 px or less) of six H&E sets, fat and pale stroma included, have
# 3.46 bits or more. Evenly lit glass has at most 1.5; a mosaic of unequally bright fields reaches 3.35, and some of it
# is upscaled for nothing (docs/decisions/entropy.md). The 7 bits of Sun et al. suit their stain and scanner only: they
# would keep 39 % of these patches, and 1 of the palest set's 37.
DEFAULT_ENTROPY = 3.0
ENTROPY_BLOCK = 64

# A survey needs no more than this of a level, and a tile should cover some pixels of it.
SURVEY_PIXELS = 16_000_000
_FLAT_RANGE = 8
_GLASS_LUMA = 200
_GLASS_SATURATION = 25
_GLASS_SHARE = 0.02
_BRIGHT_LUMA = 100
_BRIGHT_SHARE = 0.05


def grey_levels(pixels: Pixels) -> NDArray[np.uint8]:
    """Luma (BT.601) of RGB pixels, (h, w, 3) -> (h, w), rounded."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))


def shannon_entropy(grey: NDArray[np.uint8]) -> float:
    """Entropy in bits, 0 to 8, of the distribution of grey levels."""
    share = np.bincount(grey.ravel(), minlength=256) / grey.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def is_tissue(pixels: Pixels, threshold: float) -> bool:
    """Whether a patch, or any of its 64-px blocks, has more entropy than `threshold` bits; 0 keeps everything.

    The blocks save a sliver of tissue at the edge of a patch of glass: 5 % of tissue lift the entropy of the whole
    patch by half a bit only.
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
    """A low-resolution look at one level's region.

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
        """Whether hardly anything is bright, as in fluorescence; a black frame around brightfield does not count."""
        return self.pixels is not None and looks_dark(self.pixels)

    def tissue_rows(self, tile: int, rows: int, columns: int) -> tuple[str, ...]:
        """For each tile of a grid, ``1`` if tissue may be in it, ``0`` if it is surely glass.

        A tile is glass if every pixel of it and of its neighbourhood differs from the glass colour by at most 8
        levels in each channel. Where there is no bright, colourless, frequent colour, nothing is rejected.
        """
        everything = tuple("1" * columns for _ in range(rows))
        glass = None if self.pixels is None else _glass_colour(self.pixels)
        if self.pixels is None or glass is None:
            return everything
        differs = (np.abs(self.pixels.astype(np.int16) - glass) > _FLAT_RANGE).any(axis=2)
        sums = np.pad(differs.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
        tops, bottoms = _spans(rows, tile / self.per_pixel[1], differs.shape[0])
        lefts, rights = _spans(columns, tile / self.per_pixel[0], differs.shape[1])
        found = (
            sums[np.ix_(bottoms, rights)]
            - sums[np.ix_(tops, rights)]
            - sums[np.ix_(bottoms, lefts)]
            + sums[np.ix_(tops, lefts)]
        )
        return tuple("".join("1" if count else "0" for count in row) for row in found)


def survey(reader: SlideReader, level: int, region: Region) -> Survey:
    """Look at `region` of `level` through the finest coarser level that keeps the picture small.

    Where none does, or it can't be read, the survey is empty and rejects nothing.
    """
    levels = reader.info.levels
    for index in range(level, len(levels)):
        seen = _on_level(levels, level, region, index)
        if seen.width * seen.height <= SURVEY_PIXELS and not seen.is_empty:
            ratio_x = levels[level].size.width / levels[index].size.width
            ratio_y = levels[level].size.height / levels[index].size.height
            try:
                return Survey(reader.read_region(index, seen), (ratio_x, ratio_y))
            except TileReadError:
                break
    return Survey(None, (1.0, 1.0))


def thumbnail(reader: SlideReader, level: int, region: Region, longest: int) -> Pixels | None:
    """`region` of `level`, made at most `longest` pixels wide and high from the coarsest level that has as many.

    None where no level is small enough to be read for it, or it can't be decoded.
    """
    levels = reader.info.levels
    for index in range(len(levels) - 1, level - 1, -1):
        seen = _on_level(levels, level, region, index)
        enough = max(seen.width, seen.height) >= longest or index == level
        if enough and not seen.is_empty:
            if seen.width * seen.height > SURVEY_PIXELS:
                return None
            try:
                small = Image.fromarray(reader.read_region(index, seen))
            except TileReadError:
                return None
            small.thumbnail((longest, longest), Image.Resampling.BICUBIC)
            return np.asarray(small)
    return None


def _on_level(levels: Sequence[Level], level: int, region: Region, index: int) -> Region:
    """The pixels of level `index` that hold `region` of `level`."""
    ratio_x = levels[level].size.width / levels[index].size.width
    ratio_y = levels[level].size.height / levels[index].size.height
    x, y = math.floor(region.x / ratio_x), math.floor(region.y / ratio_y)
    seen = Region(x, y, math.ceil(region.right / ratio_x) - x, math.ceil(region.bottom / ratio_y) - y)
    return seen.intersect(Region(0, 0, levels[index].size.width, levels[index].size.height))


def _spans(count: int, step: float, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and end pixel of each of `count` steps, widened by one pixel and clipped."""
    edges = np.arange(count + 1) * step
    return (
        np.clip(np.floor(edges[:-1]).astype(np.int64) - 1, 0, size),
        np.clip(np.ceil(edges[1:]).astype(np.int64) + 1, 0, size),
    )


def _glass_colour(pixels: Pixels) -> NDArray[np.int16] | None:
    """The brightest frequent colour, if it is nearly colourless: pale tissue may be flatter, never brighter."""
    grey = grey_levels(pixels)
    share = np.convolve(np.bincount(grey.ravel(), minlength=256) / grey.size, np.ones(3), "same")
    bright = [luma for luma in range(_GLASS_LUMA, 256) if share[luma] >= _GLASS_SHARE]
    if not bright:
        return None
    peak = max(range(max(bright) - 3, max(bright) + 1), key=lambda luma: share[luma])
    colour = np.median(pixels[np.abs(grey.astype(np.int16) - peak) <= 1], axis=0).astype(np.int16)
    return colour if int(np.ptp(colour)) <= _GLASS_SATURATION else None
