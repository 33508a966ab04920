"""Tiling plan of a slide: stripes of tile rows, each tile a core with a halo.

The plan fixes everything that the result's pixels depend on, so a stripe is a pure function of (slide, plan, number).
*Source* coordinates are pixels of the plan's level, from that level's origin; *output* coordinates are pixels of the
result, from its own origin.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from slidelift.wsi.errors import NoSuchLevelError, PlanError, RegionError
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.roi import Roi, require_single_area
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
        The tile's own area in source pixels; smaller at the right and bottom edge.
    patch
            Input of the network: always `plan.patch` pixels square; mirrored where it reaches outside the level.
    cell
        Class of the tile in the mask.
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

    `output` is its part of the result, in output pixels.
    """

    number: int
    first_row: int
    rows: int
    output: Region


@dataclass(frozen=True, slots=True)
class TilePlan:
    """Everything about the tiling that the result's pixels depend on; stored as JSON.

    Attributes
    ----------
    level, source
        The source level, and the region in pixels of that level.
    scale
        Output pixels per source pixel.
    core, halo, fade
        In source pixels: side of a tile, context around it, and the width of the cross-fade with the tiles above and
        to the left, for networks whose tiles do not join exactly.
    batch
        Number of tissue patches per network call; batches never cross a row.
    entropy
        Threshold in bits of the second, per-patch test.
    mask
            One string per row, with one letter of `MaskCell` per tile.
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
        """Side of the network's input in source pixels."""
        return self.core + self.fade + 2 * self.halo

    @property
    def output(self) -> Size:
        """Size of the result."""
        return Size(self.source.width * self.scale, self.source.height * self.scale)

    @property
    def stripe_height(self) -> int:
        """Height of a full stripe in output pixels."""
        return self.rows_per_stripe * self.core * self.scale

    def stripes(self) -> Iterator[Stripe]:
        """The stripes from top to bottom; together they cover the output exactly once."""
        whole = Region(0, 0, self.output.width, self.output.height)
        for number, first in enumerate(range(0, self.rows, self.rows_per_stripe)):
            band = Region(0, number * self.stripe_height, self.output.width, self.stripe_height)
            yield Stripe(number, first, min(self.rows_per_stripe, self.rows - first), band.intersect(whole))

    def tile(self, row: int, column: int) -> Tile:
        """The tile at a row and column of the grid."""
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


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """What an upscale reads of a slide, and by how much it enlarges it.

    Attributes
    ----------
    mpp
        µm per pixel (x, y) of level 0.
    level
        The source level.
    scale
        Output pixels per source pixel.
    region
        The source region in pixels of `level`.
    """

    mpp: tuple[float, float]
    level: int
    scale: int
    region: Region

    @property
    def output(self) -> Size:
        """Size of the result."""
        return Size(self.region.width * self.scale, self.region.height * self.scale)


def plan_source(
    info: SlideInfo,
    scales: tuple[int, ...],
    default_scale: int,
    *,
    mpp: float | None = None,
    target_mpp: float | None = None,
    level: int | None = None,
    region: tuple[int, int, int, int] | None = None,
    roi: Roi | None = None,
) -> SourcePlan:
    """Check a request against a slide, and choose pixel size, level, scale and region. Reads no pixels.

    Parameters
    ----------
    scales, default_scale
        The model's scales, and the one it uses unless `target_mpp` requires another.
    mpp
        µm per pixel of level 0, given or confirmed by the user.
    target_mpp
        Wanted µm per pixel of the result.
    level
        Source level; None to choose it by `target_mpp`, else level 0.
    region
        (x, y, width, height) in level-0 pixels; None for the scanned bounds or the whole slide.
    roi
        Region of interest, of which the bounding box is taken.

    Raises
    ------
    NoSuchLevelError, RegionError
        The slide has no such level, or the region does not lie within it.
    RoiError
        A region is given as well, or the region of interest lies outside the slide.
    PixelSizeMissingError, PixelSizeImplausibleError
        The slide's µm per pixel is not known, and `mpp` is None.
    PlanError
        `target_mpp` can't be reached.
    """
    require_level(info, level)
    require_single_area(region, roi)
    box = None if region is None else Region(*region)
    if roi is not None:
        box = roi.clipped_bounds(info.size, info.name)
    require_inside(info, box)
    trusted = info.resolve_mpp(mpp)
    chosen, scale = choose_level(info, trusted, scales, default_scale, target_mpp, level)
    return SourcePlan(trusted, chosen, scale, source_region(info, chosen, box, outward=roi is not None))


