"""Decodes Deep Zoom tiles of slides, results and the finished stripes of unfinished results."""

import io
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image

from slidelift.service.errors import ServiceError, refusal
from slidelift.service.pipeline.image_source import ImageSource, TileFormat
from slidelift.service.pipeline.report import BadTileReport, PlanReport, Report, ReportError
from slidelift.service.pipeline.stripe_record import StripeRecord
from slidelift.service.pipeline.workspace import Workspace
from slidelift.wsi.deepzoom import DeepZoom
from slidelift.wsi.downsampling import exact_downsample, read_downsampled
from slidelift.wsi.errors import SegmentDamagedError, TileReadError
from slidelift.wsi.geometry import Size
from slidelift.wsi.pyramid import level_sizes, levels_in_stripe
from slidelift.wsi.readers.open_slide import open_slide
from slidelift.wsi.readers.result import open_result, open_segments
from slidelift.wsi.slide import Level, Pixels, SlideReader
from slidelift.wsi.tiling import TilePlan
from slidelift.wsi.writers.segment import Segment

JPEG_QUALITY = 90
"""After a change of this value, or of how tiles are made, increase `service.api.deepzoom.ENCODING`."""
# Images that stay open between tiles, and for how long after the last one: a deleted slide takes up its space on disk
# until it is closed.
_MAX_OPEN = 6
_IDLE_SECONDS = 30.0
# On the coarsest file systems two changes of a folder within this time have the same time of change.
_MTIME_RESOLUTION_NS = 2 * 10**9
_UNFINISHED_TILE = "."


@dataclass(slots=True)
class _OpenImage:
    reader: SlideReader
    used: float


@dataclass(slots=True)
class _UnfinishedResult:
    """The plan and the finished stripes of a job, as last read from its folder.

    Attributes
    ----------
    stamp
        Of the plan's file.
    segments
        By number and time of writing.
    scanned
        Time of the folder's last change when it was read; None if it may have changed since.
    """

    stamp: tuple[int, ...]
    plan: TilePlan
    segments: dict[tuple[int, int], Segment]
    scanned: int | None = None


class TileDecoder:
    """Decodes tiles and keeps recently used images open; for one thread. Memory: the readers of `_MAX_OPEN` images."""

    def __init__(self) -> None:
        self._open_images: OrderedDict[tuple[Any, ...], _OpenImage] = OrderedDict()
        self._unfinished: OrderedDict[Path, _UnfinishedResult] = OrderedDict()

    def tile(self, source: ImageSource, level: int, column: int, row: int, image_format: TileFormat) -> bytes:
        """Return one encoded Deep Zoom tile.

        Raises
        ------
        ServiceError
            view.tile if there is no such tile; job.not-finished if a job has no plan yet.
        WsiError
            The image can't be opened or the tile not decoded.
        """
        self._close_idle()
        reader = self._reader(source)
        try:
            pixels = self._tile(reader, level, column, row)
        except TileReadError:
            current = self._reader(source)  # raises if the stripes have gone: the job was finished or restarted
            if current is reader:
                raise
            pixels = self._tile(current, level, column, row)
        return _encode(pixels, image_format)

    def size(self, source: ImageSource) -> tuple[int, int]:
        """Return width and height of the finest level in pixels; raises as `tile` does."""
        self._close_idle()
        size = self._reader(source).info.size
        return size.width, size.height

    def map(self, source: ImageSource) -> dict[str, Any]:
        """Return a result's position on its slide, and the outcome of each of its tiles.

        Returns
        -------
        dict
            Plain values, the members of `service.api.schemas.MapOut`.

        Raises
        ------
        ServiceError
            job.not-finished if a job has no plan yet; job.no-result if the report is incomplete.
        WsiError
            The slide of an unfinished result can't be opened.
        """
        self._close_idle()
        return self._map_of_result(source) if source.kind == "result" else self._map_of_stripes(source)

    def close(self) -> None:
        """Close all images."""
        self._close_idle(math.inf)

    def _tile(self, reader: SlideReader, level: int, column: int, row: int) -> Pixels:
        zoom = DeepZoom(reader.info.size)
        region = zoom.tile(level, column, row)
        if region is None:
            size = zoom.size
            raise refusal("view.tile", f"no tile {column}_{row} of level {level} in {size.width} x {size.height} px")
        return read_downsampled(reader, zoom.downsample(level), region)

    def _reader(self, source: ImageSource) -> SlideReader:
        path, name = source.path, source.name
        match source.kind:
            case "slide":
                return self._opened((source.kind, path), lambda: open_slide(path, name))
            case "result":
                return self._opened((source.kind, path), lambda: open_result(path, str(source.format), name))
            case "stripes":
                plan, segments = self._stripes(path)
                sizes = level_sizes(plan.output)
                inside = sizes[: levels_in_stripe(plan.stripe_height, len(sizes))]
                segment_of = _by_number(segments).get
                return self._opened(
                    (source.kind, path, *segments),
                    lambda: open_segments(name, inside, str(source.format), plan.stripe_height, segment_of),
                )

    def _opened(self, key: tuple[Any, ...], opening: Callable[[], SlideReader]) -> SlideReader:
        if key not in self._open_images:
            self._open_images[key] = _OpenImage(opening(), 0.0)
        self._open_images.move_to_end(key)
        self._open_images[key].used = time.monotonic()
        while len(self._open_images) > _MAX_OPEN:
            self._open_images.popitem(last=False)[1].reader.close()
        return self._open_images[key].reader

    def _close_idle(self, before: float | None = None) -> None:
        """Close the images that were last used before a moment, by default `_IDLE_SECONDS` ago."""
        moment = time.monotonic() - _IDLE_SECONDS if before is None else before
        for key in [key for key, image in self._open_images.items() if image.used < moment]:
            self._open_images.pop(key).reader.close()
        if not self._open_images:
            self._unfinished.clear()

    def _stripes(self, output: Path) -> tuple[TilePlan, dict[tuple[int, int], Segment]]:
        """Return the plan of a job and its finished stripes by number and time of writing.

        They are read once, and again when the folder has changed: a job that was cancelled and is retried writes the
        same tiles again, in another order.
        """
        workspace, cached = Workspace(output), self._unfinished.pop(output, None)
        try:
            stamp = _stamp(workspace.folder / "plan.json")
            result = cached if cached and cached.stamp == stamp else _read_plan(workspace, stamp)
            changed = workspace.folder.stat().st_mtime_ns
        except FileNotFoundError:
            raise _not_planned() from None
        if result.scanned != changed:
            result.segments = _read_segments(workspace, result)
            result.scanned = changed if time.time_ns() - changed > _MTIME_RESOLUTION_NS else None
        self._unfinished[output] = result
        while len(self._unfinished) > _MAX_OPEN:
            self._unfinished.popitem(last=False)
        return result.plan, result.segments

    def _map_of_stripes(self, source: ImageSource) -> dict[str, Any]:
        plan, stripes = self._stripes(source.path)
        segments = _by_number(stripes)
        if source.slide is None:
            raise ValueError("stripes need the file of their slide")
        info = self._reader(ImageSource("slide", source.slide, source.name)).info
        records = [StripeRecord.of(segments[one.number]) if one.number in segments else None for one in plan.stripes()]
        rows: list[str] = []
        for stripe, record in zip(plan.stripes(), records, strict=True):
            rows += record.map if record else [_UNFINISHED_TILE * plan.columns] * stripe.rows
        finished = [record for record in records if record]
        scores: list[list[float | None]] = [[None] * plan.columns for _ in range(plan.rows)]
        for row, column, rmse in (score for record in finished for score in record.consistency):
            scores[row][column] = rmse
        return {
            "complete": False,
            "stripes": [record is not None for record in records],
            **_placement(plan, info.levels, source.mpp or info.mpp),
            "map": rows,
            "consistency": scores,
            "bad": _bad_tiles([bad for record in finished for bad in record.bad_tiles]),
        }

    def _map_of_result(self, source: ImageSource) -> dict[str, Any]:
        if source.report is None:
            raise ValueError("a result needs the file of its report")
        try:
            report = Report.from_bytes(source.report.read_bytes())
        except ReportError as error:
            raise refusal("job.no-result", f"the job's report is damaged ({error}); post the job again") from error
        slide, tiles = report.slide, report.tiles
        levels = [Level(Size(one.width, one.height), one.downsample) for one in slide.levels]
        grid = tiles.consistency.grid if tiles.consistency else [[None] * len(row) for row in tiles.map]
        return {
            "complete": True,
            "stripes": [True] * report.stripes.total,
            **_placement(report.plan, levels, slide.mpp_used),
            "map": tiles.map,
            "consistency": grid,
            "bad": _bad_tiles(tiles.bad),
        }


