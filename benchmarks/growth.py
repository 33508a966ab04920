"""Scaling of time per tile and memory with the result's width and height."""

from pathlib import Path

from benchmarks.cost import measure_in_subprocess
from benchmarks.end_to_end import job
from benchmarks.slides import big_slide
from benchmarks.table import table
from benchmarks.writer import by_slidelift

_STRIPE = 2048
_WRITER_WIDTH = 100_000


def report(folder: Path, model: str, widths: tuple[int, ...], heights: tuple[int, ...]) -> str:
    """Return the table; widths and heights are the source's in pixels, a quarter of the result's."""
    rows = []
    for width, height in [*((width, _STRIPE) for width in widths), *((widths[0], height) for height in heights)]:
        slide, out = big_slide(folder, width, height, 1.0), folder / "grown.ome.tiff"
        cost = measure_in_subprocess(job, model, str(slide), str(out))
        out.unlink()
        per_tile = 1e3 * cost.wall / cost.answer["total"]
        rows.append([f"{4 * width} × {4 * height}", model, f"{per_tile:.1f}", f"{cost.peak:.0f}"])
    cost = measure_in_subprocess(by_slidelift, str(folder), _WRITER_WIDTH, 4 * _STRIPE)
    tiles = _WRITER_WIDTH * 4 * _STRIPE / 1024**2
    rows.append(
        [f"{_WRITER_WIDTH} × {4 * _STRIPE}", "writer alone", f"{1e3 * cost.wall / tiles:.1f}", f"{cost.peak:.0f}"]
    )
    head = ["result, px", "by", "ms per tile of 1024²", "peak MiB"]
    return table("Scaling with size", head, rows)
