"""A slide against itself: tissue of level 0, reduced and enlarged again by each model, beside what it was.

Needs no other data than the slide. It tells how a model does on this scanner and stain; it says nothing of what the
model makes of the slide's own, finest level. Compared are luma by the measuring convention and RGB, tile by tile.

`as_json` gives, and the command writes:

    schema      "slidelift-self-evaluation/2"
    source      {reduction, defocus, noise, quality, sampling, tables}: how the reduced slide was made a source
    computed_on {processor, cores, torch, models: name -> {device, precision}}
    slide       name, width, height, mpp (null where unknown), region [x, y, width, height]
    scale, tile (pixels of level 0 along a tile's side), rows, columns, tissue, warnings
    models      name -> {summary, gain: measure -> {images (that is, tiles), mean, median, p5, p95},
                         psnr_y_pooled: of all measured pixels together}
    tiles       [{row, column, region: [x, y, width, height],
                  models: name -> {psnr_y, ssim_y, rmse, consistency, psnr_y_gain}}]; null where infinite
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from slidelift.models.evaluate import BASELINE, CLEAN, Summary, finite, finite_summary
from slidelift.models.hardware import computed_on, describe_hardware
from slidelift.models.metrics.fidelity import luma, mse, psnr_rgb, psnr_y, ssim_y
from slidelift.models.metrics.reduction import bicubic
from slidelift.models.metrics.source import SAMPLINGS, SourceModel
from slidelift.models.upscaler import PatchUpscaler
from slidelift.service.errors import ServiceError, problem
from slidelift.wsi.errors import PlanError
from slidelift.wsi.geometry import Region
from slidelift.wsi.readers.open_slide import open_slide
from slidelift.wsi.slide import Compression, Pixels, SlideReader
from slidelift.wsi.tiler import PatchBatch, Tiler
from slidelift.wsi.tiling import Tile, TilePlan, source_region
from slidelift.wsi.tissue import DEFAULT_ENTROPY, survey

MEASURED = ("psnr_y", "ssim_y", "rmse", "consistency")
"""Of each tile and model; `rmse` is over RGB, in grey levels."""

_TILE = 512
"""Pixels of level 0: context adds two thirds to the work at halo 18, and a small slide still has a map."""
_REDUCTION_REACH = 2
"""Source pixels that Pillow's antialiased bicubic reaches; what is nearer to a patch's edge is made of a cut kernel."""
_WINDOW = 2
"""Runs of 16 patches that are read ahead: two windows, about 90 MB."""
_GOLDEN = (math.sqrt(5) - 1) / 2

_Some = TypeVar("_Some", NDArray[np.uint8], NDArray[np.uint8] | NDArray[np.float32])


@dataclass(frozen=True, slots=True)
class TileScore:
    """One tile: where it lies in level 0, and each model's measures and luma errors.

    Attributes
    ----------
    values
        Model -> measure of `MEASURED` -> value.
    luma_mse
        Model -> mean squared error of luma.
    """

    row: int
    column: int
    region: Region
    values: Mapping[str, Mapping[str, float]]
    luma_mse: Mapping[str, float]

    def gain(self, model: str) -> float:
        """PSNR-Y above bicubic's in dB; NaN where both are infinite."""
        return self.values[model]["psnr_y"] - self.values[BASELINE]["psnr_y"]


@dataclass(frozen=True, slots=True)
class SelfEvaluation:
    """All measured tiles of one slide, and a small picture of its region (None where it has no small level).

    `computed_on` and its words are those of `models.hardware`.
    """

    name: str
    size: tuple[int, int]
    mpp: tuple[float, float] | None
    plan: TilePlan
    models: tuple[str, ...]
    tiles: tuple[TileScore, ...]
    tissue: int
    overview: Pixels | None
    warnings: tuple[str, ...]
    source: SourceModel
    computed_on: Mapping[str, Any]
    computed_on_words: str

    def grid(self, model: str, measure: str) -> NDArray[np.float64]:
        """A measure, or ``psnr_y_gain``, over the plan's cells (rows, columns); NaN where nothing was measured."""
        cells = np.full((self.plan.rows, self.plan.columns), math.nan)
        for tile in self.tiles:
            value = tile.gain(model) if measure == "psnr_y_gain" else tile.values[model][measure]
            cells[tile.row, tile.column] = value
        return cells

    def pooled_psnr_y(self, model: str) -> float:
        """PSNR-Y of all measured pixels together."""
        pixels = np.array([tile.region.width * tile.region.height for tile in self.tiles], np.float64)
        errors = np.array([tile.luma_mse[model] for tile in self.tiles])
        pooled = float((pixels * errors).sum() / pixels.sum())
        return 10 * math.log10(255**2 / pooled) if pooled else math.inf


