"""Training patches from a slide: tissue only, at exactly the requested µm per pixel.

The method is that of Sun, Khvostikov, Krylov, Krainiukov (GraphiCon 2023): full patches of a fixed side, background
rejected by Shannon entropy. The grid starts on whole pixels of one level. Each patch equals a crop of the whole
resampled level, so that patches have no edge effects. `service.pipeline.patch_folder` stores the patches.
"""

import io
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import dask
import dask.threaded
import numpy as np
from PIL import Image

from slidelift.service.errors import ServiceError, problem
from slidelift.service.pipeline.patch_folder import PatchFolder, PatchOptions, Verdict
from slidelift.wsi.companions import content_hash
from slidelift.wsi.errors import PixelSizeImplausibleError, PixelSizeMissingError, PlanError, TileReadError
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.readers.open_slide import open_slide
from slidelift.wsi.slide import Pixels, SlideInfo, SlideReader
from slidelift.wsi.tile_mask import MaskCell
from slidelift.wsi.tiling import source_region
from slidelift.wsi.tissue import grey_levels, shannon_entropy, survey

# So small an enlargement is not visible; scanners' pixel sizes are written with about three digits.
MOST_ENLARGED = 1.02
# A millionth of a pixel is the rounding error of a division.
_ROUNDING = 1e-6
_WINDOW_PER_THREAD = 4
_JPEG = {"quality": 95, "subsampling": 0}

Given = TypeVar("Given")
Made = TypeVar("Made")
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """The grid of a slide's patches.

    Attributes
    ----------
    level, region
        The level that is read, and the scanned part of it in its pixels.
    side
        Extent of a patch along x and y in pixels of the level; not whole numbers in general.
    pitch
        Distance of patches, in whole pixels of the level.
    size
        Side of a finished patch in pixels.
    downsample
        Level-0 pixels per pixel of the level.
    """

    level: int
    region: Region
    side: tuple[float, float]
    pitch: int
    size: int
    downsample: float

    @property
    def columns(self) -> int:
        """Patches in a row; none reaches over the edge."""
        return self.region.width // self.pitch

    @property
    def rows(self) -> int:
        """Rows of patches."""
        return self.region.height // self.pitch

    def corner(self, cell: tuple[int, int]) -> tuple[int, int]:
        """Top-left pixel of the patch in that column and row, in pixels of the level."""
        return self.region.x + cell[0] * self.pitch, self.region.y + cell[1] * self.pitch

    def in_level_0(self, cell: tuple[int, int]) -> Region:
        """Region of the patch, rounded to pixels of level 0."""
        x, y = self.corner(cell)
        width, height = self.side
        factor = self.downsample
        return Region(round(x * factor), round(y * factor), round(width * factor), round(height * factor))


def plan_grid(info: SlideInfo, mpp: tuple[float, float], wanted_mpp: float, size: int) -> PatchGrid:
    """Cut the coarsest level that is at most 2 % coarser than `wanted_mpp`.

    Parameters
    ----------
    mpp
        µm per pixel of level 0 along x and y.
    wanted_mpp, size
        µm per pixel and side of the finished patches.

    Raises
    ------
    PlanError
        Every level is too coarse, or no patch fits into the slide.
    """
    fine = [n for n, level in enumerate(info.levels) if max(mpp) * level.downsample <= wanted_mpp * MOST_ENLARGED]
    if not fine:
        raise PlanError(
            f"{info.name}: its finest level has {max(mpp):.4g} µm per pixel, coarser than the wanted {wanted_mpp:g}; "
            "enlarged pixels hold no detail to train on: leave the slide out, or use "
            f"--mpp {math.ceil(max(mpp) * 1e3) / 1e3:g}"
        )
    level = max(fine, key=lambda n: info.levels[n].downsample)
    downsample = info.levels[level].downsample
    side = size * wanted_mpp / (mpp[0] * downsample), size * wanted_mpp / (mpp[1] * downsample)
    pitch = math.ceil(max(side) - _ROUNDING)
    grid = PatchGrid(level, source_region(info, level, None), side, pitch, size, downsample)
    if not grid.columns * grid.rows:
        raise PlanError(
            f"{info.name}: no patch of {size} px at {wanted_mpp:g} µm per pixel fits into its {info.size.width}x"
            f"{info.size.height} px; use a smaller --size"
        )
    return grid


def read_resampled(
    reader: SlideReader, level: int, corner: tuple[int, int], side: tuple[float, float], size: Size
) -> Pixels:
    """Read `side` pixels of a level from `corner` on, resampled to `size` pixels.

    Pillow's bicubic with the support widened by the factor; it also reads pixels beyond the patch's edge. A `side` that
    rounds to `size` is not resampled.
    """
    (x, y), (width, height) = corner, side
    if _is_plain(side, size):
        return reader.read_region(level, Region(x, y, size.width, size.height))
    reach = math.ceil(2 * max(1.0, width / size.width, height / size.height)) + 1
    whole = Region(0, 0, reader.info.levels[level].size.width, reader.info.levels[level].size.height)
    wide, high = math.ceil(width - _ROUNDING) + 2 * reach, math.ceil(height - _ROUNDING) + 2 * reach
    source = Region(x - reach, y - reach, wide, high).intersect(whole)
    left, top = x - source.x, y - source.y
    box = (left, top, min(left + width, source.width), min(top + height, source.height))
    picture = Image.fromarray(np.ascontiguousarray(reader.read_region(level, source)))
    return np.asarray(picture.resize((size.width, size.height), Image.Resampling.BICUBIC, box=box))


