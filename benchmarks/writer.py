"""Writers of slidelift, libvips and tifffile on pixels in memory, compared to JPEG encoding alone."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from benchmarks.cost import measure, measure_in_subprocess
from benchmarks.plain_loop import save_pyramid
from benchmarks.slides import tissue_image
from benchmarks.table import cells, table
from slidelift.service.pipeline.tile_encoding import TileEncoder
from slidelift.wsi.geometry import Size
from slidelift.wsi.ome_xml import ImageMetadata
from slidelift.wsi.pyramid import TILE, PyramidBuilder, halve, level_sizes, levels_in_stripe
from slidelift.wsi.tiling import CORE, ROWS_PER_STRIPE
from slidelift.wsi.writers.assembly import assemble_levels, build_top_levels
from slidelift.wsi.writers.formats import get_format
from slidelift.wsi.writers.segment import Segment, SegmentWriter, detect_blank

_BLOCK = 4 * CORE
_STRIPE = ROWS_PER_STRIPE * _BLOCK
_PERIOD = 4 * _BLOCK
_QUALITY = 90


def by_slidelift(folder: str, width: int, height: int, name: str = "ome-tiff") -> Callable[[], None]:
    """Write blocks as the pipeline does: pyramid, encoding, segments, join."""
    file_format, source = get_format(name), tissue_image(_PERIOD, _PERIOD)
    encode, sizes = file_format.encoder(_QUALITY), level_sizes(Size(width, height))
    in_stripe = levels_in_stripe(_STRIPE, len(sizes))

    def segment(pool: ThreadPoolExecutor, number: int, top: int) -> Segment:
        rows, path = min(_STRIPE, height - top), Path(folder) / f"{number}.segment"
        with SegmentWriter(path) as writer:
            encoding = TileEncoder(pool, encode, writer)
            levels = tuple(Size(width, rows).halved(level) for level in range(in_stripe))
            builder = PyramidBuilder(levels, encoding.submit, keep_remainder=len(sizes) > in_stripe, pool=pool)
            for y in range(0, rows, _BLOCK):
                for x in range(0, width, _BLOCK):
                    left, bottom, right = x % _PERIOD, min(y + _BLOCK, rows), min(_BLOCK, width - x)
                    builder.add(x, y, source[y % _PERIOD :][: bottom - y, left : left + right])
            builder.finish()
            encoding.wait()
            writer.finish(builder.remainder, {})
        return Segment(path)

    def write() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            segments = [segment(pool, number, top) for number, top in enumerate(range(0, height, _STRIPE))]
        top_levels = None
        if len(sizes) > in_stripe:
            top_levels = build_top_levels(Path(folder) / "top_levels.segment", segments, sizes, in_stripe, encode)
        joined = assemble_levels(segments, top_levels, _STRIPE, sizes, in_stripe, lambda: None)
        facts = ImageMetadata("urn:uuid:0", "", "", "", sizes, (0.25, 0.25), None, (), None)
        file_format.write(Path(folder) / f"ours{file_format.suffixes[0]}", joined, facts, _QUALITY, lambda: None)

    return write


def by_libvips(folder: str, width: int, height: int) -> Callable[[], None]:
    """Write a pyramid of pixels in memory by libvips."""
    pixels = tissue_image(width, height)
    return lambda: save_pyramid(pixels, Path(folder) / "vips.tiff")


def by_tifffile(folder: str, width: int, height: int) -> Callable[[], None]:
    """Write a pyramid of pixels in memory by tifffile; coarser levels as in slidelift."""
    whole, sizes = tissue_image(width, height), level_sizes(Size(width, height))
    shape: dict[str, Any] = {"photometric": "ycbcr", "tile": (TILE, TILE), "compression": "jpeg"}
    shape |= {"subsampling": (2, 2), "compressionargs": {"level": _QUALITY}, "maxworkers": os.cpu_count()}

    def write() -> None:
        with tifffile.TiffWriter(Path(folder) / "tifffile.ome.tiff", bigtiff=True) as tiff:
            tiff.write(whole, subifds=len(sizes) - 1, **shape)
            pixels = whole
            for _ in sizes[1:]:
                pixels = halve(pixels)
                tiff.write(pixels, subfiletype=1, **shape)

    return write


def _encoding_seconds(width: int, height: int) -> float:
    """Return the CPU time of encoding all tiles of all levels."""
    encode = get_format("ome-tiff").encoder(_QUALITY)
    pixels = tissue_image(8 * TILE, 8 * TILE)
    tiles = [pixels[y : y + TILE, x : x + TILE] for y in range(0, 8 * TILE, TILE) for x in range(0, 8 * TILE, TILE)]
    tiles = [np.ascontiguousarray(tile) for tile in tiles if detect_blank(tile) is None]
    count = sum(-(-size.width // TILE) * -(-size.height // TILE) for size in level_sizes(Size(width, height)))
    return measure(lambda: [encode(tile) for tile in tiles], 3).cpu / len(tiles) * count


def report(folder: Path, side: int) -> str:
    """Return the table; `side` is the result's in pixels."""
    arguments, floor = [str(folder), side, side], _encoding_seconds(side, side)
    costs = {
        "slidelift, OME-TIFF": measure_in_subprocess(by_slidelift, *arguments),
        "libvips": measure_in_subprocess(by_libvips, *arguments),
        "tifffile": measure_in_subprocess(by_tifffile, *arguments),
        "slidelift, OME-Zarr": measure_in_subprocess(by_slidelift, *arguments, "ome-zarr"),
    }
    rows = [[name, *cells(cost), f"{cost.cpu / floor:.2f}"] for name, cost in costs.items()]
    tiff, vips, other, zarr = (cost.wall for cost in costs.values())
    return table(
        f"Writers, {side}² px of tissue",
        ["writer", "wall s", "CPU s", "peak MiB", "CPU ÷ JPEG ceiling"],
        rows,
        f"Pixels are in memory; the peaks of libvips and tifffile include all of them. JPEG ceiling: {floor:.3g} CPU s "
        f"for all tiles of all levels, quality {_QUALITY}, 4:2:0. OME-TIFF: {vips / tiff:.2f}× as fast as libvips, "
        f"{other / tiff:.2f}× as fast as tifffile. OME-Zarr takes {zarr / tiff:.1f}× OME-TIFF's time.",
    )