def evaluate_slide(
    slide: Path,
    upscalers: Mapping[str, PatchUpscaler],
    scale: int,
    *,
    region: Region | None = None,
    tiles: int | None = None,
    mpp: float | None = None,
    entropy: float = DEFAULT_ENTROPY,
    source: SourceModel = CLEAN,
    as_compressed: bool = True,
    on_tile: Callable[[int], None] = lambda _tile: None,
) -> SelfEvaluation:
    """Measure every model on a slide's own tissue; holds at most a few dozen tiles at a time.

    Parameters
    ----------
    upscalers
        By the name to report; `models.evaluate.BASELINE` must be among them.
    region
        In level-0 pixels; None for the scanned part.
    tiles
        At most so many tissue tiles, spread evenly; None for all.
    mpp
        µm per pixel of level 0 where the slide does not say, for the report alone.
    source
        How the slide's pixels are made a source.
    as_compressed
        Compress the source with the slide's own quantisation tables and sampling, where the file tells them.
    on_tile
        Called with the number of the tiles of the plan that were just looked at.

    Raises
    ------
    WsiError, ModelError
        The slide can't be read or a model can't compute.
    ServiceError
        No tile has tissue.
    """
    with closing(open_slide(slide)) as reader:
        look, plan = _plan(reader, upscalers, scale, region, entropy)
        if as_compressed:
            source = _compressed_as(source, reader.info.compression)
        found = []
        for tile, pixels in _tissue(reader, plan, tiles, on_tile):
            found.append(_score(tile, pixels, plan, upscalers, source))
        if not found:
            raise ServiceError(
                problem("request.plan", f"{reader.info.name}: no tile with tissue there; give another --region")
            )
        info = reader.info
        return SelfEvaluation(
            name=info.name,
            size=(info.size.width, info.size.height),
            mpp=(mpp, mpp) if mpp else info.mpp,
            plan=plan,
            models=tuple(upscalers),
            tiles=tuple(sorted(found, key=lambda tile: (tile.row, tile.column))),
            tissue=sum(row.count("1") for row in plan.mask),
            overview=look,
            warnings=info.warnings,
            source=source,
            computed_on=computed_on(upscalers),
            computed_on_words=describe_hardware(upscalers),
        )


def _compressed_as(source: SourceModel, compression: Compression | None) -> SourceModel:
    if compression is None or not compression.quantization_tables or compression.sampling not in SAMPLINGS:
        return source
    return replace(source, tables=compression.quantization_tables, sampling=compression.sampling)


def table(found: SelfEvaluation) -> str:
    """Means over the tiles as a Markdown table."""
    rows = ["| slide | tiles | model | PSNR-Y, dB | SSIM-Y | gain, dB | RMSE | consistency p5, dB |", "|---" * 8 + "|"]
    for name in found.models:
        mean = {key: Summary.of(tile.values[name][key] for tile in found.tiles) for key in MEASURED}
        gain = Summary.of(tile.gain(name) for tile in found.tiles)
        rows.append(
            f"| {found.name} | {len(found.tiles)} | {name} | {mean['psnr_y'].mean:.2f} | {mean['ssim_y'].mean:.4f}"
            f" | {gain.mean:+.2f} | {mean['rmse'].mean:.2f} | {mean['consistency'].p5:.2f} |"
        )
    return "\n".join(rows)


def as_json(found: SelfEvaluation) -> dict[str, Any]:
    """Everything as plain values, by the schema that stands at the head of this module."""
    source = found.plan.source
    return {
        "schema": "slidelift-self-evaluation/2",
        "source": found.source.as_dict(),
        "computed_on": dict(found.computed_on),
        "slide": {
            "name": found.name,
            "width": found.size[0],
            "height": found.size[1],
            "mpp": list(found.mpp) if found.mpp else None,
            "region": _corners(source),
        },
        "scale": found.plan.scale,
        "tile": found.plan.core,
        "rows": found.plan.rows,
        "columns": found.plan.columns,
        "tissue": found.tissue,
        "warnings": list(found.warnings),
        "models": {name: _summaries(found, name) for name in found.models},
        "tiles": [
            {
                "row": tile.row,
                "column": tile.column,
                "region": _corners(tile.region),
                "models": {
                    name: {
                        **{measure: finite(value) for measure, value in tile.values[name].items()},
                        "psnr_y_gain": finite(tile.gain(name)),
                    }
                    for name in found.models
                },
            }
            for tile in found.tiles
        ],
    }


