"""One stripe of the plan: read -> batch -> upscale -> blend -> write, into one segment.

A pure function of (slide, plan, stripe number): whoever computes it, in whatever order, the bytes are the same.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from slidelift.models.errors import NonFiniteOutputError
from slidelift.models.interpolate import Interpolator
from slidelift.models.metrics.consistency import MAX_BLOCK_RMSE, mean_consistency, worst_block
from slidelift.models.upscaler import PatchUpscaler
from slidelift.service.pipeline.progress import CancelToken, Tally
from slidelift.wsi.blending import Upscaled, blender_for
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.pyramid import PyramidBuilder, level_sizes, levels_in_stripe
from slidelift.wsi.seam import SeamGauge
from slidelift.wsi.slide import Pixels, SlideReader
from slidelift.wsi.tiler import BadTile, PatchBatch, Tiler
from slidelift.wsi.tiling import Stripe, Tile, TilePlan
from slidelift.wsi.writers.formats import get_format
from slidelift.wsi.writers.segment import Segment, SegmentWriter, detect_blank

Encode = Callable[[Pixels], Sequence[bytes]]
Advance = Callable[[Tally, float | None], None]
"""Called with the tiles that were just finished, and the seconds for which the model computed."""
_Patch = tuple[Tile, Pixels, bool]

UNREADABLE = "it can't be decoded"
"""The decoder's own words may name the file or quote it, and have no place in a report that is passed on."""

# Background waits for a batch of tissue to fill up at most this long.
_QUEUE = 64
# Encoded tiles in flight: bounds memory to about 50 MB of pixels.
_ENCODING = 64
# Tiles of background resampled ahead, 4 MB each.
_PLAIN = 2 * (os.cpu_count() or 1)


class Mark(StrEnum):
    """What became of a tile, as one letter of the map."""

    TISSUE = "t"
    REJECTED = "r"
    GLASS = "g"
    OUTSIDE = "o"
    STRAYED = "s"
    BAD = "b"


COMPUTED = (Mark.TISSUE, Mark.STRAYED, Mark.BAD)
"""Tissue tiles. A tile that could not be read counts as one, since nothing says that it has no tissue."""


STRAYED_MODEL = "the model drew what its source does not hold"


@dataclass(slots=True)
class StripeReport:
    """What happened in one stripe; stored in its segment, so that a resumed job still tells it.

    Attributes
    ----------
    number
        The stripe's.
    map
        A string a row of tiles, a letter of `Mark` a tile; a tile outside a region of interest is glass here.
    consistency
        Row, column and RMSE in grey levels (`models.metrics.consistency.mean_consistency`) of each tile's core that the
        model made, before cross-fading.
    seam
        See `wsi.seam.SeamGauge`.
    bad_tiles
        Each with the names of `TOLD`.
    """

    number: int
    map: list[str] = field(default_factory=list)
    consistency: list[tuple[int, int, float]] = field(default_factory=list)
    seam: dict[str, Any] = field(default_factory=dict)
    bad_tiles: list[dict[str, Any]] = field(default_factory=list)
    incidents: list[str] = field(default_factory=list)


def tally(segment: Segment) -> Tally:
    """The tiles of a finished stripe, and the bytes of its file."""
    letters = "".join(segment.report["map"])
    computed = sum(letters.count(mark) for mark in COMPUTED)
    return Tally(len(letters), len(letters) - letters.count(Mark.GLASS), computed, segment.path.stat().st_size)


@dataclass(frozen=True, slots=True)
class StripeOrder:
    """What a stripe's bytes depend on besides the slide and the weights; plain values, that can be sent.

    Attributes
    ----------
    format, quality
        The output format's name, and its JPEG quality.
    mark_bad
        A tile that can't be read, or for which the network answers no number, is resampled plainly and reported,
        instead of failing the job.
    """

    plan: TilePlan
    format: str
    quality: int
    mark_bad: bool

    @property
    def levels(self) -> int:
        """How many pyramid levels a stripe completes by itself."""
        return levels_in_stripe(self.plan.stripe_height, len(level_sizes(self.plan.output)))

    @property
    def more_levels(self) -> bool:
        """Whether coarser ones follow, for which raw rows are kept."""
        return len(level_sizes(self.plan.output)) > self.levels