def require_inside(info: SlideInfo, region: Region | None) -> None:
    """Raise RegionError if a region of level 0 is empty or reaches outside the slide; None always passes."""
    whole = Region(0, 0, info.size.width, info.size.height)
    if region is not None and (region.is_empty or not whole.contains(region)):
        raise RegionError(
            f"{info.name}: region {region.x},{region.y},{region.width},{region.height} does not lie inside the slide's "
            f"{info.size.width}x{info.size.height} pixels (level 0)"
        )


def require_level(info: SlideInfo, level: int | None) -> None:
    """Raise NoSuchLevelError if the slide has no level of that number; None always passes."""
    if level is not None and not 0 <= level < len(info.levels):
        raise NoSuchLevelError(f"{info.name}: there is no level {level}; it has levels 0 to {len(info.levels) - 1}")


def choose_level(
    info: SlideInfo,
    mpp: tuple[float, float],
    scales: tuple[int, ...],
    scale: int,
    target_mpp: float | None,
    level: int | None,
) -> tuple[int, int]:
    """Return the finest source level, and a scale, that give the wanted µm per pixel.

    A coarser level may come nearer to the wanted value but holds less detail, so the result would be blurred. If the
    pixels are not square, the value along x decides.

    Parameters
    ----------
    mpp
        µm per pixel of level 0.
    scales, scale
        The model's scales, and the one it uses unless `target_mpp` requires another.
    target_mpp, level
        The request; both None for level 0.

    Raises
    ------
    NoSuchLevelError
        The slide has no such level.
    PlanError
        No pair of level and scale comes within 5 % of `target_mpp`; the message lists the values that can be reached.
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
            f"{info.name}: this model can't give {target_mpp:g} µm per pixel without resampling; it can give {offers}"
        )
    return min(fitting, key=lambda pair: (pair[0], abs(math.log(reachable[pair] / target_mpp)), pair[1]))


def is_close(mpp: float, target_mpp: float) -> bool:
    """Whether two values of µm per pixel agree within 5 %."""
    return abs(mpp / target_mpp - 1) <= _MPP_TOLERANCE * (1 + 1e-9)  # accepts 1.05 times the value in spite of rounding


def source_region(info: SlideInfo, level: int, region: Region | None, *, outward: bool = False) -> Region:
    """Convert a level-0 region (None: the scanned bounds, or the whole slide) to pixels of `level`.

    Parameters
    ----------
    outward
        Include every pixel that the region touches, instead of rounding its corners.

    Raises
    ------
    RegionError
        The region is empty or reaches outside the slide.
    """
    require_inside(info, region)
    whole = Region(0, 0, info.size.width, info.size.height)
    wanted = region or info.bounds or whole
    size, downsample = info.levels[level].size, info.levels[level].downsample
    first, last = (math.floor, math.ceil) if outward else (round, round)
    x = min(first(wanted.x / downsample), size.width - 1)
    y = min(first(wanted.y / downsample), size.height - 1)
    right, bottom = last(wanted.right / downsample), last(wanted.bottom / downsample)
    if wanted == whole:
        right, bottom = size.width, size.height
    return Region(x, y, max(1, right - x), max(1, bottom - y)).intersect(Region(0, 0, size.width, size.height))
