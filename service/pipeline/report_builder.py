"""The account of a job: what was made from what, tile by tile, as the JSON report tells it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidelift.models.zoo.catalog import ModelKind
from slidelift.service.pipeline.prepare import Prepared
from slidelift.service.pipeline.progress import Stage
from slidelift.service.pipeline.recommendation import expectation
from slidelift.service.pipeline.stripe import COMPUTED, STRAYED_MODEL, Mark
from slidelift.wsi.geometry import Region
from slidelift.wsi.provenance import NOT_FOR_DIAGNOSIS, software
from slidelift.wsi.result_hash import result_hash
from slidelift.wsi.seam import Seam
from slidelift.wsi.suffixes import suffix_of

SEAM_EXPLAINED = (
    "Mean difference of neighbouring pixels across the borders of tiles with tissue, divided by that across parallel "
    "lines inside them, and divided by the same ratio of the source, whose own seams and blocks are not the tiles' "
    "doing: 1.00 where borders can't be told from the rest. Before compression; borders between stripes are left out."
)
CONSISTENCY_EXPLAINED = (
    "RMSE over RGB, in grey levels of 255, between each source tile and the result reduced again by plain means. "
    "Measured for the tiles that the model made, before they are cross-faded or compressed. Enlarging by bicubic "
    "interpolation gives a few grey levels too; what counts is a tile that is far above the others."
)


FEW = 0.9
"""Share of the tissue tiles below which a result is told to be enhanced in few."""

STRAY = 8.0
"""Grey levels of RMSE: bicubic enlargement of H&E has 4 at most, and a model is there to be nearer to its source."""


@dataclass(slots=True)
class Stopwatch:
    """Seconds that each stage took; the last one runs on until `seconds` is read."""

    _stage: Stage | None = None
    _since: float = 0.0
    _spent: dict[Stage, float] = field(default_factory=dict)

    def enter(self, stage: Stage) -> None:
        """The work is in `stage` now."""
        now = time.monotonic()
        if self._stage is not None:
            self._spent[self._stage] = self._spent.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now

    def seconds(self) -> dict[str, float]:
        """Of every stage, in their order."""
        if self._stage is not None:
            self.enter(self._stage)
        return {str(stage): round(self._spent.get(stage, 0.0), 3) for stage in Stage}


@dataclass(frozen=True)
class ReportBuilder:
    """A finished job, before its result is published.

    Attributes
    ----------
    stripes
        The reports of all stripes, in order (`service.pipeline.stripe.StripeReport` as JSON).
    resumed
        How many of them an earlier run had made.
    """

    job: Prepared
    stripes: Sequence[Mapping[str, Any]]
    resumed: int

    @cached_property
    def map(self) -> tuple[str, ...]:
        """A string a row, a letter of `Mark` a tile."""
        plan, roi = self.job.plan, self.job.request.roi
        rows = tuple(row for stripe in self.stripes for row in stripe["map"])
        if roi is None:
            return rows
        downsample = self.job.reader.info.levels[plan.level].downsample
        touched = roi.tile_rows(plan.source, downsample, plan.core, plan.rows, plan.columns)
        return tuple(
            "".join(
                Mark.OUTSIDE if mark == Mark.GLASS and one == "0" else mark for mark, one in zip(*pair, strict=True)
            )
            for pair in zip(rows, touched, strict=True)
        )

    def cells(self, mark: Mark) -> NDArray[np.bool_]:
        """Where the map has this letter, (rows, columns)."""
        return np.array([[letter == mark for letter in row] for row in self.map])

    @cached_property
    def scores(self) -> tuple[tuple[int, int, float], ...]:
        """Row, column and consistency of each tile that the model made."""
        return tuple((row, column, rmse) for stripe in self.stripes for row, column, rmse in stripe["consistency"])

    @cached_property
    def tiles(self) -> dict[str, Any]:
        """What became of the tiles."""
        counts = {mark: sum(row.count(mark) for row in self.map) for mark in Mark}
        tissue = sum(counts[mark] for mark in COMPUTED)
        return {
            "total": self.job.plan.rows * self.job.plan.columns,
            "tissue": tissue,
            "enhanced": counts[Mark.TISSUE],
            "strayed": counts[Mark.STRAYED],
            "failed": counts[Mark.BAD],
            "rejected": counts[Mark.REJECTED],
            "glass": counts[Mark.GLASS],
            "outside": counts[Mark.OUTSIDE],
            "few_enhanced": counts[Mark.TISSUE] < FEW * tissue,
            "map": list(self.map),
            "consistency": self._consistency(),
            "bad": [bad for stripe in self.stripes for bad in stripe["bad_tiles"]],
        }

    @property
    def summary(self) -> str:
        """The first line of every report: how much of the tissue the model made."""
        tissue, enhanced = self.tiles["tissue"], self.tiles["enhanced"]
        if not tissue:
            return f"No tissue was found: the model enhanced 0 of {self.tiles['total']:,} tiles."
        who = "The model" if self.job.card.kind is ModelKind.NETWORK else "The interpolation"
        return f"{who} enhanced {enhanced:,} of {tissue:,} tissue tiles."

    @property
    def median_and_worst(self) -> tuple[tuple[int, int, float], ...]:
        """The tile in the middle of the order of consistency, and the last; the upper, leftmost of equal ones."""
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

    def report(
        self, result: Path, device_busy: float | None, watch: Stopwatch, between: Callable[[], None]
    ) -> dict[str, Any]:
        """All of it as JSON values.

        Parameters
        ----------
        result
            The finished file or folder, which is hashed.
        between
            Called while it is hashed; may raise to stop.
        """
        job = self.job
        plan, facts, info = job.plan, job.facts, job.reader.info
        seam = Seam.of([stripe["seam"] for stripe in self.stripes])
        return {
            "summary": self.summary,
            "software": software(),
            "statement": NOT_FOR_DIAGNOSIS,
            "slide": {
                "sha256": job.provenance.source_sha256,
                **info.as_dict(),
                "mpp_used": list(job.provenance.source_mpp),
            },
            "model": self._model(),
            "output": {
                "format": job.format.name,
                "suffix": suffix_of(job.request.output.name),
                "quality": job.request.quality,
                "uuid": facts.uuid,
                "sha256": result_hash(result, between),
                "width": facts.sizes[0].width,
                "height": facts.sizes[0].height,
                "levels": [[size.width, size.height] for size in facts.sizes],
                "mpp": list(facts.mpp),
                "magnification": facts.objective,
                "icc_profile_carried_over": facts.icc_profile is not None,
            },
            "plan": {key: value for key, value in plan.as_dict().items() if key != "mask"},
            "tiles": self.tiles,
            "seam": {
                "figure": _rounded(seam.figure, 4),
                "result": _rounded(seam.result, 4),
                "source": _rounded(seam.source, 4),
                "pixels": seam.borders,
                "explanation": SEAM_EXPLAINED,
            },
            "stripes": {"total": len(self.stripes), "resumed": self.resumed},
            "seconds_by_stage": watch.seconds(),
            "device_busy": _rounded(device_busy, 3),
            "warnings": [*job.warnings, *self._strays(), *self._disbelieved()],
            "incidents": [incident for stripe in self.stripes for incident in stripe["incidents"]],
        }

    def _model(self) -> dict[str, Any]:
        upscaler, card = self.job.upscaler, self.job.card
        return {
            "name": upscaler.name,
            "fingerprint": upscaler.fingerprint,
            "weights_sha256": card.sha256,
            "precision": upscaler.precision,
            "device": upscaler.device,
            "tiles_join_exactly": upscaler.exact,
            "kind": str(card.kind),
            "architecture": card.architecture,
            "parameters": card.parameters,
            "scale": upscaler.scale,
            "source_mpp": list(card.source_mpp) if card.source_mpp else None,
            "chosen_because": self.job.chosen_because,
            "expectation": found.text if (found := expectation(card, self.job.reader.info)) else None,
            "brightfield_only": card.brightfield_only,
            "back_projection": card.back_projection,
            "trained_on": card.trained_on,
            "licence": card.licence,
            "citation": card.citation,
            "description": card.description,
            "notes": card.notes,
        }

    def _strays(self) -> tuple[str, ...]:
        """A warning of tiles that are not what the source says; interpolation can't stray."""
        strays = [score for score in self.scores if score[2] > STRAY]
        if not strays or self.job.card.kind is not ModelKind.NETWORK:
            return ()
        row, column, worst = self.median_and_worst[-1]
        place = self.output_region(row, column)
        return (
            f"{len(strays)} of {len(self.scores)} tiles, reduced again, differ from their source by more than "
            f"{STRAY:g} grey levels (RMSE), the worst by {worst:.1f} at x {place.x}, y {place.y} "
            "of the result: the model may have drawn what is not there; look at them",
        )

    def _disbelieved(self) -> tuple[str, ...]:
        """A warning of tiles whose model was not believed."""
        found = [bad for stripe in self.stripes for bad in stripe["bad_tiles"] if bad["cause"] == STRAYED_MODEL]
        if not found:
            return ()
        place = self.output_region(found[0]["row"], found[0]["column"])
        return (
            f"{len(found)} tiles were resampled plainly, since {STRAYED_MODEL} there (ink and dirt can do that), the "
            f"first at x {place.x}, y {place.y} of the result; the report lists them",
        )

    def _consistency(self) -> dict[str, Any] | None:
        if not self.scores:
            return None
        values = [rmse for _, _, rmse in self.scores]
        row, column, rmse = self.median_and_worst[-1]
        core, place = self.job.plan.tile(row, column).core, self.output_region(row, column)
        return {
            "measured": len(values),
            "mean": round(float(np.mean(values)), 3),
            "median": round(float(np.median(values)), 3),
            "p95": round(float(np.percentile(values, 95)), 3),
            "worst": {
                "rmse": rmse,
                "row": row,
                "column": column,
                "region": [core.x, core.y, core.width, core.height],
                "output_region": [place.x, place.y, place.width, place.height],
            },
            "grid": self._grid(),
            "explanation": CONSISTENCY_EXPLAINED,
        }

    def _grid(self) -> list[list[float | None]]:
        """Each tile's figure at its place, None where the model made none."""
        grid: list[list[float | None]] = [[None] * self.job.plan.columns for _ in range(self.job.plan.rows)]
        for row, column, rmse in self.scores:
            grid[row][column] = rmse
        return grid


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
