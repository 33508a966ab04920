"""Visibility of tile borders: differences across them divided by differences across parallel lines inside the tiles.

Neighbouring pixels also differ elsewhere: in an enlarged image at the borders of the source's pixels, in a compressed
source at the borders of its blocks. The lines inside tiles are therefore 64 source pixels apart, where all of these
grids repeat. The ratio is divided by that of the source, which may contain seams of its own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from slidelift.wsi.blending import Block
from slidelift.wsi.slide import Pixels
from slidelift.wsi.tiling import Tile, TilePlan

_STEP = 64


Sum = tuple[int, int]
"""Sum and number of absolute differences."""


@dataclass(frozen=True, slots=True)
class DirectionSums:
    """Absolute differences across lines of one direction, in the result and in the source."""

    border: Sum = (0, 0)
    inside: Sum = (0, 0)
    source_border: Sum = (0, 0)
    source_inside: Sum = (0, 0)

    def __add__(self, other: "DirectionSums") -> "DirectionSums":
        return DirectionSums(
            _added(self.border, other.border),
            _added(self.inside, other.inside),
            _added(self.source_border, other.source_border),
            _added(self.source_inside, other.source_inside),
        )


@dataclass(frozen=True, slots=True)
class SeamSums:
    """Differences of some stripes; those of several stripes can be added."""

    upright: DirectionSums = DirectionSums()
    level: DirectionSums = DirectionSums()

    def __add__(self, other: "SeamSums") -> "SeamSums":
        return SeamSums(self.upright + other.upright, self.level + other.level)


@dataclass(slots=True)
class _Counter:
    """Counts the differences of one direction."""

    border: list[int] = field(default_factory=lambda: [0, 0])
    inside: list[int] = field(default_factory=lambda: [0, 0])
    source_border: list[int] = field(default_factory=lambda: [0, 0])
    source_inside: list[int] = field(default_factory=lambda: [0, 0])

    def sums(self) -> DirectionSums:
        return DirectionSums(
            (self.border[0], self.border[1]),
            (self.inside[0], self.inside[1]),
            (self.source_border[0], self.source_border[1]),
            (self.source_inside[0], self.source_inside[1]),
        )


@dataclass(frozen=True, slots=True)
class _Edge:
    """The last column or row of a block, and where the next block would begin."""

    x: int
    y: int
    pixels: Pixels


class SeamGauge:
    """Measures the blocks of one stripe, row by row, left to right; borders between stripes are not measured.

    Keeps one row of the result in memory.
    """

    def __init__(self, plan: TilePlan) -> None:
        self._plan = plan
        self._upright, self._level = _Counter(), _Counter()
        self._left: _Edge | None = None
        self._above: dict[int, _Edge] = {}

    def add(self, tile: Tile, block: Block, patch: Pixels, *, counted: bool) -> None:
        """Measure a block, if `counted`; `patch` is its source."""
        left, above = self._left, self._above.pop(tile.column, None)
        self._left = None
        height, width, _ = block.pixels.shape
        if not counted or height == 0 or width == 0:
            return
        plan = self._plan
        x = plan.source.x + block.x // plan.scale - tile.patch.x
        y = plan.source.y + block.y // plan.scale - tile.patch.y
        region = patch[: y + height // plan.scale, : x + width // plan.scale]
        columns, rows = region[y:].swapaxes(0, 1), region[:, x:]
        _lines(self._upright, block.pixels.swapaxes(0, 1), columns, x, plan.scale)
        _lines(self._level, block.pixels, rows, y, plan.scale)
        if left is not None and (left.x, left.y, len(left.pixels)) == (block.x, block.y, height):
            _count(self._upright.border, left.pixels, block.pixels[:, 0])
            _count(self._upright.source_border, columns[x - 1], columns[x])
        if above is not None and (above.x, above.y, len(above.pixels)) == (block.x, block.y, width):
            _count(self._level.border, above.pixels, block.pixels[0])
            _count(self._level.source_border, rows[y - 1], rows[y])
        self._left = _Edge(block.x + width, block.y, block.pixels[:, -1].copy())
        self._above[tile.column] = _Edge(block.x, block.y + height, block.pixels[-1].copy())

    def sums(self) -> SeamSums:
        """Return the differences of the blocks that were added so far."""
        return SeamSums(self._upright.sums(), self._level.sums())


@dataclass(frozen=True, slots=True)
class Seam:
    """Ratios of a whole result; 1 where borders can't be distinguished from the rest.

    Attributes
    ----------
    result, source
        Ratio of each; None where there is no border between tiles with tissue, or nothing inside them differs.
    borders
        Pixels along the measured borders.
    """

    result: float | None
    source: float | None
    borders: int

    @property
    def figure(self) -> float | None:
        """Ratio of the result divided by that of the source, where the source has one."""
        return self.result / self.source if self.result is not None and self.source else self.result

    @classmethod
    def of(cls, stripes: Iterable[SeamSums]) -> "Seam":
        """Compute the ratios from the differences of all stripes."""
        total = sum(stripes, SeamSums())
        directions = (total.upright, total.level)
        return cls(
            _ratio([(one.border, one.inside) for one in directions]),
            _ratio([(one.source_border, one.source_inside) for one in directions]),
            sum(one.border[1] for one in directions) // 3,
        )


def _lines(sums: _Counter, pixels: Pixels, source: Pixels, start: int, scale: int) -> None:
    """Count differences every `_STEP` source pixels along the first axis; the block begins at `start` of the source."""
    for step in range(_STEP, len(pixels) // scale, _STEP):
        _count(sums.inside, pixels[step * scale - 1], pixels[step * scale])
        _count(sums.source_inside, source[start + step - 1], source[start + step])


def _count(sums: list[int], one: Pixels, other: Pixels) -> None:
    sums[0] += int(np.abs(np.subtract(one, other, dtype=np.int16)).sum(dtype=np.int64))
    sums[1] += one.size


def _added(one: Sum, other: Sum) -> Sum:
    return one[0] + other[0], one[1] + other[1]


def _ratio(directions: Sequence[tuple[Sum, Sum]]) -> float | None:
    """Divide the differences across borders by those expected from the lines inside, each direction by itself."""
    counted = [(border, inside) for border, inside in directions if border[1] and inside[1]]
    expected = sum(border[1] * inside[0] / inside[1] for border, inside in counted)
    return sum(border[0] for border, _ in counted) / expected if expected else None
