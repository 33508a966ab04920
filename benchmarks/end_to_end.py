"""Whole jobs compared to inference alone and to a plain loop over tiles, with different shares of tissue."""

from pathlib import Path
from typing import Any

from benchmarks.cost import measure_in_subprocess
from benchmarks.engine import seconds_per_tile
from benchmarks.plain_loop import upscale_plainly
from benchmarks.slides import big_slide
from benchmarks.table import cells, table
from slidelift.models.inference import choose_device, choose_precision
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.pipeline.upscale import upscale


def job(model: str, slide: str, out: str, options: dict[str, Any] | None = None) -> dict[str, int]:
    """Run a job; returns the number of tiles computed by the network, and of all tiles."""
    tiles = upscale(UpscaleRequest(Path(slide), Path(out), model=model, **(options or {}))).tiles
    return {"tissue": tiles.tissue, "total": tiles.total}


def report(folder: Path, model: str, device: str, side: int) -> str:
    """Return the table; `side` is the source's in pixels."""
    options = {"device": device}
    engine = [measure_in_subprocess(seconds_per_tile, model, device).answer]
    rows, costs = [], {}
    half = side // 2
    for name, width, tissue, plainly in (
        ("30 % tissue", side, 0.3, False),
        ("30 % tissue", side, 0.3, True),
        ("all tissue", half, 1.0, False),
        ("all tissue", half, 1.0, True),
        ("all glass", half, 0.0, False),
    ):
        slide, out = big_slide(folder, width, width, tissue), folder / ("plain.tiff" if plainly else "ours.ome.tiff")
        if plainly:
            # fp32 is the plain loop's default; the second comparison uses the same precision for both
            precision = "fp32" if tissue < 1 else choose_precision("auto", choose_device(device))
            cost = measure_in_subprocess(upscale_plainly, model, str(slide), str(out), precision, device)
        else:
            cost = measure_in_subprocess(job, model, str(slide), str(out), options)
        out.unlink()
        costs[name, plainly] = cost
        engine.append(measure_in_subprocess(seconds_per_tile, model, device).answer)
        tile = (engine[-2] + engine[-1]) / 2
        share = "" if plainly or not cost.answer["tissue"] else f"{cost.answer['tissue'] * tile / cost.wall:.0%}"
        tiles = "all" if plainly else f"{cost.answer['tissue']} of {cost.answer['total']}"
        rows.append([f"{width}² px, {name}", "plain loop" if plainly else "slidelift", tiles, *cells(cost), share])
    ours, plain = costs["30 % tissue", False], costs["30 % tissue", True]
    whole, glass = costs["all tissue", False], costs["all glass", False]
    head = ["source", "by", "tiles through the network", "wall s", "CPU s", "peak MiB", "efficiency"]
    return table(
        f"End to end, {model}",
        head,
        rows,
        f"Efficiency: tissue tiles × seconds per tile of inference alone ({min(engine):.3g} to {max(engine):.3g}; mean "
        "of before and after the job) ÷ wall time, which includes opening, planning, joining and verification.",
        f"30 % tissue: {plain.wall / ours.wall:.1f}× faster than the plain loop, at 1/{plain.peak / ours.peak:.0f} of "
        f"its memory. All tissue: {costs['all tissue', True].wall / whole.wall:.2f}×. "
        f"Glass takes {glass.wall / whole.wall:.1%} of the time of tissue of the same area.",
    )
