"""Reading of patches: the tiler with its entropy test, an OpenSlide loop, and OpenSlide's DeepZoom generator."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
from openslide.deepzoom import DeepZoomGenerator

from benchmarks.cost import measure_in_subprocess
from benchmarks.slides import big_slide
from benchmarks.table import table
from slidelift.wsi.geometry import Region
from slidelift.wsi.readers.open_slide import open_slide
from slidelift.wsi.tiler import Tiler
from slidelift.wsi.tiling import CORE, TilePlan

_HALO = 22


def by_tiler(slide: str) -> Callable[[], int]:
    """Read all patches as the pipeline does, including entropy; returns their number."""
    reader = open_slide(Path(slide))
    size = reader.info.size
    plan = TilePlan(0, Region(0, 0, size.width, size.height), 4, _HALO, 0, 1, 3.0, ())
    plan = replace(plan, mask=tuple("1" * plan.columns for _ in range(plan.rows)))
    tiler = Tiler(reader, plan, mark_bad=False)
    return lambda: sum(len(batch.tiles) for batch in tiler.rows(0, plan.rows))


def by_loop(slide: str) -> Callable[[], int]:
    """Read the same patches by `read_region`."""
    opened, side = openslide.OpenSlide(slide), CORE + 2 * _HALO
    width, height = opened.dimensions
    corners = [(x, y) for y in range(0, height, CORE) for x in range(0, width, CORE)]

    def read() -> int:
        for x, y in corners:
            np.asarray(opened.read_region((x - _HALO, y - _HALO), 0, (side, side)).convert("RGB"))
        return len(corners)

    return read


def by_deep_zoom(slide: str) -> Callable[[], int]:
    """Read the same patches as overlapping tiles of OpenSlide's DeepZoom generator."""
    tiles = DeepZoomGenerator(openslide.OpenSlide(slide), CORE, _HALO)
    level = tiles.level_count - 1
    columns, rows = tiles.level_tiles[level]

    def read() -> int:
        for row in range(rows):
            for column in range(columns):
                np.asarray(tiles.get_tile(level, (column, row)))
        return columns * rows

    return read


def report(folder: Path, side: int) -> str:
    """Return the table; `side` is the source's in pixels."""
    slide = str(big_slide(folder, side, side, 0.3))
    rows = []
    for name, work in (("tiler", by_tiler), ("OpenSlide loop", by_loop), ("OpenSlide DeepZoom", by_deep_zoom)):
        cost = measure_in_subprocess(work, slide)
        rate, per_patch = cost.answer / cost.wall, 1e3 * cost.cpu / cost.answer
        rows.append([name, f"{cost.answer}", f"{rate:.0f}", f"{per_patch:.2f}", f"{cost.peak:.0f}"])
    head = ["reader", "patches", "patches/s", "CPU ms per patch", "peak MiB"]
    return table(f"Reading, {CORE + 2 * _HALO}-px patches of a slide {side} px wide", head, rows)
