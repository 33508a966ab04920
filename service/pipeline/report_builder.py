"""Builds the report of a finished job from its plan, its model and the records of its stripes."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidelift.models.zoo.catalog import ModelKind
from slidelift.service.pipeline.prepare import Prepared
from slidelift.service.pipeline.progress import Stage
from slidelift.service.pipeline.recommendation import expectation
from slidelift.service.pipeline.report import (
    BadTileReport,
    CompressionReport,
    ConsistencyReport,
    LevelReport,
    ModelReport,
    OutputReport,
    PlanReport,
    Report,
    SeamReport,
    SlideReport,
    StageSeconds,
    StripesReport,
    TilesReport,
    WorstTileReport,
)
from slidelift.service.pipeline.stripe_record import STRAYED_CAUSE, StripeRecord
from slidelift.service.pipeline.tile_mark import TISSUE_MARKS, TileMark
from slidelift.wsi.geometry import Region
from slidelift.wsi.provenance import NOT_FOR_DIAGNOSIS, software
from slidelift.wsi.result_hash import result_hash
from slidelift.wsi.seam import Seam
from slidelift.wsi.slide import SlideInfo
from slidelift.wsi.suffixes import suffix_of

SEAM_EXPLAINED = (
    "Mean difference of neighbouring pixels across the borders of tiles with tissue, divided by that across parallel "
    "lines inside them. This ratio is divided by that of the source, which may contain seams and blocks of its own. At "
    "1.00 the borders can't be distinguished from other lines. Measured before compression; borders between stripes "
    "are left out."
)
CONSISTENCY_EXPLAINED = (
    "RMSE over RGB, in grey levels of 255, between each source tile and the result reduced to its size by averaging. "
    "Measured for the tiles that the model made, before they are cross-faded or compressed. Bicubic interpolation also "
    "gives a few grey levels; check a tile whose value is far above the others."
)

FEW_ENHANCED = 0.9
"""`few_enhanced` is true if a smaller share of the tissue tiles was enhanced."""

STRAY_RMSE = 8.0
"""The report warns of a greater RMSE, in grey levels; bicubic enlargement of H&E has at most 4."""


@dataclass(slots=True)
class Stopwatch:
    """Measures the seconds of each stage; the last stage ends when `seconds` is called."""

    _stage: Stage | None = None
    _since: float = 0.0
    _spent: dict[Stage, float] = field(default_factory=dict)

    def enter(self, stage: Stage) -> None:
        """Begin a stage and end the previous one."""
        now = time.monotonic()
        if self._stage is not None:
            self._spent[self._stage] = self._spent.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now

    def seconds(self) -> StageSeconds:
        """Return the seconds of every stage."""
        if self._stage is not None:
            self.enter(self._stage)
        return StageSeconds(**{str(stage): round(self._spent.get(stage, 0.0), 3) for stage in Stage})


@dataclass(frozen=True)
class ReportBuilder:
    """A finished job, before its result is published.

    Attributes
    ----------
    stripes
        Records of all stripes, in order.
    resumed
        Number of stripes that were made by an earlier run.
    """

    job: Prepared
    stripes: Sequence[StripeRecord]
    resumed: int

    @cached_property
    def map(self) -> tuple[str, ...]:
        """One string per row, with one letter of `TileMark` per tile."""
        return tuple(row for stripe in self.stripes for row in stripe.map)

    def cells(self, mark: TileMark) -> NDArray[np.bool_]:
        """Return which tiles have the mark, as booleans (rows, columns)."""
        return np.array([[letter == mark for letter in row] for row in self.map])

    @cached_property
    def scores(self) -> tuple[tuple[int, int, float], ...]:
        """Row, column and consistency of each tile that the model made."""
        return tuple(score for stripe in self.stripes for score in stripe.consistency)

    @cached_property
    def bad_tiles(self) -> tuple[BadTileReport, ...]:
        """Tiles that were not read or not computed as planned."""
        return tuple(bad for stripe in self.stripes for bad in stripe.bad_tiles)

    @cached_property
    def tiles(self) -> TilesReport:
        """Counts, map and consistency of the tiles."""
        counts = {mark: sum(row.count(mark) for row in self.map) for mark in TileMark}
        tissue = sum(counts[mark] for mark in TISSUE_MARKS)
        return TilesReport(
            total=self.job.plan.rows * self.job.plan.columns,
            tissue=tissue,
            enhanced=counts[TileMark.TISSUE],
            strayed=counts[TileMark.STRAYED],
            failed=counts[TileMark.BAD],
            rejected=counts[TileMark.REJECTED],
            glass=counts[TileMark.GLASS],
            outside=counts[TileMark.OUTSIDE],
            few_enhanced=counts[TileMark.TISSUE] < FEW_ENHANCED * tissue,
            map=self.map,
            consistency=self._consistency(),
            bad=self.bad_tiles,
        )

    @property
    def summary(self) -> str:
        """One sentence: how many of the tissue tiles the model enhanced."""
        tissue, enhanced = self.tiles.tissue, self.tiles.enhanced
        if not tissue:
            return f"No tissue was found: the model enhanced 0 of {self.tiles.total:,} tiles."
        subject = "The model" if self.job.card.kind is ModelKind.NETWORK else "The interpolation"
        return f"{subject} enhanced {enhanced:,} of {tissue:,} tissue tiles."

    @property
    def median_and_worst(self) -> tuple[tuple[int, int, float], ...]:
        """The scores with the median and the worst consistency; of equal ones the topmost, then the leftmost."""
        if not self.scores:
            return ()
        worst = min(self.scores, key=lambda score: (-score[2], score))
        ranked = sorted(self.scores, key=lambda score: (score[2], score))
        middle = ranked[(len(ranked) - 1) // 2]
        return (middle,) if middle == worst else (middle, worst)

    def output_region(self, row: int, column: int) -> Region:
        """A tile's core in pixels of the result."""
        plan = self.job.plan
        return plan.tile(row, column).core.moved(-plan.source.x, -plan.source.y).scaled(plan.scale)

    def build(
        self,
        result: Path,
        device_busy: float | None,
        watch: Stopwatch,
        started: float,
        between: Callable[[], None],
    ) -> Report:
        """Build the report.

        Parameters
        ----------
        result
            The finished file or folder, which is hashed.
        started
            Value of `time.monotonic` at the start of the job.
        between
            Called repeatedly while the result is hashed; may raise to stop.
        """
        sha256 = result_hash(result, between)
        return Report(
            summary=self.summary,
            software=software(),
            statement=NOT_FOR_DIAGNOSIS,
            slide=self._slide(),
            model=self._model(),
            output=self._output(sha256),
            plan=self._plan(),
            tiles=self.tiles,
            seam=self._seam(),
            stripes=StripesReport(len(self.stripes), self.resumed),
            seconds_by_stage=watch.seconds(),
            device_busy=_rounded(device_busy, 3),
            warnings=(*self.job.warnings, *self._warnings_of_high_errors(), *self._warnings_of_strayed_tiles()),
            incidents=tuple(incident for stripe in self.stripes for incident in stripe.incidents),
            seconds=round(time.monotonic() - started, 3),
        )

    def _slide(self) -> SlideReport:
        info, provenance = self.job.reader.info, self.job.provenance
        return SlideReport(
            sha256=provenance.source_sha256,
            width=info.size.width,
            height=info.size.height,
            mpp=info.mpp,
            objective=info.objective,
            vendor=info.vendor,
            reader=info.reader,
            levels=tuple(LevelReport(level.size.width, level.size.height, level.downsample) for level in info.levels),
            bounds=info.bounds.as_box() if info.bounds else None,
            icc_profile_bytes=len(info.icc_profile) if info.icc_profile else 0,
            warnings=info.warnings,
            compression=_compression(info),
            mpp_used=provenance.source_mpp,
        )

    def _model(self) -> ModelReport:
        upscaler, card = self.job.upscaler, self.job.card
        expected = expectation(card, self.job.reader.info)
        return ModelReport(
            name=upscaler.name,
            fingerprint=upscaler.fingerprint,
            weights_sha256=card.sha256,
            precision=upscaler.precision,
            device=upscaler.device,
            tiles_join_exactly=upscaler.exact,
            kind=str(card.kind),
            architecture=card.architecture,
            parameters=card.parameters,
            scale=upscaler.scale,
            source_mpp=card.source_mpp,
            chosen_because=self.job.chosen_because,
            expectation=expected.text if expected else None,
            brightfield_only=card.brightfield_only,
            back_projection=card.back_projection,
            trained_on=card.trained_on,
            licence=card.licence,
            citation=card.citation,
            description=card.description,
            notes=card.notes,
        )

    def _output(self, sha256: str) -> OutputReport:
        facts, request = self.job.facts, self.job.request
        return OutputReport(
            format=self.job.format.name,
            suffix=suffix_of(request.output.name),
            quality=request.quality,
            uuid=facts.uuid,
            sha256=sha256,
            width=facts.sizes[0].width,
            height=facts.sizes[0].height,
            levels=tuple((size.width, size.height) for size in facts.sizes),
            mpp=facts.mpp,
            magnification=facts.objective,
            icc_profile_carried_over=facts.icc_profile is not None,
        )

    def _plan(self) -> PlanReport:
        plan = self.job.plan
        return PlanReport(
            level=plan.level,
            source=plan.source,
            scale=plan.scale,
            halo=plan.halo,
            fade=plan.fade,
            batch=plan.batch,
            entropy=plan.entropy,
            core=plan.core,
            rows_per_stripe=plan.rows_per_stripe,
        )

    def _seam(self) -> SeamReport:
        seam = Seam.of(stripe.seam for stripe in self.stripes)
        return SeamReport(
            figure=_rounded(seam.figure, 4),
            result=_rounded(seam.result, 4),
            source=_rounded(seam.source, 4),
            pixels=seam.borders,
            explanation=SEAM_EXPLAINED,
        )

    def _warnings_of_high_errors(self) -> tuple[str, ...]:
        """Warn of a network's tiles that differ much from their source."""
        high = [score for score in self.scores if score[2] > STRAY_RMSE]
        if not high or self.job.card.kind is not ModelKind.NETWORK:
            return ()
        row, column, worst = self.median_and_worst[-1]
        place = self.output_region(row, column)
        return (
            f"{len(high)} of {len(self.scores)} tiles, when reduced, differ from their source by more than "
            f"{STRAY_RMSE:g} grey levels (RMSE), the worst by {worst:.1f} at x {place.x}, y {place.y} "
            "of the result: the model may have invented structures; check these tiles",
        )

    def _warnings_of_strayed_tiles(self) -> tuple[str, ...]:
        """Warn of tiles whose model output was replaced."""
        strayed = [bad for bad in self.bad_tiles if bad.cause == STRAYED_CAUSE]
        if not strayed:
            return ()
        place = self.output_region(strayed[0].row, strayed[0].column)
        return (
            f"{len(strayed)} tiles were resampled plainly, since {STRAYED_CAUSE} there (ink or dirt can cause this), "
            f"the first at x {place.x}, y {place.y} of the result; the report lists them",
        )

    def _consistency(self) -> ConsistencyReport | None:
        if not self.scores:
            return None
        values = [rmse for _, _, rmse in self.scores]
        row, column, rmse = self.median_and_worst[-1]
        core = self.job.plan.tile(row, column).core
        return ConsistencyReport(
            measured=len(values),
            mean=round(float(np.mean(values)), 3),
            median=round(float(np.median(values)), 3),
            p95=round(float(np.percentile(values, 95)), 3),
            worst=WorstTileReport(rmse, row, column, core.as_box(), self.output_region(row, column).as_box()),
            grid=self._grid(),
            explanation=CONSISTENCY_EXPLAINED,
        )

    def _grid(self) -> tuple[tuple[float | None, ...], ...]:
        """RMSE of each tile, row by row; None for a tile that the model did not make."""
        scores = {(row, column): rmse for row, column, rmse in self.scores}
        rows, columns = range(self.job.plan.rows), range(self.job.plan.columns)
        return tuple(tuple(scores.get((row, column)) for column in columns) for row in rows)


def _compression(info: SlideInfo) -> CompressionReport | None:
    compression = info.compression
    if compression is None:
        return None
    return CompressionReport(str(compression.codec), compression.quality, compression.sampling)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
