"""What a viewer may look at: slides, results, and what is finished of a result in the making."""

import base64
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
"""A change of it, or of how tiles are made, wants another `service.api.deepzoom.ENCODING`."""
# Slides that stay open between tiles, and for how long after the last one: a slide that was deleted takes up its room
# on disk until it is closed.
_OPEN = 6
_IDLE_SECONDS = 30.0
# A folder's stamp says of two changes that follow one another this closely only the first, on the coarsest clocks.
_SETTLED_NS = 2 * 10**9
_NOT_YET = "."


@dataclass(slots=True)
class _Opened:
    reader: SlideReader
    used: float


@dataclass(slots=True)
class _Making:
    """The plan and the finished stripes of a job, as they were last read from its folder.

    Attributes
    ----------
    stamp
        Of the plan's file.
    segments
        By number and time of writing.
    scanned
        The time of the folder's last change when it was looked through, None where it may have changed since.
    """

    stamp: tuple[int, ...]
    plan: TilePlan
    segments: dict[tuple[int, int], Segment]
    scanned: int | None = None


class TileDecoder:
    """Keeps what is looked at open; memory is bounded by the readers of `_OPEN` slides. For one thread."""

    def __init__(self) -> None:
        self._opened: OrderedDict[tuple[Any, ...], _Opened] = OrderedDict()
        self._makings: OrderedDict[Path, _Making] = OrderedDict()

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Answer one question of the parent's side, `service.processes.viewer_pool`.

        Parameters
        ----------
        question
            ``what`` is "tile", "size" or "map"; ``of`` names a slide, a result or a job
            (`service.processes.viewer_pool.ImageSource`).

        Raises
        ------
        WsiError, ServiceError
            It can't be opened, decoded or found.
        """
        self._close_older_than(time.monotonic() - _IDLE_SECONDS)
        source = question["of"]
        if question["what"] == "map":
            return {"map": self._finished_map(source) if source["kind"] == "result" else self._growing_map(source)}
        reader = self._reader(source)
        if question["what"] == "size":
            size = reader.info.size
            return {"size": [size.width, size.height]}
        place = question["level"], question["column"], question["row"]
        try:
            tile = self._tile(reader, *place)
        except TileReadError:
            now = self._reader(source)  # refuses where stripes have gone since: the job was finished, or began anew
            if now is reader:
                raise
            tile = self._tile(now, *place)
        return {"tile": base64.b64encode(_encoded(tile, question["format"])).decode("ascii")}

    def close(self) -> None:
        """Close everything."""
        self._close_older_than(math.inf)

    def _tile(self, reader: SlideReader, level: int, column: int, row: int) -> Pixels:
        zoom = DeepZoom(reader.info.size)
        region = zoom.tile(level, column, row)
        if region is None:
            size = zoom.size
            raise refusal("view.tile", f"no tile {column}_{row} of level {level} in {size.width} x {size.height} px")
        return read_downsampled(reader, zoom.downsample(level), region)

    def _reader(self, source: dict[str, Any]) -> SlideReader:
        kind, path = source["kind"], Path(source["path"])
        if kind == "stripes":
            plan, segments = self._stripes(source)
            sizes = level_sizes(plan.output)
            inside = sizes[: levels_in_stripe(plan.stripe_height, len(sizes))]
            key: tuple[Any, ...] = (kind, path, *segments)
            return self._kept(
                key,
                lambda: open_segments(path.name, inside, source["format"], plan.stripe_height, _numbered(segments).get),
            )
        if kind == "result":
            return self._kept((kind, path), lambda: open_result(path, source["format"]))
        return self._kept((kind, path), lambda: open_slide(path))

    def _kept(self, key: tuple[Any, ...], opening: Callable[[], SlideReader]) -> SlideReader:
        if key not in self._opened:
            self._opened[key] = _Opened(opening(), 0.0)
        self._opened.move_to_end(key)
        self._opened[key].used = time.monotonic()
        while len(self._opened) > _OPEN:
            self._opened.popitem(last=False)[1].reader.close()
        return self._opened[key].reader

    def _close_older_than(self, moment: float) -> None:
        for key in [key for key, one in self._opened.items() if one.used < moment]:
            self._opened.pop(key).reader.close()
        if not self._opened:
            self._makings.clear()

    def _stripes(self, source: dict[str, Any]) -> tuple[TilePlan, dict[tuple[int, int], Segment]]:
        """The plan of a job and its finished stripes by number and time of writing; refuses while there is no plan.

        They are read once, and again when the folder has changed. A job that was cancelled and is tried again writes
        them anew: the same tiles, in another order.
        """
        output = Path(source["path"])
        workspace, known = Workspace(output), self._makings.pop(output, None)
        try:
            stamp = _stamp(workspace.folder / "plan.json")
            making = known if known and known.stamp == stamp else _planned(workspace, stamp)
            changed = workspace.folder.stat().st_mtime_ns
        except FileNotFoundError:
            raise _not_planned() from None
        if making.scanned != changed:
            making.segments = _finished(workspace, making)
            making.scanned = changed if time.time_ns() - changed > _SETTLED_NS else None
        self._makings[output] = making
        while len(self._makings) > _OPEN:
            self._makings.popitem(last=False)
        return making.plan, making.segments

    def _growing_map(self, source: dict[str, Any]) -> dict[str, Any]:
        plan, stripes = self._stripes(source)
        segments = _numbered(stripes)
        info = self._reader({"kind": "slide", "path": source["slide"]}).info
        records = [StripeRecord.of(segments[one.number]) if one.number in segments else None for one in plan.stripes()]
        rows: list[str] = []
        for stripe, record in zip(plan.stripes(), records, strict=True):
            rows += record.map if record else [_NOT_YET * plan.columns] * stripe.rows
        finished = [record for record in records if record]
        scores: list[list[float | None]] = [[None] * plan.columns for _ in range(plan.rows)]
        for row, column, rmse in (score for record in finished for score in record.consistency):
            scores[row][column] = rmse
        return {
            "complete": False,
            "stripes": [record is not None for record in records],
            **_placed(plan, info.levels, source["mpp"] or info.mpp),
            "map": rows,
            "consistency": scores,
            "bad": _bad([bad for record in finished for bad in record.bad_tiles]),
        }

    def _finished_map(self, source: dict[str, Any]) -> dict[str, Any]:
        try:
            report = Report.from_bytes(Path(source["report"]).read_bytes())
        except ReportError as error:
            raise refusal("job.no-result", f"the job's report is damaged ({error}); post the job again") from error
        slide, tiles = report.slide, report.tiles
        levels = [Level(Size(one.width, one.height), one.downsample) for one in slide.levels]
        grid = tiles.consistency.grid if tiles.consistency else [[None] * len(row) for row in tiles.map]
        return {
            "complete": True,
            "stripes": [True] * report.stripes.total,
            **_placed(report.plan, levels, slide.mpp_used),
            "map": tiles.map,
            "consistency": grid,
            "bad": _bad(tiles.bad),
        }


def _stamp(path: Path) -> tuple[int, ...]:
    """What is another where a file was replaced."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _planned(workspace: Workspace, stamp: tuple[int, ...]) -> _Making:
    state = workspace.state()
    if state is None:
        raise _not_planned()
    return _Making(stamp, TilePlan.from_dict(state["plan"]), {})


