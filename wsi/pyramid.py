"""Construction of the tiles of all levels from finished blocks of level 0, in one pass.

Level k has floor(size / 2**k) pixels. Each pixel is the mean of 2x2 pixels of the finer level, rounded half up; an odd
last row or column is dropped. Tiles that reach over the edge are padded by repeating it, after halving.
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

# Bounds the memory for tiles that wait to be halved to 50 MB.
_MAX_PENDING = 64


def level_sizes(output: Size) -> tuple[Size, ...]:
    """Sizes of all levels, finest first: halved until both sides fit a tile, or one side can't be halved."""
    sizes = [output]
    while max(sizes[-1].width, sizes[-1].height) > TILE and min(sizes[-1].width, sizes[-1].height) > 1:
        sizes.append(sizes[-1].halved())
    return tuple(sizes)


def levels_in_stripe(stripe_height: int, levels: int) -> int:
    """Number of levels, from the finest, of which a full stripe fills whole tile rows."""
    count = 0
    while count < levels and (stripe_height >> count) % TILE == 0 and stripe_height % (1 << count) == 0:
        count += 1
    return count


def halve(pixels: Pixels) -> Pixels:
    """Mean of 2x2 pixels, rounded half up, of an array (H, W, 3); an odd last row or column is dropped."""
    height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    if height == 0 or width == 0:
        return np.empty((height // 2, width // 2, 3), np.uint8)
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels[:height, :width])).reduce(2))


@dataclass(slots=True)
class _PartialTile:
    pixels: Pixels
    missing_pixels: int


@dataclass(slots=True)
class PyramidBuilder:
    """Collects blocks into tiles and builds the coarser levels; blocks may have any size and come in any order.

    Memory: the incomplete tiles. For blocks in row order and a width of w output pixels these take at most
    ``512 * w * 3`` bytes for level 0, and half of the finer level for each coarser one.

    Parameters
    ----------
    sizes
        Sizes of the levels `first` to `first + len(sizes) - 1` of this stripe or of the whole result.
    emit
        Called as ``emit(level, row, column, tile)`` with uint8 (512, 512, 3); rows count from the top of the stripe.
    keep_remainder
        Keep the pixels of the first level that is not built in `remainder`, uint8 (H, W, 3).
    pool
        Threads that halve tiles; None for the caller's thread. Does not change the pixels.
    """

    sizes: tuple[Size, ...]
    emit: Emit
    first: int = 0
    keep_remainder: bool = False
    pool: Executor | None = None
    remainder: Pixels | None = None
    _pending: deque[tuple[int, int, int, Future[Pixels]]] = field(default_factory=deque)
    _partial: dict[tuple[int, int, int], _PartialTile] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.keep_remainder:
            size = self.sizes[-1].halved()
            self.remainder = np.zeros((size.height, size.width, 3), np.uint8)

    def add(self, x: int, y: int, pixels: Pixels) -> None:
        """Add finished pixels, uint8 (H, W, 3), at (x, y) of the finest level; each pixel must be added once."""
        self._add(0, x, y, pixels)
        self._wait_for_pending(_MAX_PENDING)

    def finish(self) -> None:
        """Emit all tiles that are pending.

        Raises
        ------
        RuntimeError
            Pixels are missing.
        """
        self._wait_for_pending(0)
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
                tile = self._tile_region(index, row, column)
                part = tile.intersect(block)
                source = pixels[part.y - y : part.bottom - y, part.x - x : part.right - x]
                complete = source if part == tile else self._fill((index, row, column), tile, part, source)
                if complete is not None:
                    self._complete(index, row, column, complete)

    def _tile_region(self, index: int, row: int, column: int) -> Region:
        size = self.sizes[index]
        return Region(column * TILE, row * TILE, TILE, TILE).intersect(Region(0, 0, size.width, size.height))

    def _fill(self, key: tuple[int, int, int], tile: Region, part: Region, source: Pixels) -> Pixels | None:
        """Copy `source` into an incomplete tile; return the tile's pixels once it is complete."""
        partial = self._partial.get(key)
        if partial is None:
            partial = _PartialTile(np.empty((tile.height, tile.width, 3), np.uint8), tile.width * tile.height)
            self._partial[key] = partial
        local = part.moved(-tile.x, -tile.y)
        partial.pixels[local.y : local.bottom, local.x : local.right] = source
        partial.missing_pixels -= part.width * part.height
        if partial.missing_pixels < 0:
            raise RuntimeError(f"output tile {key} was written twice")
        return self._partial.pop(key).pixels if partial.missing_pixels == 0 else None

    def _complete(self, index: int, row: int, column: int, tile: Pixels) -> None:
        self.emit(self.first + index, row, column, _padded(tile))
        x, y = column * TILE // 2, row * TILE // 2
        if self.pool is None:
            self._add(index + 1, x, y, halve(tile))
        else:
            self._pending.append((index + 1, x, y, self.pool.submit(halve, tile)))

    def _wait_for_pending(self, remaining: int) -> None:
        """Wait until at most `remaining` tiles are being halved."""
        while len(self._pending) > remaining:
            index, x, y, halved = self._pending.popleft()
            self._add(index, x, y, halved.result())


def _padded(tile: NDArray[np.uint8]) -> Pixels:
    below, right = TILE - tile.shape[0], TILE - tile.shape[1]
    return np.pad(tile, ((0, below), (0, right), (0, 0)), mode="edge") if below or right else tile
