"""Self-evaluation of models on one slide: tissue of level 0 is reduced, enlarged by each model and compared.

It needs no data but the slide and measures how a model does on its scanner and stain. It does not measure what the
model makes of the slide's finest level itself. Luma (by the measuring convention) and RGB are compared tile by tile.

`as_json` returns:

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
from slidelift.wsi.tile_mask import MaskCell, maybe_tissue_count
from slidelift.wsi.tiler import PatchBatch, Tiler
from slidelift.wsi.tiling import Tile, TilePlan, source_region
from slidelift.wsi.tissue import DEFAULT_ENTROPY, survey

MEASURED = ("psnr_y", "ssim_y", "rmse", "consistency")
"""Measures of each tile and model; `rmse` is over RGB, in grey levels."""

_TILE_SIDE = 512
"""Side of a tile in level-0 pixels; at halo 18 the context adds two thirds to the work."""
_REDUCTION_REACH = 2
"""Reach of Pillow's antialiased bicubic in source pixels; nearer to a patch's edge its kernel is cut off."""
_WINDOW = 2
"""Runs of 16 patches in a window; two windows are in memory, about 90 MB."""
_GOLDEN = (math.sqrt(5) - 1) / 2

_Some = TypeVar("_Some", NDArray[np.uint8], NDArray[np.uint8] | NDArray[np.float32])


@dataclass(frozen=True, slots=True)
class TileScore:
    """Place and measures of one tile.

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
    """All measured tiles of one slide.

    Attributes
    ----------
    overview
        Low-resolution picture of the region; None where the slide has no small level.
    computed_on, computed_on_words
        As `models.hardware` returns them.
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
        """Return a measure, or ``psnr_y_gain``, of all tiles (rows, columns); NaN where nothing was measured."""
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
    """Measure every model on a slide's own tissue; a few dozen tiles at most are in memory.

    Parameters
    ----------
    upscalers
        By the name to report; `models.evaluate.BASELINE` must be among them.
    region
        In level-0 pixels; None for the scanned part.
    tiles
        Greatest number of tissue tiles, spread evenly; None for all.
    mpp
        µm per pixel of level 0 for the report, instead of the slide's.
    source
        How the reduced pixels are degraded.
    as_compressed
        Compress the source with the slide's own quantisation tables and sampling, where the file has them.
    on_tile
        Called with the number of tiles that were just processed.

    Raises
    ------
    WsiError, ModelError
        The slide can't be read or a model can't compute.
    ServiceError
        No tile has tissue.
    """
    with closing(open_slide(slide)) as reader:
        overview, plan = _plan(reader, upscalers, scale, region, entropy)
        if as_compressed:
            source = _compressed_as(source, reader.info.compression)
        scores = []
        for tile, pixels in _tissue(reader, plan, tiles, on_tile):
            scores.append(_score(tile, pixels, plan, upscalers, source))
        if not scores:
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
            tiles=tuple(sorted(scores, key=lambda tile: (tile.row, tile.column))),
            tissue=maybe_tissue_count(plan.mask),
            overview=overview,
            warnings=info.warnings,
            source=source,
            computed_on=computed_on(upscalers),
            computed_on_words=describe_hardware(upscalers),
        )


def _compressed_as(source: SourceModel, compression: Compression | None) -> SourceModel:
    if compression is None or not compression.quantization_tables or compression.sampling not in SAMPLINGS:
        return source
    return replace(source, tables=compression.quantization_tables, sampling=compression.sampling)


def table(evaluation: SelfEvaluation) -> str:
    """Return the means over the tiles as a Markdown table."""
    rows = ["| slide | tiles | model | PSNR-Y, dB | SSIM-Y | gain, dB | RMSE | consistency p5, dB |", "|---" * 8 + "|"]
    for name in evaluation.models:
        mean = {key: Summary.of(tile.values[name][key] for tile in evaluation.tiles) for key in MEASURED}
        gain = Summary.of(tile.gain(name) for tile in evaluation.tiles)
        rows.append(
            f"| {evaluation.name} | {len(evaluation.tiles)} | {name} | {mean['psnr_y'].mean:.2f}"
            f" | {mean['ssim_y'].mean:.4f} | {gain.mean:+.2f} | {mean['rmse'].mean:.2f}"
            f" | {mean['consistency'].p5:.2f} |"
        )
    return "\n".join(rows)


def as_json(evaluation: SelfEvaluation) -> dict[str, Any]:
    """Return everything as JSON values; the schema is in the docstring of this module."""
    source = evaluation.plan.source
    return {
        "schema": "slidelift-self-evaluation/2",
        "source": evaluation.source.as_dict(),
        "computed_on": dict(evaluation.computed_on),
        "slide": {
            "name": evaluation.name,
            "width": evaluation.size[0],
            "height": evaluation.size[1],
            "mpp": list(evaluation.mpp) if evaluation.mpp else None,
            "region": _corners(source),
        },
        "scale": evaluation.plan.scale,
        "tile": evaluation.plan.core,
        "rows": evaluation.plan.rows,
        "columns": evaluation.plan.columns,
        "tissue": evaluation.tissue,
        "warnings": list(evaluation.warnings),
        "models": {name: _summaries(evaluation, name) for name in evaluation.models},
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
                    for name in evaluation.models
                },
            }
            for tile in evaluation.tiles
        ],
    }


def _summaries(evaluation: SelfEvaluation, name: str) -> dict[str, Any]:
    values = {measure: [tile.values[name][measure] for tile in evaluation.tiles] for measure in MEASURED}
    plain = {measure: [tile.values[BASELINE][measure] for tile in evaluation.tiles] for measure in MEASURED}
    gains = {key: [a - b for a, b in zip(values[key], plain[key], strict=True)] for key in MEASURED}
    return {
        "summary": {key: finite_summary(Summary.of(one)) for key, one in values.items()},
        "gain": {key: finite_summary(Summary.of(one)) for key, one in gains.items()},
        "psnr_y_pooled": finite(evaluation.pooled_psnr_y(name)),
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
    """Cut level 0 into tiles whose patches hold the context of every model and of the reduction; survey the region."""
    whole = source_region(reader.info, 0, region)
    source = replace(whole, width=whole.width // scale * scale, height=whole.height // scale * scale)
    if source.is_empty:
        raise PlanError(f"{reader.info.name}: {whole.width}x{whole.height} px are too few to be reduced by {scale}")
    # once for the reduction of the patch, once for that of the enlarged tile
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
        core=_TILE_SIDE // scale * scale,
    )
    look = survey(reader, 0, source)
    return look.pixels, replace(plan, mask=look.tissue_rows(plan.core, plan.rows, plan.columns))


def _tissue(
    reader: SlideReader, plan: TilePlan, tiles: int | None, on_tile: Callable[[int], None]
) -> Iterator[tuple[Tile, Pixels]]:
    """Yield patches with tissue: all of the plan, or `tiles` of them, spread evenly."""
    if tiles is None:
        with closing(Tiler(reader, plan, mark_bad=False, window=_WINDOW)) as tiler:
            for batch in tiler.rows(0, plan.rows):
                yield from _with_tissue(batch)
                on_tile(len(batch.tiles))
        return
    cells = [
        (row, column)
        for row in range(plan.rows)
        for column in range(plan.columns)
        if plan.mask[row][column] == MaskCell.MAYBE_TISSUE
    ]
    left = tiles
    # any number of multiples of the golden ratio, modulo one, is spread evenly
    for number in dict.fromkeys(int(len(cells) * (step * _GOLDEN % 1)) for step in range(8 * len(cells))):
        tile = plan.tile(*cells[number])
        alone = replace(plan, source=tile.core, mask=(MaskCell.MAYBE_TISSUE,))
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
