"""The writers alone, on raw pixels: ours, libvips', tifffile's, and what encoding the tiles costs by itself."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tifffile

from benchmarks.cost import apart, here
from benchmarks.plain_loop import save_pyramid
from benchmarks.slides import picture
from benchmarks.table import cells, table
from service.pipeline.stripe import Encoding
from wsi.geometry import Size
from wsi.ome_xml import ImageFacts
from wsi.pyramid import TILE, PyramidBuilder, halve, level_sizes, levels_in_stripe
from wsi.tiling import CORE, ROWS_PER_STRIPE
from wsi.writers.join import build_crown, joined_levels
from wsi.writers.segment import Segment, SegmentWriter, blank_colour
from wsi.writers.table import format_named

_BLOCK = 4 * CORE
_STRIPE = ROWS_PER_STRIPE * _BLOCK
_QUALITY = 90


def ours(folder: str, width: int, height: int, name: str = "ome-tiff") -> None:
    """The pipeline's own way from finished blocks to a file: pyramid, encoding, segments, join."""
    known, source = format_named(name), picture(width, min(height, _STRIPE))
    encode, sizes = known.encoder(_QUALITY), level_sizes(Size(width, height))
    in_stripe, segments = levels_in_stripe(_STRIPE, len(sizes)), []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, top in enumerate(range(0, height, _STRIPE)):
            rows = min(_STRIPE, height - top)
            path = Path(folder) / f"{number}.segment"
            with SegmentWriter(path) as writer:
                encoding = Encoding(pool, encode, writer)
                levels = tuple(Size(width, rows).halved(level) for level in range(in_stripe))
                builder = PyramidBuilder(levels, encoding.submit, keep_rest=len(sizes) > in_stripe)
                for y, x in _blocks(width, rows):
                    builder.add(x, y, source[y : min(y + _BLOCK, rows), x : x + _BLOCK])
                builder.finish()
                encoding.wait()
                writer.finish(builder.rest, {})
            segments.append(Segment(path))
    crown = None
    if len(sizes) > in_stripe:
        crown = build_crown(Path(folder) / "crown.segment", segments, sizes, in_stripe, encode)
    joined = joined_levels(segments, crown, _STRIPE, sizes, in_stripe, lambda: None)
    facts = ImageFacts("urn:uuid:0", "", "", "", sizes, (0.25, 0.25), None, (), None)
    known.join(Path(folder) / f"ours{known.suffixes[0]}", joined, facts, _QUALITY)


def by_libvips(folder: str, width: int, height: int) -> None:
    """Pixels in memory to a pyramid by libvips."""
    save_pyramid(picture(width, height), Path(folder) / "vips.tiff")


def by_tifffile(folder: str, width: int, height: int) -> None:
    """Pixels in memory to a pyramid by tifffile; coarser levels by numpy and Pillow as ours."""
    pixels, sizes = picture(width, height), level_sizes(Size(width, height))
    shape = {"photometric": "ycbcr", "tile": (TILE, TILE), "compression": "jpeg", "subsampling": (2, 2)}
    shape |= {"compressionargs": {"level": _QUALITY}, "maxworkers": os.cpu_count()}
    with tifffile.TiffWriter(Path(folder) / "tifffile.ome.tiff", bigtiff=True) as tiff:
        tiff.write(pixels, subifds=len(sizes) - 1, **shape)
        for _ in sizes[1:]:
            pixels = halve(pixels)
            tiff.write(pixels, subfiletype=1, **shape)


def no_pixels_written(folder: str, width: int, height: int) -> None:  # noqa: ARG001 - the face of all
    """What the others do before they write: make the pixels."""
    picture(width, height)


def _blocks(width: int, rows: int) -> Iterator[tuple[int, int]]:
    return ((y, x) for y in range(0, rows, _BLOCK) for x in range(0, width, _BLOCK))


def _encoding_seconds(width: int, height: int) -> float:
    """Processor time of encoding all tiles of all levels and nothing else."""
    encode = format_named("ome-tiff").encoder(_QUALITY)
    pixels = picture(8 * TILE, 8 * TILE)
    tiles = [pixels[y : y + TILE, x : x + TILE] for y in range(0, 8 * TILE, TILE) for x in range(0, 8 * TILE, TILE)]
    tiles = [np.ascontiguousarray(tile) for tile in tiles if blank_colour(tile) is None]
    count = sum(-(-size.width // TILE) * -(-size.height // TILE) for size in level_sizes(Size(width, height)))
    return here(lambda: [encode(tile) for tile in tiles], 3).cpu / len(tiles) * count


def report(folder: Path, side: int) -> str:
    """The table; `side` is the result's in pixels."""
    where = [str(folder), side, side]
    bare, floor = apart(no_pixels_written, *where), _encoding_seconds(side, side)
    costs = {
        "slidelift, OME-TIFF": apart(ours, *where),
        "libvips": apart(by_libvips, *where),
        "tifffile": apart(by_tifffile, *where),
        "slidelift, OME-Zarr": apart(ours, *where, "ome-zarr"),
    }
    rows = [
        [name, *cells(cost), f"{(cost.wall - bare.wall):.3g}", f"{(cost.cpu - bare.cpu) / floor:.2f}"]
        for name, cost in costs.items()
    ]
    net = {name: cost.wall - bare.wall for name, cost in costs.items()}
    tiff, zarr = net["slidelift, OME-TIFF"], net["slidelift, OME-Zarr"]
    head = ["writer", "wall s", "CPU s", "peak MiB", "wall s, net", "CPU, net ÷ JPEG ceiling"]
    return table(
        f"Writers, {side}² px of tissue",
        head,
        rows,
        f"Net of making the pixels ({bare.wall:.3g} s). JPEG ceiling: {floor:.3g} s of one processor for all tiles of "
        f"all levels, quality {_QUALITY}, 4:2:0. OME-TIFF: {net['libvips'] / tiff:.2f}× as fast as libvips, "
        f"{net['tifffile'] / tiff:.2f}× as fast as tifffile. OME-Zarr takes {zarr / tiff:.1f}× OME-TIFF's time.",
    )