def _summaries(found: SelfEvaluation, name: str) -> dict[str, Any]:
    values = {measure: [tile.values[name][measure] for tile in found.tiles] for measure in MEASURED}
    plain = {measure: [tile.values[BASELINE][measure] for tile in found.tiles] for measure in MEASURED}
    gains = {key: [a - b for a, b in zip(values[key], plain[key], strict=True)] for key in MEASURED}
    return {
        "summary": {key: finite_summary(Summary.of(one)) for key, one in values.items()},
        "gain": {key: finite_summary(Summary.of(one)) for key, one in gains.items()},
        "psnr_y_pooled": finite(found.pooled_psnr_y(name)),
    }


def _corners(region: Region) -> list[int]:
    return [region.x, region.y, region.width, region.height]


def _plan(
    reader: SlideReader,
    upscalers: Mapping[str, PatchUpscaler],
    scale: int,
    region: Region | None,
    entropy: float,
) -> tuple[Pixels | None, TilePlan]:
    """The cut of level 0, whose patches hold every model's context and the reduction's; and a look at the region."""
    whole = source_region(reader.info, 0, region)
    source = replace(whole, width=whole.width // scale * scale, height=whole.height // scale * scale)
    if source.is_empty:
        raise PlanError(f"{reader.info.name}: {whole.width}x{whole.height} px are too few to be reduced by {scale}")
    # once for the patch's own reduction, once for that of the enlarged tile
    halo = max(upscaler.halo for upscaler in upscalers.values()) + 2 * _REDUCTION_REACH
    plan = TilePlan(
        level=0,
        source=source,
        scale=scale,
        halo=halo * scale,
        fade=0,
        batch=1,
        entropy=entropy,
        mask=(),
        core=_TILE // scale * scale,
    )
    look = survey(reader, 0, source)
    return look.pixels, replace(plan, mask=look.tissue_rows(plan.core, plan.rows, plan.columns))


def _tissue(
    reader: SlideReader, plan: TilePlan, tiles: int | None, on_tile: Callable[[int], None]
) -> Iterator[tuple[Tile, Pixels]]:
    """Patches with tissue; all of the plan, or the first `tiles` of an order that is even at any length."""
    if tiles is None:
        with closing(Tiler(reader, plan, mark_bad=False, window=_WINDOW)) as tiler:
            for batch in tiler.rows(0, plan.rows):
                yield from _with_tissue(batch)
                on_tile(len(batch.tiles))
        return
    cells = [
        (row, column) for row in range(plan.rows) for column in range(plan.columns) if plan.mask[row][column] == "1"
    ]
    left = tiles
    # multiples of the golden ratio, modulo one, are spread evenly however many there are
    for number in dict.fromkeys(int(len(cells) * (step * _GOLDEN % 1)) for step in range(8 * len(cells))):
        tile = plan.tile(*cells[number])
        alone = replace(plan, source=tile.core, mask=("1",))
        with closing(Tiler(reader, alone, mark_bad=False, threads=1, window=1)) as tiler:
            [batch] = tiler.rows(0, 1)
        for _, pixels in _with_tissue(batch):
            yield tile, pixels
            left -= 1
            on_tile(1)
        if not left:
            return


def _with_tissue(batch: PatchBatch) -> Iterator[tuple[Tile, Pixels]]:
    for tile, pixels, tissue in zip(batch.tiles, batch.pixels, batch.tissue.tolist(), strict=True):
        if tissue:
            yield tile, pixels


def _score(
    tile: Tile, patch: Pixels, plan: TilePlan, upscalers: Mapping[str, PatchUpscaler], model: SourceModel
) -> TileScore:
    scale, width, height = plan.scale, tile.core.width, tile.core.height
    truth = patch[plan.halo : plan.halo + height, plan.halo : plan.halo + width]
    reduced = model(patch, scale)
    source = _inner(reduced, plan.halo // scale)[: height // scale, : width // scale]
    values, errors = {}, {}
    for name, upscaler in upscalers.items():
        context = _inner(reduced, plan.halo // scale - _REDUCTION_REACH - upscaler.halo)
        around = _inner(upscaler(np.ascontiguousarray(context)[None])[0], upscaler.halo * scale)
        enlarged = np.rint(around).clip(0, 255).astype(np.uint8)
        image = _inner(enlarged, _REDUCTION_REACH * scale)[:height, :width]
        again = _inner(bicubic(enlarged, scale), _REDUCTION_REACH)[: height // scale, : width // scale]
        values[name] = {
            "psnr_y": psnr_y(image, truth),
            "ssim_y": ssim_y(image, truth),
            "rmse": math.sqrt(mse(image, truth)),
            "consistency": psnr_rgb(again, source),
        }
        errors[name] = float(np.square(luma(image) - luma(truth)).mean())
    return TileScore(tile.row, tile.column, tile.core, values, errors)


def _inner(pixels: _Some, margin: int) -> _Some:
    return pixels[margin : pixels.shape[0] - margin, margin : pixels.shape[1] - margin]