def in_parallel(work: Callable[[Given], Made], things: Iterable[Given], pool: ThreadPoolExecutor) -> Iterator[Made]:
    """Compute results in order, as Dask graphs of four tasks per thread; one graph at a time is in memory."""
    queue = list(things)
    window = _WINDOW_PER_THREAD * (os.cpu_count() or 1)
    for start in range(0, len(queue), window):
        tasks = [dask.delayed(work, pure=False)(thing) for thing in queue[start : start + window]]
        yield from dask.compute(*tasks, scheduler=dask.threaded.get, pool=pool, optimize_graph=False)


def cut_patches(slide: Path, options: PatchOptions, folder: PatchFolder, on_progress: OnProgress) -> dict[str, Any]:
    """Write one slide's patches into the folder and return its record; the work of an earlier run is continued.

    Parameters
    ----------
    on_progress
        Called from this thread with the number of patches that are done, and of all.

    Raises
    ------
    WsiError, ServiceError
        The slide can't be opened, has no µm per pixel, is too coarse or too small, or the folder holds patches of
        another slide of this name. A patch that can't be decoded is listed in the record.
    """
    reader = open_slide(slide)
    try:
        mpp = _mpp(reader.info, options.source_mpp)
        grid = plan_grid(reader.info, mpp, options.mpp, options.size)
        origin = {"name": reader.info.name, "sha256": content_hash(slide), "mpp": list(mpp), "level": grid.level}
        record = folder.finished(slide.stem, origin)
        if record is None:
            record = _cut(reader, grid, options, folder, slide.stem, origin, on_progress)
        return record
    finally:
        reader.close()


def _cut(
    reader: SlideReader,
    grid: PatchGrid,
    options: PatchOptions,
    folder: PatchFolder,
    stem: str,
    origin: dict[str, Any],
    on_progress: OnProgress,
) -> dict[str, Any]:
    cells = _tissue_cells(reader, grid, options)
    with folder.journal(stem, origin) as journal, ThreadPoolExecutor(os.cpu_count() or 1, "patches") as pool:
        fresh = in_parallel(_MeasurePatch(reader, grid, options), (c for c in cells if c not in journal.earlier), pool)
        done, kept = 0, 0
        for cell in cells:
            if options.most is not None and kept == options.most:
                break
            verdict = journal.earlier.get(cell)
            if verdict is None:
                measured = next(fresh)
                verdict = measured.verdict
                journal.write(cell, verdict, measured.encoded)
            kept += verdict.kept
            done += 1
            on_progress(done, len(cells))
        background = grid.columns * grid.rows - len(cells)
        return journal.finish({"grid": grid.columns * grid.rows, "background": background}, cells[:done])


def _tissue_cells(reader: SlideReader, grid: PatchGrid, options: PatchOptions) -> list[tuple[int, int]]:
    """Return the cells that may hold tissue, row by row; shuffled where only some are wanted."""
    cells = [(column, row) for row in range(grid.rows) for column in range(grid.columns)]
    if options.entropy > 0:
        mask = survey(reader, grid.level, grid.region).tissue_rows(grid.pitch, grid.rows, grid.columns)
        cells = [(column, row) for column, row in cells if mask[row][column] == MaskCell.MAYBE_TISSUE]
    if options.most is not None:
        order = np.random.default_rng(options.seed).permutation(len(cells))
        cells = [cells[index] for index in order]
    return cells


@dataclass(frozen=True, slots=True)
class _MeasuredPatch:
    verdict: Verdict
    encoded: bytes | None


@dataclass(frozen=True, slots=True)
class _MeasurePatch:
    """Reads and measures a patch, and encodes it if it is kept; may be called from any thread."""

    reader: SlideReader
    grid: PatchGrid
    options: PatchOptions

    def __call__(self, cell: tuple[int, int]) -> _MeasuredPatch:
        grid, options = self.grid, self.options
        region = grid.in_level_0(cell)
        size = Size(grid.size, grid.size)
        try:
            pixels = read_resampled(self.reader, grid.level, grid.corner(cell), grid.side, size)
        except TileReadError as error:
            return _MeasuredPatch(Verdict(region, None, False, error.cause), None)
        bits = shannon_entropy(grey_levels(pixels))
        if bits < options.entropy:
            return _MeasuredPatch(Verdict(region, bits, False), None)
        return _MeasuredPatch(Verdict(region, bits, True), _encoded(pixels, options.format))


def _encoded(pixels: Pixels, name: str) -> bytes:
    file = io.BytesIO()
    if name == "jpg":
        Image.fromarray(pixels).save(file, "JPEG", **_JPEG)
    else:
        Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _is_plain(side: tuple[float, float], size: Size) -> bool:
    """Whether resampling would move every pixel by less than half a pixel."""
    return (round(side[0]), round(side[1])) == (size.width, size.height)


def _mpp(info: SlideInfo, given: float | None) -> tuple[float, float]:
    try:
        return info.resolve_mpp(given)
    except PixelSizeMissingError as error:
        raise _mpp_problem(info, "slide.mpp-missing", "does not state its µm per pixel") from error
    except PixelSizeImplausibleError as error:
        raise _mpp_problem(info, "slide.mpp-implausible", "states a µm per pixel that no scanner has") from error


def _mpp_problem(info: SlideInfo, code: str, fault: str) -> ServiceError:
    """Make a problem that names --source-mpp, since --mpp of this command is the patches'."""
    return ServiceError(problem(code, f"{info.name}: the file {fault}; pass the true value of level 0 as --source-mpp"))