@dataclass(frozen=True, slots=True)
class _Answer:
    """A tile's enlarged patch, and whether the model made it."""

    upscaled: Upscaled
    by_model: bool


@dataclass(frozen=True, slots=True)
class _Group:
    """Patches in the plan's order, and what becomes of those with tissue, with the seconds that the model took."""

    patches: Sequence[_Patch]
    results: Future[tuple[Sequence[_Answer], float]]


@dataclass(frozen=True, slots=True)
class _Finished:
    """A tile, what it was made from, and what was made of it."""

    tile: Tile
    patch: Pixels
    answer: _Answer


@contextmanager
def stripe_work(
    order: StripeOrder,
    reader: SlideReader,
    upscaler: PatchUpscaler,
    advance: Advance,
    cancel: CancelToken,
) -> Iterator["StripeWork"]:
    """What makes the stripes of an order, one after another; its threads end with the context."""
    plan = order.plan
    plain = upscaler if isinstance(upscaler, Interpolator) else Interpolator("bicubic", plan.scale)
    encode = get_format(order.format).encoder(order.quality)
    with (
        closing(Tiler(reader, plan, mark_bad=order.mark_bad)) as tiler,
        ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="encode") as encoders,
        ThreadPoolExecutor(1, thread_name_prefix="network") as network,
    ):
        try:
            yield StripeWork(order, tiler, upscaler, plain, encode, network, encoders, advance, cancel)
        finally:
            network.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class StripeWork:
    """All that is opened for the stripes of one order; made by `stripe_work`.

    Attributes
    ----------
    upscaler, plain
        For tissue, and for what is rejected.
    advance
        Called from the thread that runs the stripe.
    """

    order: StripeOrder
    tiler: Tiler
    upscaler: PatchUpscaler
    plain: PatchUpscaler
    encode: Encode
    network: ThreadPoolExecutor
    encoders: ThreadPoolExecutor
    advance: Advance
    cancel: CancelToken

    @property
    def plan(self) -> TilePlan:
        return self.order.plan

    def run(self, stripe: Stripe, path: Path) -> None:
        """Make the stripe's segment at `path`.

        Raises
        ------
        TileReadError, NonFiniteOutputError
            A tile can't be read or computed, and is not to be marked.
        Cancelled
            Somebody asked to stop; nothing is left behind.
        """
        report, last_row = StripeReport(stripe.number), stripe.first_row + stripe.rows - 1
        blender, gauge = blender_for(self.plan, stripe), SeamGauge(self.plan)
        scores: list[tuple[Tile, Future[float]]] = []
        with SegmentWriter(path) as writer:
            encoding = Encoding(self.encoders, self.encode, writer)
            sizes = _stripe_sizes(stripe.output.size, self.order.levels)
            builder = PyramidBuilder(sizes, encoding.submit, keep_remainder=self.order.more_levels, pool=self.encoders)
            try:
                batches = self.tiler.rows(stripe.first_row, stripe.rows + blender.extra_rows)
                for done in self._upscaled(batches, last_row, report):
                    if done.answer.by_model and done.tile.row <= last_row:
                        scores.append((done.tile, self.encoders.submit(self._consistency, done)))
                    for block in blender.add(done.tile, done.answer.upscaled):
                        builder.add(block.x, block.y - stripe.output.y, block.pixels)
                        gauge.add(done.tile, block, done.patch, counted=done.answer.by_model)
                builder.finish()
            finally:
                encoding.wait()
            report.bad_tiles.sort(key=lambda bad: (bad["row"], bad["column"]))
            report.map = _marked(report, stripe.first_row)
            report.consistency = [(tile.row, tile.column, round(score.result(), 2)) for tile, score in scores]
            report.seam = gauge.as_dict()
            report.incidents += self.upscaler.incidents
            self.upscaler.incidents.clear()
            writer.finish(builder.remainder, asdict(report))
        self.advance(Tally(bytes_written=path.stat().st_size), 0.0)

    def _upscaled(self, batches: Iterable[PatchBatch], last_row: int, report: StripeReport) -> Iterator[_Finished]:
        """Tiles in the plan's order; the network is one group ahead of what is yielded, in its own thread."""
        before: _Group | None = None
        for queue in self._queues(batches, report, last_row):
            self.cancel.raise_if_cancelled()
            seen = [(tile, patch) for tile, patch, tissue in queue if tissue]
            group = _Group(queue, self.network.submit(self._timed, seen, report, last_row))
            if before is not None:
                yield from self._finished(before, last_row)
            before = group
        if before is not None:
            yield from self._finished(before, last_row)

    def _queues(self, batches: Iterable[PatchBatch], report: StripeReport, last_row: int) -> Iterator[list[_Patch]]:
        """Neighbouring patches of one row, `plan.batch` of them with tissue where the row has as many."""
        queue: list[_Patch] = []
        for batch in batches:
            report.bad_tiles += [
                _told(bad, bad.unreadable, UNREADABLE, bad.remedy) for bad in batch.bad if bad.row <= last_row
            ]
            for tile, patch, tissue in zip(batch.tiles, batch.pixels, batch.tissue.tolist(), strict=True):
                if tile.row <= last_row:
                    mark = Mark.TISSUE if tissue else Mark.REJECTED if tile.maybe_tissue else Mark.GLASS
                    if tile.column == 0:
                        report.map.append("")
                    report.map[-1] += mark
                queue.append((tile, patch, tissue))
                waiting = sum(entry[2] for entry in queue)
                row_ends = tile.column == self.plan.columns - 1
                if waiting == self.plan.batch or len(queue) == _QUEUE or row_ends:
                    yield queue
                    queue = []

    def _finished(self, group: _Group, last_row: int) -> Iterator[_Finished]:
        answers, seconds = group.results.result()
        seen = iter(answers)
        plain = self._ahead(patch for _, patch, tissue in group.patches if not tissue)
        for tile, patch, tissue in group.patches:
            yield _Finished(tile, patch, next(seen) if tissue else _Answer(next(plain), by_model=False))
        counted = [(tile, tissue) for tile, _, tissue in group.patches if tile.row <= last_row]
        passed, computed = sum(tile.maybe_tissue for tile, _ in counted), sum(tissue for _, tissue in counted)
        self.advance(Tally(len(counted), passed, computed), seconds)

    def _consistency(self, done: _Finished) -> float:
        return mean_consistency(*self._core(done.tile, done.patch, done.answer.upscaled))

    def _timed(
        self, seen: Sequence[tuple[Tile, Pixels]], report: StripeReport, last_row: int
    ) -> tuple[Sequence[_Answer], float]:
        started = time.monotonic()
        return self._infer(seen, report, last_row), time.monotonic() - started if seen else 0.0

    def _infer(self, seen: Sequence[tuple[Tile, Pixels]], report: StripeReport, last_row: int) -> Sequence[_Answer]:
        if not seen:
            return ()
        self.cancel.raise_if_cancelled()
        try:
            drawn = zip(seen, self.upscaler(np.stack([patch for _, patch in seen])), strict=True)
            return [self._believed(tile, patch, one, report, last_row) for (tile, patch), one in drawn]
        except NonFiniteOutputError as error:
            tile, patch = seen[error.index]
            where = f"tile ({tile.column}, {tile.row}) at x {tile.core.x}, y {tile.core.y} of level {self.plan.level}"
            if not self.order.mark_bad:
                raise NonFiniteOutputError(f"{where}: {error}", error.index) from error
            if tile.row <= last_row:
                report.bad_tiles.append(_told(tile, tile.core, str(error), "tile resampled plainly"))
            before, after = seen[: error.index], seen[error.index + 1 :]
            return [
                *self._infer(before, report, last_row),
                _Answer(self._plain(patch), by_model=False),
                *self._infer(after, report, last_row),
            ]

    def _believed(self, tile: Tile, patch: Pixels, upscaled: Upscaled, report: StripeReport, last_row: int) -> _Answer:
        """What the model drew, unless that is not its source: then the source, resampled plainly, and a word of it."""
        if isinstance(self.upscaler, Interpolator) or worst_block(*self._core(tile, patch, upscaled)) < MAX_BLOCK_RMSE:
            return _Answer(upscaled, by_model=True)
        if tile.row <= last_row:
            report.bad_tiles.append(_told(tile, tile.core, STRAYED_MODEL, "tile resampled plainly"))
        return _Answer(self._plain(patch), by_model=False)

    def _core(self, tile: Tile, patch: Pixels, upscaled: Upscaled) -> tuple[Upscaled, Pixels]:
        """A tile's core in the result, with whatever the blender will still fade, and in its source."""
        scale, core = self.plan.scale, tile.core
        top, left = core.y - tile.patch.y, core.x - tile.patch.x
        rows = slice(top * scale, (top + core.height) * scale)
        columns = slice(left * scale, (left + core.width) * scale)
        return upscaled[rows, columns], patch[top : top + core.height, left : left + core.width]

    def _ahead(self, patches: Iterable[Pixels]) -> Iterator[Pixels]:
        """As `_plain`, in order, a few at a time in the encoders' threads."""
        begun: deque[Future[Pixels]] = deque()
        for patch in patches:
            begun.append(self.encoders.submit(self._plain, patch))
            if len(begun) > _PLAIN:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()

    def _plain(self, patch: Pixels) -> Pixels:
        """Without the network; the part of the halo that the filter does not need stays black and is cropped."""
        spare = self.plan.halo - self.plain.halo
        inner = patch[spare : patch.shape[0] - spare, spare : patch.shape[1] - spare]
        scaled = self.plain(inner[None])[0]
        return np.pad(scaled, ((spare * self.plan.scale,) * 2, (spare * self.plan.scale,) * 2, (0, 0)))


