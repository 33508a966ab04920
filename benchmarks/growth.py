"""How time per tile and memory grow with the result's width and height."""

from pathlib import Path

from benchmarks.cost import apart
from benchmarks.end_to_end import job
from benchmarks.slides import big_slide
from benchmarks.table import table
from benchmarks.writer import ours

_STRIPE = 2048
_WRITER_WIDTH = 100_000


def report(folder: Path, model: str, widths: tuple[int, ...], heights: tuple[int, ...]) -> str:
    """The table; widths and heights are the source's in pixels, a quarter of the result's."""
    rows = []
    for width, height in [*((width, _STRIPE) for width in widths), *((widths[0], height) for height in heights)]:
        slide, out = big_slide(folder, width, height, 1.0), folder / "grown.ome.tiff"
        cost = apart(job, model, str(slide), str(out))
        out.unlink()
        each = 1e3 * cost.wall / cost.answer["total"]
        rows.append([f"{4 * width} × {4 * height}", model, f"{each:.1f}", f"{cost.peak:.0f}"])
    cost = apart(ours, str(folder), _WRITER_WIDTH, 4 * _STRIPE)
    tiles = _WRITER_WIDTH * 4 * _STRIPE / 1024**2
    rows.append(
        [f"{_WRITER_WIDTH} × {4 * _STRIPE}", "writer alone", f"{1e3 * cost.wall / tiles:.1f}", f"{cost.peak:.0f}"]
    )
    head = ["result, px", "by", "ms a tile of 1024²", "peak MiB"]
    return table("Growth", head, rows)
