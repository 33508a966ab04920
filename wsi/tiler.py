"""Dask-parallel tiler that reads ahead the patches of a plan and detects tissue by their entropy.

Each task reads a run of 16 neighbouring patches in one call, because the overhead of one task per patch is larger than
the time for decoding (73 to 92 against 143 tiles/s, measured on two cores). A window of tasks is computed on local
threads while the previous window is consumed, so at most two windows are in memory.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import dask
import dask.threaded
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidelift.wsi.bad_tile import BadTile, Remedy
from slidelift.wsi.errors import TileReadError
from slidelift.wsi.geometry import Region
from slidelift.wsi.slide import Pixels, SlideReader
from slidelift.wsi.tiling import Tile, TilePlan
from slidelift.wsi.tissue import is_tissue

# Side of the squares that are read one by one in a tile with unreadable pixels.
SALVAGE_SIZE = 64

# A constant, because on levels with a fractional downsample the pixels depend on the origin of the read.
RUN_LENGTH = 16


@dataclass(frozen=True, slots=True)
class PatchBatch:
    """Neighbouring patches of one row.

    Attributes
    ----------
    pixels
        uint8 (N, patch, patch, 3), mirrored beyond the slide's edge.
    tissue
        bool (N,): whether the patch is tissue, which the network enlarges.
    bad
        Tiles with unreadable source pixels.
    """

    tiles: tuple[Tile, ...]
    pixels: Pixels
    tissue: NDArray[np.bool_]
    bad: tuple[BadTile, ...]


class Tiler:
    """Reader of the patches of one plan; owns its threads until `close`.

    Memory: at most ``2 * window * 16`` patches.

    Parameters
    ----------
    mark_bad
        Replace unreadable pixels and report their tiles; if False, the first one raises TileReadError.
    threads, window
        Number of decoding threads, and tasks per window; neither changes the pixels.
    """

    def __init__(
        self, reader: SlideReader, plan: TilePlan, *, mark_bad: bool, threads: int | None = None, window: int = 4
    ) -> None:
        self._reader, self._plan, self._mark_bad = reader, plan, mark_bad
        size = reader.info.levels[plan.level].size
        self._level = Region(0, 0, size.width, size.height)
        self._window = window
        self._threads = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="tiler")
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="tiler-window")

    def rows(self, first: int, count: int) -> Iterator[PatchBatch]:
        """Yield the patches of `count` tile rows from `first` on, in order; a batch never crosses rows.

        Raises
        ------
        TileReadError
            A tile can't be decoded and `mark_bad` is False.
        """
        runs = [
            (row, column, min(RUN_LENGTH, self._plan.columns - column))
            for row in range(first, first + count)
            for column in range(0, self._plan.columns, RUN_LENGTH)
        ]
        windows = [runs[start : start + self._window] for start in range(0, len(runs), self._window)]
        pending = self._ahead.submit(self._compute, windows[0])
        for following in [*windows[1:], None]:
            batches = pending.result()
            if following is not None:
                pending = self._ahead.submit(self._compute, following)
            yield from batches

    def close(self) -> None:
        """Stop the threads, after the tasks that are running."""
        self._ahead.shutdown(cancel_futures=True)
        self._threads.shutdown(cancel_futures=True)

    def _compute(self, window: list[tuple[int, int, int]]) -> tuple[PatchBatch, ...]:
        tasks = [dask.delayed(self._read_run, pure=False)(*run) for run in window]
        batches: tuple[PatchBatch, ...] = dask.compute(
            *tasks, scheduler=dask.threaded.get, pool=self._threads, optimize_graph=False
        )
        return batches

    def _read_run(self, row: int, column: int, count: int) -> PatchBatch:
        tiles = tuple(self._plan.tile(row, c) for c in range(column, column + count))
        bad: list[BadTile] = []
        side, step = self._plan.patch, self._plan.core
        try:
            strip = self._read_mirrored(
                Region(tiles[0].patch.x, tiles[0].patch.y, step * (count - 1) + side, side), self._level
            )
            patches = [strip[:, i * step : i * step + side] for i in range(count)]
        except TileReadError:
            patches = [self._read_single(tile, bad) for tile in tiles]
        substituted = {tile.column for tile in bad if tile.remedy is not Remedy.MIRRORED_CONTEXT}
        before = self._plan.fade + self._plan.halo
        tissue = [
            tile.maybe_tissue
            and tile.column not in substituted
            and is_tissue(
                patch[before : before + tile.core.height, before : before + tile.core.width], self._plan.entropy
            )
            for tile, patch in zip(tiles, patches, strict=True)
        ]
        return PatchBatch(tiles, np.stack(patches), np.array(tissue), tuple(bad))

    def _read_mirrored(self, patch: Region, frame: Region) -> Pixels:
        """Read `patch`; where it reaches outside of `frame`, pixels are mirrored at the frame's edge."""
        columns = _mirror(patch.x, patch.right, frame.x, frame.right)
        rows = _mirror(patch.y, patch.bottom, frame.y, frame.bottom)
        x, y = int(columns.min()), int(rows.min())
        region = Region(x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1)
        pixels = self._reader.read_region(self._plan.level, region)
        return pixels if region == patch else pixels.take(rows - y, 0).take(columns - x, 1)

    def _read_single(self, tile: Tile, bad: list[BadTile]) -> Pixels:
        try:
            return self._read_mirrored(tile.patch, self._level)
        except TileReadError as error:
            if not self._mark_bad:
                raise
            pixels, unreadable, remedy = self._repair(tile)
            bad.append(BadTile(tile.row, tile.column, tile.core, unreadable, error.cause, remedy))
            return pixels

    def _repair(self, tile: Tile) -> tuple[Pixels, Region, Remedy]:
        """Pixels of a patch that could not be read, the bounding box of the unreadable ones, and the remedy."""
        pixels, remedy = self._substitute(tile)
        unreadable = self._salvage(tile, pixels)
        fade, halo = self._plan.fade, self._plan.halo
        patch = tile.patch
        inner = Region(patch.x + halo, patch.y + halo, tile.core.width + fade, tile.core.height + fade)
        try:
            return self._read_mirrored(patch, inner.intersect(self._level)), unreadable, Remedy.MIRRORED_CONTEXT
        except TileReadError:
            return pixels, unreadable, remedy

    def _substitute(self, tile: Tile) -> tuple[Pixels, Remedy]:
        """Pixels of a patch from the next coarser level that can be read, else white."""
        for level in range(self._plan.level + 1, len(self._reader.info.levels)):
            try:
                return self._read_coarser(tile, level), Remedy.COARSER_LEVEL
            except TileReadError:
                continue
        return np.full((self._plan.patch, self._plan.patch, 3), 255, np.uint8), Remedy.BLANK

    def _salvage(self, tile: Tile, pixels: Pixels) -> Region:
        """Copy the readable squares of a patch into `pixels`; return the bounding box of the others."""
        patch, failed = tile.patch, []
        for y in range(0, patch.height, SALVAGE_SIZE):
            for x in range(0, patch.width, SALVAGE_SIZE):
                square = Region(patch.x + x, patch.y + y, SALVAGE_SIZE, SALVAGE_SIZE).intersect(patch)
                try:
                    read = self._read_mirrored(square, self._level)
                except TileReadError:
                    failed.append(square.intersect(self._level))
                else:
                    pixels[y : y + square.height, x : x + square.width] = read
        if not failed:  # all squares could be read one by one
            return Region(tile.core.x, tile.core.y, 0, 0)
        left, top = min(part.x for part in failed), min(part.y for part in failed)
        return Region(left, top, max(p.right for p in failed) - left, max(p.bottom for p in failed) - top)

    def _read_coarser(self, tile: Tile, level: int) -> Pixels:
        """Read a patch from a coarser level and resample it to the plan's level."""
        size = self._reader.info.levels[level].size
        ratio_x, ratio_y = self._level.width / size.width, self._level.height / size.height
        inside = tile.patch.intersect(self._level)
        x, y = int(inside.x / ratio_x), int(inside.y / ratio_y)
        right, bottom = -int(-inside.right // ratio_x), -int(-inside.bottom // ratio_y)
        coarse = Region(x, y, right - x, bottom - y).intersect(Region(0, 0, size.width, size.height))
        image = Image.fromarray(self._reader.read_region(level, coarse))
        box = (
            inside.x / ratio_x - coarse.x,
            inside.y / ratio_y - coarse.y,
            min(inside.right / ratio_x - coarse.x, coarse.width),
            min(inside.bottom / ratio_y - coarse.y, coarse.height),
        )
        fine = np.asarray(image.resize((inside.width, inside.height), Image.Resampling.BICUBIC, box=box))
        columns = _mirror(tile.patch.x, tile.patch.right, inside.x, inside.right) - inside.x
        rows = _mirror(tile.patch.y, tile.patch.bottom, inside.y, inside.bottom) - inside.y
        return fine.take(rows, 0).take(columns, 1)


def _mirror(start: int, stop: int, low: int, high: int) -> NDArray[np.int64]:
    """Indices start..stop-1, mirrored into [low, high) at its edges (mode ``symmetric`` of `numpy.pad`).

    A pixel is the mean over its square, so the image is mirrored at its edge, not at the centre of the last pixel.
    """
    period = 2 * (high - low)
    folded = np.arange(start - low, stop - low) % period
    return low + np.minimum(folded, period - 1 - folded)