def _stamp(path: Path) -> tuple[int, ...]:
    """Values of which at least one differs after a file was replaced."""
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _read_plan(workspace: Workspace, stamp: tuple[int, ...]) -> _UnfinishedResult:
    state = workspace.state()
    if state is None:
        raise _not_planned()
    return _UnfinishedResult(stamp, TilePlan.from_dict(state["plan"]), {})


def _not_planned() -> ServiceError:
    return refusal("job.not-finished", "the job has not planned its tiles yet, so it can't be shown")


def _read_segments(workspace: Workspace, result: _UnfinishedResult) -> dict[tuple[int, int], Segment]:
    """Open the segments that exist and are undamaged; those already open are kept."""
    segments = {}
    for stripe in result.plan.stripes():
        path = workspace.segment_path(stripe.number)
        with suppress(FileNotFoundError, IsADirectoryError, SegmentDamagedError):
            key = stripe.number, path.stat().st_mtime_ns
            segments[key] = result.segments.get(key) or Segment(path)
    return segments


def _by_number(stripes: dict[tuple[int, int], Segment]) -> dict[int, Segment]:
    return {number: segment for (number, _), segment in stripes.items()}


def _placement(plan: TilePlan | PlanReport, levels: Sequence[Level], mpp: Sequence[float] | None) -> dict[str, Any]:
    """Position of the result on the slide, in pixels of the slide's finest level, and the result's size."""
    source, scale = plan.source, plan.scale
    step = exact_downsample(levels[plan.level], levels)
    return {
        "place": [edge * step for edge in source.as_box()],
        "width": source.width * scale,
        "height": source.height * scale,
        "tile": plan.core * scale,
        "scale": scale,
        "mpp": [value * step / scale for value in mpp] if mpp else None,
    }


def _bad_tiles(tiles: Sequence[BadTileReport]) -> list[dict[str, Any]]:
    return [{"row": one.row, "column": one.column, "cause": one.cause, "remedy": one.remedy} for one in tiles]


def _encode(tile: Pixels, image_format: TileFormat) -> bytes:
    if image_format is TileFormat.PNG:
        if tile.shape[2] == 4:  # a pixel without finished source pixels has no colour
            tile = tile * (tile[..., 3:] == 255)
        file = io.BytesIO()
        Image.fromarray(tile).save(file, "PNG", compress_level=1)
        return file.getvalue()
    if tile.shape[2] == 4:
        raise refusal("view.tile", "tiles of an unfinished result are png only, since jpeg has no transparency")
    # 4:4:4, since viewers enlarge the source, where halved colour resolution is visible.
    return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(tile), level=JPEG_QUALITY, subsampling="444"))
