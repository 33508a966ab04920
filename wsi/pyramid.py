"""Halve, halve again: finished blocks of the result -> whole tiles of every level, in one pass.

Level k is floor(size / 2**k); each of its pixels is the mean of 2x2 of the level below, rounded half up; the last
odd row or column is dropped in halving. Tiles over the edge are padded by repeating it, after halving.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.slide import Pixels

TILE = 512

Emit = Callable[[int, int, int, Pixels], None]

# Tiles that are being halved at a time: bounds memory to 50 MB.
_HALVING = 64


def level_sizes(output: Size) -> tuple[Size, ...]:
    """Sizes of all levels: halved until both sides fit one tile, or one side can't be halved."""
    sizes = [output]
    while max(sizes[-1].width, sizes[-1].height) > TILE and min(sizes[-1].width, sizes[-1].height) > 1:
        sizes.append(sizes[-1].halved())
    return tuple(sizes)


def levels_in_stripe(stripe_height: int, levels: int) -> int:
    """How many levels, from the finest, a full stripe completes by itself: those whose tile rows it fills."""
    count = 0
    while count < levels and (stripe_height >> count) % TILE == 0 and stripe_height % (1 << count) == 0:
        count += 1
    return count


def halve(pixels: Pixels) -> Pixels:
    """2x2 mean, rounded half up, of (h, w, 3); an odd last row or column is dropped."""
    height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    if height == 0 or width == 0:
        return np.empty((height // 2, width // 2, 3), np.uint8)
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels[:height, :width])).reduce(2))


@dataclass(slots=True)
class _Partial:
    pixels: Pixels
    missing: int


@dataclass(slots=True)
class PyramidBuilder:
    """Gathers blocks into tiles and cascades them; blocks may come in any order and of any size.

    Memory: the tiles that are begun and not whole. For blocks in row order these are, at a width of w output pixels,
    at most ``512 * w * 3`` bytes for level 0 and half of the level before for each coarser one.

    Parameters
    ----------
    sizes
        Sizes of the levels `first` to `first + len(sizes) - 1` of this stripe (or of the whole result).
    emit
        Called as ``emit(level, row, column, tile)`` with uint8 (512, 512, 3), rows counted from this stripe's top.
    keep_remainder
        Keep what the last level's tiles halve to: the raw rows of the first level that is not built.
    pool
        Where tiles are halved; without, in the caller's thread. Changes no pixel.
    """

    sizes: tuple[Size, ...]
    emit: Emit
    first: int = 0
    keep_remainder: bool = False
    pool: Executor | None = None
    remainder: Pixels | None = None
    _halving: deque[tuple[int, int, int, Future[Pixels]]] = field(default_factory=deque)
    _partial: dict[tuple[int, int, int], _Partial] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.keep_remainder:
            size = self.sizes[-1].halved()
            self.remainder = np.zeros((size.height, size.width, 3), np.uint8)

    def add(self, x: int, y: int, pixels: Pixels) -> None:
        """Give finished pixels at (x, y) of the finest level; each pixel once."""
        self._add(0, x, y, pixels)
        self._settle(_HALVING)

    def finish(self) -> None:
        """Check that every tile became whole.

        Raises
        ------
        RuntimeError
            Pixels are missing: the plan was not covered.
        """
        self._settle(0)
        if self._partial:
            raise RuntimeError(f"{len(self._partial)} output tiles are incomplete, the first at {min(self._partial)}")

    def _add(self, index: int, x: int, y: int, pixels: Pixels) -> None:
        if index == len(self.sizes):
            if self.remainder is not None:
                self.remainder[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
            return
        block = Region(x, y, pixels.shape[1], pixels.shape[0])
        if block.is_empty:
            return
        for row in range(block.y // TILE, -(-block.bottom // TILE)):
            for column in range(block.x // TILE, -(-block.right // TILE)):
                cell = self._cell(index, row, column)
                part = cell.intersect(block)
                piece = pixels[part.y - y : part.bottom - y, part.x - x : part.right - x]
                whole = piece if part == cell else self._gather(index, row, column, cell, part, piece)
                if whole is not None:
                    self._complete(index, row, column, whole)

    def _cell(self, index: int, row: int, column: int) -> Region:
        size = self.sizes[index]
        return Region(column * TILE, row * TILE, TILE, TILE).intersect(Region(0, 0, size.width, size.height))

    def _gather(self, index: int, row: int, column: int, cell: Region, part: Region, piece: Pixels) -> Pixels | None:
        key = (index, row, column)
        partial = self._partial.get(key)
        if partial is None:
            partial = _Partial(np.empty((cell.height, cell.width, 3), np.uint8), cell.width * cell.height)
            self._partial[key] = partial
        local = part.moved(-cell.x, -cell.y)
        partial.pixels[local.y : local.bottom, local.x : local.right] = piece
        partial.missing -= part.width * part.height
        if partial.missing < 0:
            raise RuntimeError(f"output tile {key} was written twice")
        return self._partial.pop(key).pixels if partial.missing == 0 else None

    def _complete(self, index: int, row: int, column: int, whole: Pixels) -> None:
        self.emit(self.first + index, row, column, _padded(whole))
        x, y = column * TILE // 2, row * TILE // 2
        if self.pool is None:
            self._add(index + 1, x, y, halve(whole))
        else:
            self._halving.append((index + 1, x, y, self.pool.submit(halve, whole)))

    def _settle(self, remaining: int) -> None:
        """Wait until no more than `remaining` tiles are being halved."""
        while len(self._halving) > remaining:
            index, x, y, halved = self._halving.popleft()
            self._add(index, x, y, halved.result())


def _padded(tile: NDArray[np.uint8]) -> Pixels:
    below, right = TILE - tile.shape[0], TILE - tile.shape[1]
    return np.pad(tile, ((0, below), (0, right), (0, 0)), mode="edge") if below or right else tile
