"""Records of the tiles of each stripe, stored in its segment so that a resumed job can report them."""

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from slidelift.service.pipeline.json_values import JsonMismatchError, from_json, to_json
from slidelift.service.pipeline.progress import Tally
from slidelift.service.pipeline.report import BadTileReport
from slidelift.service.pipeline.tile_mark import MASKED_MARKS, TISSUE_MARKS, TileMark, mark_of
from slidelift.wsi.bad_tile import BadTile
from slidelift.wsi.errors import SegmentDamagedError
from slidelift.wsi.geometry import Region
from slidelift.wsi.seam import SeamSums
from slidelift.wsi.tiling import Stripe, Tile
from slidelift.wsi.writers.segment import Segment

UNREADABLE_CAUSE = "it can't be decoded"
"""Replaces the decoder's message in the report, since that may contain the file's name or content."""

STRAYED_CAUSE = "the model's output was too different from the source"
RESAMPLED = "tile resampled plainly"


@dataclass(frozen=True, slots=True)
class StripeRecord:
    """Record of the tiles of one stripe.

    Attributes
    ----------
    number
        Number of the stripe.
    map
        One string per row of tiles, with one letter of `TileMark` per tile.
    consistency
        Row, column and RMSE in grey levels (`models.metrics.consistency.mean_consistency`) of each tile that the model
        made. The RMSE is that of the core before cross-fading.
    """

    number: int
    map: tuple[str, ...]
    consistency: tuple[tuple[int, int, float], ...]
    seam: SeamSums
    bad_tiles: tuple[BadTileReport, ...]
    incidents: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values: dict[str, Any] = to_json(self)
        return values

    @classmethod
    def of(cls, segment: Segment) -> "StripeRecord":
        """Read the record of a segment; raises SegmentDamagedError."""
        try:
            return from_json(cls, segment.report)
        except JsonMismatchError as error:
            raise SegmentDamagedError(segment.path, f"its record is damaged: {error}") from error


def segment_tally(segment: Segment) -> Tally:
    """Return the numbers of tiles of a finished stripe, and the size of its file."""
    marks = "".join(StripeRecord.of(segment).map)
    computed, masked = (sum(marks.count(mark) for mark in group) for group in (TISSUE_MARKS, MASKED_MARKS))
    return Tally(len(marks), len(marks) - masked, computed, segment.path.stat().st_size)


@dataclass(slots=True)
class StripeRecorder:
    """Collects the record of a stripe while the stripe is made.

    A stripe also computes the tiles of the next row that are cross-faded into it; these belong to the next stripe and
    are ignored here. `add_strayed` and `add_failed` may be called from a different thread than the other methods.
    """

    stripe: Stripe
    columns: int
    _marks: dict[tuple[int, int], TileMark] = field(default_factory=dict)
    _bad: list[tuple[TileMark, BadTileReport]] = field(default_factory=list)
    _scores: list[tuple[Tile, Future[float]]] = field(default_factory=list)

    def has(self, tile: Tile | BadTile) -> bool:
        """Whether the tile belongs to this stripe."""
        return tile.row < self.stripe.first_row + self.stripe.rows

    def add_read(self, tile: Tile, *, is_tissue: bool) -> None:
        """Record a tile that was read."""
        if self.has(tile):
            self._marks[tile.row, tile.column] = mark_of(tile, is_tissue=is_tissue)

    def add_unreadable(self, bad: BadTile) -> None:
        """Record a tile that could not be read as planned."""
        self._add_bad(TileMark.BAD, bad, bad.unreadable, UNREADABLE_CAUSE, bad.remedy)

    def add_strayed(self, tile: Tile) -> None:
        """Record a tile whose model output was too far from the source."""
        self._add_bad(TileMark.STRAYED, tile, tile.core, STRAYED_CAUSE, RESAMPLED)

    def add_failed(self, tile: Tile, cause: str) -> None:
        """Record a tile that the model could not compute."""
        self._add_bad(TileMark.BAD, tile, tile.core, cause, RESAMPLED)

    def add_score(self, tile: Tile, score: Future[float]) -> None:
        """Record the consistency of a tile that the model made."""
        self._scores.append((tile, score))

    def record(self, seam: SeamSums, incidents: tuple[str, ...]) -> StripeRecord:
        """Return the record of a finished stripe; waits for the scores."""
        bad = sorted(self._bad, key=lambda one: (one[1].row, one[1].column))
        marks = self._marks | {(tile.row, tile.column): mark for mark, tile in bad}
        rows = range(self.stripe.first_row, self.stripe.first_row + self.stripe.rows)
        return StripeRecord(
            self.stripe.number,
            tuple("".join(marks[row, column] for column in range(self.columns)) for row in rows),
            tuple((tile.row, tile.column, round(score.result(), 2)) for tile, score in self._scores),
            seam,
            tuple(tile for _, tile in bad),
            incidents,
        )

    def _add_bad(self, mark: TileMark, tile: Tile | BadTile, affected: Region, cause: str, remedy: str) -> None:
        if self.has(tile):
            report = BadTileReport(tile.row, tile.column, tile.core.as_box(), affected.as_box(), cause, str(remedy))
            self._bad.append((mark, report))
