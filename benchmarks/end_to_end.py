"""Whole jobs: against the engine's own time, against a plain loop over tiles, and with next to no tissue."""

from pathlib import Path
from typing import Any

from benchmarks.cost import apart
from benchmarks.engine import seconds_per_tile
from benchmarks.plain_loop import upscale_plainly
from benchmarks.slides import big_slide
from benchmarks.table import cells, table
from slidelift.models.inference import choose_device, choose_precision
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.pipeline.upscale import upscale


def job(model: str, slide: str, out: str, options: dict[str, Any] | None = None) -> dict[str, int]:
    """One whole job; how many tiles went through the network, and of how many."""
    tiles = upscale(UpscaleRequest(Path(slide), Path(out), model=model, **(options or {}))).tiles
    return {"tissue": tiles.tissue, "total": tiles.total}


def report(folder: Path, model: str, device: str, side: int) -> str:
    """The tables; `side` is the source's in pixels."""
    options = {"device": device}
    engine = [apart(seconds_per_tile, model, device).answer]
    rows, found = [], {}
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
            precision = "fp32" if tissue < 1 else choose_precision("auto", choose_device(device))  # its users', ours
            cost = apart(upscale_plainly, model, str(slide), str(out), precision, device)
        else:
            cost = apart(job, model, str(slide), str(out), options)
        out.unlink()
        found[name, plainly] = cost
        engine.append(apart(seconds_per_tile, model, device).answer)
        tile = (engine[-2] + engine[-1]) / 2
        share = "" if plainly or not cost.answer["tissue"] else f"{cost.answer['tissue'] * tile / cost.wall:.0%}"
        tiles = "all" if plainly else f"{cost.answer['tissue']} of {cost.answer['total']}"
        rows.append([f"{width}² px, {name}", "plain loop" if plainly else "slidelift", tiles, *cells(cost), share])
    ours, plain = found["30 % tissue", False], found["30 % tissue", True]
    whole, glass = found["all tissue", False], found["all glass", False]
    head = ["source", "by", "tiles through the network", "wall s", "CPU s", "peak MiB", "efficiency"]
    return table(
        f"End to end, {model}",
        head,
        rows,
        f"Efficiency: tissue tiles × seconds of the engine alone ({min(engine):.3g} to {max(engine):.3g}; the mean of "
        "before and after the job) ÷ wall clock; opening, planning, joining and reading back are in it.",
        f"30 % tissue: {plain.wall / ours.wall:.1f}× faster than the plain loop, at 1/{plain.peak / ours.peak:.0f} of "
        f"its memory. All tissue: {found['all tissue', True].wall / whole.wall:.2f}×. "
        f"Glass costs {glass.wall / whole.wall:.1%} of what tissue of its area costs.",
    )
