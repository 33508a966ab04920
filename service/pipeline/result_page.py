"""The report as one HTML file, without scripts, external resources, paths, slide names or dates."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from slidelift.models.html_report import heat, heat_scale, page, picture
from slidelift.service.pipeline.report import (
    BadTileReport,
    ConsistencyReport,
    ModelReport,
    Report,
    SeamReport,
)
from slidelift.service.pipeline.tile_mark import TileMark
from slidelift.wsi.geometry import Region
from slidelift.wsi.slide import Pixels

THUMBNAIL = 500
"""Longer side of the thumbnails in pixels."""
_MAP = 480
_MOST_BAD = 200
_MARKS: dict[TileMark, tuple[str, tuple[int, int, int]]] = {
    TileMark.TISSUE: ("tissue, through the model", (68, 119, 170)),
    TileMark.REJECTED: ("too plain for tissue (entropy), resampled", (170, 203, 230)),
    TileMark.GLASS: ("glass (mask), resampled", (236, 236, 236)),
    TileMark.OUTSIDE: ("outside the region of interest, resampled", (255, 255, 255)),
    TileMark.STRAYED: ("model output rejected, resampled: see the table", (221, 136, 34)),
    TileMark.BAD: ("unreadable in part, or not computed: see the table", (204, 51, 17)),
}


@dataclass(frozen=True, slots=True)
class Crops:
    """A square of one tile: the source, its bicubic enlargement, and the result.

    `place` is in pixels of the result; `rmse` is the whole tile's.
    """

    row: int
    column: int
    rmse: float
    place: Region
    source: Pixels
    bicubic: Pixels
    result: Pixels


@dataclass(frozen=True, slots=True)
class PageImages:
    """Pictures and maps of the page.

    Attributes
    ----------
    before
        Thumbnail of the source; None where no level is small enough.
    map
        As `service.pipeline.report_builder.ReportBuilder.map`.
    consistency
        (rows, columns); NaN where nothing was measured.
    crops
        Of the tile with median consistency, and of the worst.
    """

    before: Pixels | None
    after: Pixels
    map: Sequence[str]
    consistency: NDArray[np.float64]
    crops: Sequence[Crops]


def result_page(report: Report, images: PageImages) -> str:
    """Render the report as an HTML document."""
    output, tiles, model = report.output, report.tiles, report.model
    parts = [
        _summary(report.summary, few=tiles.few_enhanced),
        f'<p class="notice"><strong>Computed image — not for primary diagnosis.</strong> '
        f"{escape(report.statement)}</p>",
        f"<p>{output.width:,} x {output.height:,} px, {output.mpp[0]:.5g} µm per pixel, made by "
        f"<b>{escape(model.name)}</b> (x{model.scale}) from level {report.plan.level} of the source. "
        f"{tiles.tissue:,} of {tiles.total:,} tiles have tissue. {escape(_chosen(model))}</p>",
        *(f'<p class="warning"><b>Warning:</b> {escape(warning)}</p>' for warning in report.warnings),
        _overview(images),
        _crops(images.crops, model.name),
        "<h2>Tiles</h2>",
        _map(images.map),
        _consistency(tiles.consistency, images.consistency),
        _seam(report.seam, exact=model.tiles_join_exactly),
        _bad(tiles.bad),
        "<h2>How it was made</h2>",
        _facts(report),
    ]
    return page("Super-resolution report", "\n".join(parts))


def _summary(words: str, *, few: bool) -> str:
    return f'<p class="{"warning" if few else "summary"}"><strong>{escape(words)}</strong></p>'


def _chosen(model: ModelReport) -> str:
    """Why this model was chosen, or what gain to expect of it."""
    if model.chosen_because:
        return f"Recommended: {model.chosen_because}"
    return f"On such sources: {model.expectation}." if model.expectation else ""


def _overview(images: PageImages) -> str:
    before = (
        "<p>The source has no level small enough for a thumbnail.</p>"
        if images.before is None
        else picture(images.before, "the source, made small", "source", lossless=False)
    )
    after = picture(images.after, "the result, made small", "result", lossless=False)
    return f'<h2>Before and after</h2><div class="pictures">{before}{after}</div>'


def _crops(crops: Sequence[Crops], model: str) -> str:
    if not crops:
        return ""
    words = ("median",) if len(crops) == 1 else ("median", "worst")
    parts = [
        "<h2>At full resolution</h2><p>Chosen by rule: of the tile with the median consistency the square in which "
        "grey levels vary most, and of the worst tile its worst square.</p>"
    ]
    for word, crop in zip(words, crops, strict=True):
        place, zoom = crop.place, crop.result.shape[1] / crop.source.shape[1]
        where = f"x {place.x}, y {place.y} of the result, {place.width} x {place.height} px"
        pictures = [
            picture(crop.source, f"source at {where}, each pixel a square", "source, each pixel a square", zoom),
            picture(crop.bicubic, f"bicubic enlargement at {where}", "bicubic, for comparison"),
            picture(crop.result, f"result at {where}", f"result, {model}"),
        ]
        parts.append(
            f"<h3>{word.capitalize()} consistency: {crop.rmse:.2f} grey levels</h3><p>Tile in row {crop.row}, column "
            f'{crop.column}; {where}.</p><div class="pictures">{"".join(pictures)}</div>'
        )
    return "".join(parts)


def _map(rows: Sequence[str]) -> str:
    letters = np.array([list(row) for row in rows])
    colours = np.zeros((*letters.shape, 3), np.uint8)
    items = []
    for mark, (words, colour) in _MARKS.items():
        cells = letters == str(mark)
        colours[cells] = colour
        if cells.any():
            red, green, blue = colour
            items.append(
                f'<li><span class="swatch" style="background:rgb({red},{green},{blue})"></span>'
                f"{escape(words)}: {int(cells.sum()):,}</li>"
            )
    counted = "map of the tiles: " + ", ".join(
        f"{int((letters == str(mark)).sum())} {words}" for mark, (words, _) in _MARKS.items()
    )
    shown = picture(_drawn(colours), counted, "each square is a tile")
    return f'<ul class="legend">{"".join(items)}</ul><div class="framed">{shown}</div>'


def _consistency(consistency: ConsistencyReport | None, grid: NDArray[np.float64]) -> str:
    if consistency is None:
        return "<h3>Downscale-consistency</h3><p>No tile went through the model.</p>"
    worst, greatest = consistency.worst, max(float(np.nanmax(grid)), 1e-6)
    mean, median, p95 = consistency.mean, consistency.median, consistency.p95
    x, y, width, height = worst.output_region
    alt = f"map of consistency: median {median:.2f}, greatest {worst.rmse:.2f} grey levels"
    return (
        f"<h3>Downscale-consistency</h3><p>{escape(consistency.explanation)}</p>"
        f"<p>{consistency.measured:,} tiles: mean {mean:.2f}, median {median:.2f}, 95 % of them under {p95:.2f}, "
        f"worst {worst.rmse:.2f} (row {worst.row}, column {worst.column}; x {x}, y {y}, "
        f"{width} x {height} px of the result).</p>{heat_scale(greatest, 'grey levels')}"
        f'<div class="framed">{picture(_drawn(heat(grid, greatest)), alt, "light grey: not through the model")}</div>'
    )


def _seam(seam: SeamReport, *, exact: bool) -> str:
    kind = (
        "Tiles of this model join exactly: each pixel is the same as without tiles."
        if exact
        else "Tiles of this model are cross-faded, since its output depends on more context than a tile has."
    )
    if seam.figure is None:
        figure = "There is no border between tiles with tissue to be measured."
    else:
        parts = "" if seam.source is None else f" (result {seam.result:.2f}, source {seam.source:.2f})"
        figure = f"<b>{seam.figure:.2f}</b>{parts}, over {seam.pixels:,} pixels along borders."
    return f"<h3>Seams</h3><p>{figure} {kind}</p><p>{escape(seam.explanation)}</p>"


def _bad(bad: Sequence[BadTileReport]) -> str:
    if not bad:
        return "<h3>Bad tiles</h3><p>None: every tile was read and computed as planned.</p>"
    rows = "".join(
        f'<tr><th scope="row">{tile.row}, {tile.column}</th><td>{_region(tile.region)}</td>'
        f"<td>{_region(tile.affected)}</td><td>{escape(tile.cause)}; {escape(tile.remedy)}</td></tr>"
        for tile in bad[:_MOST_BAD]
    )
    more = f"<p>And {len(bad) - _MOST_BAD:,} more, in the report as JSON.</p>" if len(bad) > _MOST_BAD else ""
    return (
        '<h3>Bad tiles</h3><div class="scroll" tabindex="0" role="region" aria-label="Bad tiles"><table class="words">'
        f"<caption>{len(bad):,} tiles; regions are x, y, width, height in pixels of the source's level.</caption>"
        '<thead><tr><th scope="col">row, column</th><th scope="col">tile</th><th scope="col">affected</th>'
        f'<th scope="col">what happened</th></tr></thead><tbody>{rows}</tbody></table></div>{more}'
    )


def _facts(report: Report) -> str:
    tables: dict[str, Mapping[str, str | None]] = {
        "Model": _model_facts(report.model),
        "Plan": _plan_facts(report),
        "Time": _times(report),
        "Hashes (SHA-256)": _hashes(report),
    }
    return "".join(_table(title, values) for title, values in tables.items())


def _model_facts(model: ModelReport) -> dict[str, str | None]:
    return {
        "name": model.name,
        "what it is": model.description,
        "architecture": model.architecture and f"{model.architecture}, {model.parameters or 0:,} parameters",
        "trained for sources of": "{:g} to {:g} µm per pixel".format(*model.source_mpp) if model.source_mpp else None,
        "trained on": model.trained_on,
        "licence": model.licence,
        "citation": model.citation,
        "tiles": "join exactly" if model.tiles_join_exactly else "are cross-faded",
        "back-projection": "one step after the network corrects the result by the source"
        if model.back_projection
        else None,
        "computed in": f"{model.precision} on {model.device.partition(':')[0]}",
        "notes": model.notes,
    }


def _plan_facts(report: Report) -> dict[str, str | None]:
    slide, output, plan, source = report.slide, report.output, report.plan, report.plan.source
    return {
        "source": f"{slide.width:,} x {slide.height:,} px, {slide.mpp_used[0]:.5g} µm per pixel"
        + (f", objective {slide.objective:g}x" if slide.objective else ""),
        "level, region": f"{plan.level}; x {source.x}, y {source.y}, {source.width:,} x {source.height:,} px",
        "tile": f"{plan.core} px, with {plan.halo} px of context"
        + (f"; cross-faded over {plan.fade} px" if plan.fade else ""),
        "least entropy of tissue": f"{plan.entropy:g} bits",
        "result": f"{output.format}, {len(output.levels)} levels"
        + (f", JPEG quality {output.quality}" if output.format == "ome-tiff" else ", lossless"),
        "colour profile": "carried over, without its texts" if output.icc_profile_carried_over else "none",
        "software": report.software,
        "incidents": "; ".join(report.incidents) or None,
    }


def _times(report: Report) -> dict[str, str | None]:
    times: dict[str, str | None] = {stage: f"{value:.1f} s" for stage, value in asdict(report.seconds_by_stage).items()}
    if report.stripes.resumed:
        times["note"] = f"{report.stripes.resumed} of {report.stripes.total} stripes were made before"
    if report.device_busy is not None:
        times["model computing"] = f"{report.device_busy:.0%} of upscaling"
    return times


def _hashes(report: Report) -> dict[str, str | None]:
    return {
        "source": report.slide.sha256,
        "weights": report.model.weights_sha256,
        "model's fingerprint": report.model.fingerprint,
        "result": report.output.sha256,
        "result's UUID": report.output.uuid,
    }


def _table(title: str, values: Mapping[str, str | None]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in values.items()
        if value
    )
    return f'<table class="words"><caption><b>{escape(title)}</b></caption><tbody>{rows}</tbody></table>'


def _region(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _drawn(cells: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw each tile as a square, so that the longer side has about `_MAP` pixels."""
    side = max(1, _MAP // max(cells.shape[:2]))
    return cells.repeat(side, axis=0).repeat(side, axis=1)
