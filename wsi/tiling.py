"""How a slide is cut: a stored plan -> stripes -> rows of tiles, each a core with a halo.

The plan fixes all that pixels depend on, so that a stripe is a pure function of (slide, plan, number).
Coordinates: *source* pixels count in the plan's level from that level's origin; *output* pixels count in the
result from its own origin.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from slidelift.wsi.errors import PlanError
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.slide import SlideInfo
from slidelift.wsi.tile_mask import MaskCell

CORE = 256
ROWS_PER_STRIPE = 8
# A slide's µm per pixel is written with about three digits; levels differ by factors of two or more.
_MPP_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Tile:
    """One cell of the plan's grid.

    Attributes
    ----------
    core
        What this tile stands for, in source pixels; smaller at the right and bottom edge.
    patch
        What the network sees: always `plan.patch` pixels square; may reach outside the level, where it is mirrored.
    cell
        What the mask says of it.
    """

    row: int
    column: int
    core: Region
    patch: Region
    cell: MaskCell

    @property
    def maybe_tissue(self) -> bool:
        """False where the mask has already rejected the tile."""
        return self.cell is MaskCell.MAYBE_TISSUE


@dataclass(frozen=True, slots=True)
class Stripe:
    """A run of tile rows over the full width: the unit of checkpoint, retry, progress and distribution.

    `output` is what it contributes to the result, in output pixels.
    """

    number: int
    first_row: int
    rows: int
    output: Region


@dataclass(frozen=True, slots=True)
class TilePlan:
    """Everything about the cut that pixels depend on; stored as JSON.

    Attributes
    ----------
    level, source
        The slide's level and the region of it, in its pixels.
    scale
        Output pixels per source pixel.
    core, halo, fade
        Source pixels: side of a tile, context around it, and how far an inexact network's tile reaches over the
        tiles above and left of it to be cross-faded there.
    batch
        Tissue patches the network is given at a time; batches never cross a row.
    entropy
        Threshold in bits of the second, per-patch test.
    mask
        One string a row, one letter of `MaskCell` a tile.
    """

    level: int
    source: Region
    scale: int
    halo: int
    fade: int
    batch: int
    entropy: float
    mask: tuple[str, ...]
    core: int = CORE
    rows_per_stripe: int = ROWS_PER_STRIPE

    @property
    def columns(self) -> int:
        """Tiles in a row."""
        return -(-self.source.width // self.core)

    @property
    def rows(self) -> int:
        """Rows of tiles."""
        return -(-self.source.height // self.core)

    @property
    def patch(self) -> int:
        """Side in source pixels of what the network sees."""
        return self.core + self.fade + 2 * self.halo

    @property
    def output(self) -> Size:
        """Size of the result."""
        return Size(self.source.width * self.scale, self.source.height * self.scale)

    @property
    def stripe_height(self) -> int:
        """Output pixels of a full stripe."""
        return self.rows_per_stripe * self.core * self.scale

    def stripes(self) -> Iterator[Stripe]:
        """From top to bottom; together they cover the output once."""
        whole = Region(0, 0, self.output.width, self.output.height)
        for number, first in enumerate(range(0, self.rows, self.rows_per_stripe)):
            band = Region(0, number * self.stripe_height, self.output.width, self.stripe_height)
            yield Stripe(number, first, min(self.rows_per_stripe, self.rows - first), band.intersect(whole))

    def tile(self, row: int, column: int) -> Tile:
        """The tile of that cell."""
        corner = Region(self.source.x + column * self.core, self.source.y + row * self.core, self.core, self.core)
        before = self.fade + self.halo
        return Tile(
            row,
            column,
            corner.intersect(self.source),
            Region(corner.x - before, corner.y - before, self.patch, self.patch),
            MaskCell(self.mask[row][column]),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TilePlan":
        """Inverse of `as_dict`."""
        return cls(**{**values, "source": Region(**values["source"]), "mask": tuple(values["mask"])})


def require_level(info: SlideInfo, level: int | None) -> None:
    """Raise PlanError where the slide has no such level; None is any."""
    if level is not None and not 0 <= level < len(info.levels):
        raise PlanError(f"{info.name}: there is no level {level}; it has levels 0 to {len(info.levels) - 1}")


def choose_level(
    info: SlideInfo,
    mpp: tuple[float, float],
    scales: tuple[int, ...],
    scale: int,
    target_mpp: float | None,
    level: int | None,
) -> tuple[int, int]:
    """Source level and scale that give the wanted µm per pixel, from the finest level that can.

    A coarser level that comes nearer to the wanted value holds less of the slide: its result would be blurred. Where
    the pixels are not square, the value along x decides.

    Parameters
    ----------
    mpp
        µm per pixel of level 0.
    scales, scale
        What the model can do, and what it does unless `target_mpp` asks for another.
    target_mpp, level
        The request; both None for level 0.

    Raises
    ------
    PlanError
        No such level, or no pair of level and scale comes within 5 % of `target_mpp`; names those that exist.
    """
    require_level(info, level)
    if target_mpp is None:
        return level or 0, scale
    levels = range(len(info.levels)) if level is None else (level,)
    reachable = {
        (index, factor): mpp[0] * info.levels[index].downsample / factor for index in levels for factor in scales
    }
    fitting = [pair for pair, mpp_there in reachable.items() if is_close(mpp_there, target_mpp)]
    if not fitting:
        offers = ", ".join(f"{value:.4g}" for value in sorted(set(reachable.values())))
        raise PlanError(
            f"{info.name}: {target_mpp:g} µm per pixel can't be reached with this model without resampling; "
            f"it can give {offers}"
        )
    return min(fitting, key=lambda pair: (pair[0], abs(math.log(reachable[pair] / target_mpp)), pair[1]))


def is_close(mpp: float, target_mpp: float) -> bool:
    """Whether µm per pixel are those that were asked for, within 5 %."""
    return abs(mpp / target_mpp - 1) <= _MPP_TOLERANCE * (1 + 1e-9)  # 1.05 of a float's value is not beyond 5 %


def source_region(info: SlideInfo, level: int, region: Region | None, *, outward: bool = False) -> Region:
    """The asked region of level 0 (or the scanned bounds, or all) in pixels of `level`.

    Parameters
    ----------
    outward
        Take in every pixel that the region touches, in place of rounding its corners.

    Raises
    ------
    PlanError
        The region is empty or reaches outside the slide.
    """
    whole = Region(0, 0, info.size.width, info.size.height)
    if region is not None and (region.is_empty or not whole.contains(region)):
        raise PlanError(
            f"{info.name}: region {region.x},{region.y},{region.width},{region.height} does not lie inside the slide's "
            f"{info.size.width}x{info.size.height} pixels"
        )
    asked = region or info.bounds or whole
    size, downsample = info.levels[level].size, info.levels[level].downsample
    first, last = (math.floor, math.ceil) if outward else (round, round)
    x = min(first(asked.x / downsample), size.width - 1)
    y = min(first(asked.y / downsample), size.height - 1)
    right, bottom = last(asked.right / downsample), last(asked.bottom / downsample)
    if asked == whole:
        right, bottom = size.width, size.height
    return Region(x, y, max(1, right - x), max(1, bottom - y)).intersect(Region(0, 0, size.width, size.height))