def _not_planned() -> ServiceError:
    return refusal("job.not-finished", "nothing of the job can be looked at before its tiles are planned")


def _finished(workspace: Workspace, making: _Making) -> dict[tuple[int, int], Segment]:
    """The stripes that are there and whole; of those that were known nothing is read again."""
    found = {}
    for stripe in making.plan.stripes():
        path = workspace.segment_path(stripe.number)
        with suppress(FileNotFoundError, IsADirectoryError, SegmentDamagedError):
            key = stripe.number, path.stat().st_mtime_ns
            found[key] = making.segments.get(key) or Segment(path)
    return found


def _numbered(stripes: dict[tuple[int, int], Segment]) -> dict[int, Segment]:
    return {number: segment for (number, _), segment in stripes.items()}


def _placed(plan: TilePlan | PlanReport, levels: Sequence[Level], mpp: Sequence[float] | None) -> dict[str, Any]:
    """Where the result lies on the slide, in pixels of the slide's finest level, and its own size."""
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


def _bad(tiles: Sequence[BadTileReport]) -> list[dict[str, Any]]:
    return [{"row": one.row, "column": one.column, "cause": one.cause, "remedy": one.remedy} for one in tiles]


def _encoded(tile: Pixels, image_format: str) -> bytes:
    if image_format == "png":
        if tile.shape[2] == 4:  # a mean that nothing has gone into yet is no colour
            tile = tile * (tile[..., 3:] == 255)
        file = io.BytesIO()
        Image.fromarray(tile).save(file, "PNG", compress_level=1)
        return file.getvalue()
    if tile.shape[2] == 4:
        raise refusal("view.tile", "of a result in the making there are png tiles alone: jpeg has no transparency")
    # 4:4:4, since a source is shown enlarged: halved colour would be seen, and held against it.
    return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(tile), level=JPEG_QUALITY, subsampling="444"))
