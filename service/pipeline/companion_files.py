"""The companion files of a result: tissue outlines as GeoJSON, and the report as an HTML page."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from slidelift.models.metrics.consistency import mean_consistency
from slidelift.service.pipeline.report import Report
from slidelift.service.pipeline.report_builder import ReportBuilder
from slidelift.service.pipeline.result_page import THUMBNAIL, Crops, PageImages, result_page
from slidelift.service.pipeline.targets import OUTLINES, PAGE, signed_outlines, signed_page
from slidelift.service.pipeline.tile_mark import TileMark
from slidelift.service.pipeline.workspace import Workspace
from slidelift.wsi.errors import TileReadError
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.outline import geojson
from slidelift.wsi.pyramid import level_sizes
from slidelift.wsi.slide import Pixels
from slidelift.wsi.tissue import grey_levels, thumbnail
from slidelift.wsi.verify import ReadResult, result_reader

_CROP = 80
"""Side of a crop in source pixels: nuclei are visible, and the page stays under 2 MB."""
_TISSUE, _STRAYED, _BAD = (68, 119, 170), (221, 136, 34), (204, 51, 17)


def write_companions(workspace: Workspace, builder: ReportBuilder, report: Report) -> None:
    """Write both files into the workspace, to be published with the result."""
    plan = builder.job.plan
    classes = {
        "Tissue": (builder.cells(TileMark.TISSUE), _TISSUE),
        "Not believed": (builder.cells(TileMark.STRAYED), _STRAYED),
        "Unreadable": (builder.cells(TileMark.BAD), _BAD),
    }
    outlines = geojson(classes, plan.core * plan.scale, plan.output)
    output = builder.job.request.output
    workspace.write_companion(OUTLINES, signed_outlines(outlines, output))
    with result_reader(workspace.result, builder.job.format.name) as read:
        images = _images(builder, read)
    workspace.write_companion(PAGE, signed_page(result_page(report, images), output))


def _images(builder: ReportBuilder, read: ReadResult) -> PageImages:
    job = builder.job
    scores = np.full((job.plan.rows, job.plan.columns), np.nan)
    for row, column, rmse in builder.scores:
        scores[row, column] = rmse
    crops = (
        _crops(builder, read, *score, weigh) for score, weigh in zip(builder.median_and_worst, _RULES, strict=False)
    )
    return PageImages(
        before=thumbnail(job.reader, job.plan.level, job.plan.source, THUMBNAIL),
        after=_small_result(level_sizes(job.plan.output), read),
        map=builder.map,
        consistency=scores,
        crops=tuple(crop for crop in crops if crop is not None),
    )


def _small_result(sizes: tuple[Size, ...], read: ReadResult) -> Pixels:
    level = max((i for i, size in enumerate(sizes) if max(size.width, size.height) >= THUMBNAIL), default=0)
    size = sizes[level]
    small = Image.fromarray(read(level, Region(0, 0, size.width, size.height)))
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
    return np.asarray(small)


def _varied(source: Pixels, _result: Pixels) -> float:
    return float(grey_levels(source).var())


_RULES: tuple[Callable[[Pixels, Pixels], float], ...] = (
    _varied,
    lambda source, result: mean_consistency(result, source),
)
"""Which square is shown: the most varied one of the median tile, and the worst one of the worst tile."""


def _crops(
    builder: ReportBuilder,
    read: ReadResult,
    row: int,
    column: int,
    rmse: float,
    weigh: Callable[[Pixels, Pixels], float],
) -> Crops | None:
    """Cut the square with the highest weight out of a tile; None where the source can't be read again."""
    plan = builder.job.plan
    core = plan.tile(row, column).core
    try:
        pixels = builder.job.reader.read_region(plan.level, core)
    except TileReadError:
        return None
    corner = builder.output_region(row, column)
    result = read(0, corner)
    square = max(_squares(core.size), key=lambda one: weigh(_cut(pixels, one), _cut(result, one.scaled(plan.scale))))
    source, place = _cut(pixels, square), square.scaled(plan.scale)
    enlarged = Image.fromarray(source).resize((place.width, place.height), Image.Resampling.BICUBIC)
    where = place.moved(corner.x, corner.y)
    return Crops(row, column, rmse, where, source, np.asarray(enlarged), _cut(result, place))


def _squares(size: Size) -> list[Region]:
    """Divide a tile into squares; a tile smaller than one square is shown whole."""
    width, height = min(_CROP, size.width), min(_CROP, size.height)
    return [
        Region(x, y, width, height)
        for y in range(0, size.height - height + 1, _CROP)
        for x in range(0, size.width - width + 1, _CROP)
    ]


def _cut(pixels: Pixels, region: Region) -> Pixels:
    return np.ascontiguousarray(pixels[region.y : region.bottom, region.x : region.right])