def _marked(report: StripeReport, first_row: int) -> list[str]:
    """The map with its bad tiles."""
    rows = [list(row) for row in report.map]
    for bad in report.bad_tiles:
        rows[bad["row"] - first_row][bad["column"]] = Mark.STRAYED if bad["cause"] == STRAYED_MODEL else Mark.BAD
    return ["".join(row) for row in rows]


TOLD = ("row", "column", "region", "affected", "cause", "remedy")
"""What is told of a bad tile."""


def _told(tile: BadTile | Tile, unreadable: Region, cause: str, remedy: str) -> dict[str, Any]:
    core = tile.core
    region = [core.x, core.y, core.width, core.height]
    affected = [unreadable.x, unreadable.y, unreadable.width, unreadable.height]
    return dict(zip(TOLD, (tile.row, tile.column, region, affected, cause, remedy), strict=True))


def _stripe_sizes(output: Size, levels: int) -> tuple[Size, ...]:
    return tuple(output.halved(level) for level in range(levels))


class Encoding:
    """Encodes tiles on a pool and hands them to the segment; at most `_ENCODING` at a time."""

    def __init__(self, pool: ThreadPoolExecutor, encode: Encode, writer: SegmentWriter) -> None:
        self._pool, self._encode, self._writer = pool, encode, writer
        self._free = threading.Semaphore(_ENCODING)
        self._futures: list[Future[None]] = []

    def submit(self, level: int, row: int, column: int, tile: Pixels) -> None:
        self._free.acquire()
        if len(self._futures) > 4 * _ENCODING:
            self._settle([future for future in self._futures if future.done()])
        self._futures.append(self._pool.submit(self._run, level, row, column, tile))

    def wait(self) -> None:
        """All is written; raises what went wrong first."""
        self._settle(list(self._futures))

    def _settle(self, futures: list[Future[None]]) -> None:
        settled = set(futures)
        self._futures = [future for future in self._futures if future not in settled]
        for future in futures:
            future.result()

    def _run(self, level: int, row: int, column: int, tile: Pixels) -> None:
        try:
            self._writer.put(level, row, column, detect_blank(tile) or self._encode(tile))
        finally:
            self._free.release()
