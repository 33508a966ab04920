"""Progress and cancellation of a job."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from slidelift.service.errors import Cancelled


class Stage(StrEnum):
    """The stages of a job, in order."""

    OPENING = "opening"
    PLANNING = "planning"
    UPSCALING = "upscaling"
    JOINING = "joining"
    VERIFYING = "verifying"


@dataclass(frozen=True, slots=True)
class Progress:
    """A snapshot of a job's progress.

    Attributes
    ----------
    tiles_done, tiles_total
        Source tiles of the plan; a resumed job starts with those of its finished stripes.
    tiles_per_second
        Of this process's own work; None before the first tile.
    eta_seconds
        Of the upscaling stage; None while unknown and in every other stage. See `TileClock`.
    resumed_tiles
        Tiles that an interrupted run had finished.
    device_busy
        Share of the upscaling stage in which the model computed, 0 to 1; None before the first tile and on a cluster.
    bytes_written
        Size of finished stripes and the joined result; None before the stripes were counted.
    """

    stage: Stage
    tiles_done: int = 0
    tiles_total: int = 0
    tiles_per_second: float | None = None
    eta_seconds: float | None = None
    resumed_tiles: int = 0
    device_busy: float | None = None
    bytes_written: int | None = None


class CancelToken:
    """A flag that any thread may set; the pipeline checks it between batches."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Request that the work stops at the next batch."""
        self._event.set()

    @property
    def is_set(self) -> bool:
        """Whether the work was cancelled."""
        return self._event.is_set()

    def raise_if_cancelled(self) -> None:
        """Raise Cancelled if the work was cancelled."""
        if self.is_set:
            raise Cancelled


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of tiles by their cost.

    Attributes
    ----------
    tiles
        All tiles.
    passed
        Tiles that the mask does not reject; the others are known to be cheap.
    computed
        Tiles that the model computed.
    bytes_written
        Size of the written stripes.
    """

    tiles: int = 0
    passed: int = 0
    computed: int = 0
    bytes_written: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.tiles + other.tiles,
            self.passed + other.passed,
            self.computed + other.computed,
            self.bytes_written + other.bytes_written,
        )


# While the model's time is unknown, one tile of it counts as this many resampled tiles (compact-x4 on a CPU).
_MODEL_WEIGHT = 20
# Prior: the share of tissue among the tiles that pass the mask, and its weight as a number of tiles.
_PRIOR_SHARE, _PRIOR_TILES = 0.9, 8
# Tissue is contiguous, so the recent share is averaged over this share of the plan, or 32 tiles if that is more.
_RECENT, _LEAST_RECENT = 1 / 16, 32


@dataclass(slots=True)
class TileClock:
    """Counts tiles and estimates speed and remaining time from this process's own work.

    The remaining time is that of the upscaling stage; joining and verifying take a few per cent of a long job more. It
    is the sum of two parts. All tiles are read and encoded, which takes the time in which the model does not compute.
    Tissue tiles take the model's time too. The mask bounds the number of tissue tiles left, and their share so far and
    recently estimates it; on a slide without a small level there is no mask, and tissue that comes late is not
    foreseen. Before the first tissue tile the model's time is that of a trial (`model_seconds`); without a trial there
    is no estimate. Where the model's time is unknown (a cluster), a tissue tile counts as 20 others.

    Attributes
    ----------
    total, resumed
        Tiles of the plan, and of an earlier run's stripes.
    model_seconds
        Seconds per tile in a trial of the model; None without a trial.
    now
        Returns the time in seconds.
    """

    total: Tally
    resumed: Tally = field(default_factory=Tally)
    model_seconds: float | None = None
    now: Callable[[], float] = time.monotonic
    done: Tally = field(default_factory=Tally)
    busy_seconds: float | None = 0.0
    started: float = field(init=False)
    _recent_share: float = _PRIOR_SHARE

    def __post_init__(self) -> None:
        self.started = self.now()

    def advance(self, tally: Tally, busy_seconds: float | None) -> None:
        """Count finished tiles, and the seconds in which the model computed (None where unknown)."""
        self.done += tally
        if tally.passed:
            recent = max(_LEAST_RECENT, self.total.tiles * _RECENT)
            fading = math.exp(-tally.passed / recent)
            self._recent_share = fading * self._recent_share + (1 - fading) * tally.computed / tally.passed
        if busy_seconds is None or self.busy_seconds is None:
            self.busy_seconds = None
        else:
            self.busy_seconds += busy_seconds

    def snapshot(self, stage: Stage) -> Progress:
        """Return the current progress."""
        elapsed = self.now() - self.started
        begun = bool(self.done.tiles) and elapsed > 0
        return Progress(
            stage,
            self.resumed.tiles + self.done.tiles,
            self.total.tiles,
            self.done.tiles / elapsed if begun else None,
            self._seconds_left(elapsed) if stage is Stage.UPSCALING and begun else None,
            self.resumed.tiles,
            min(1.0, self.busy_seconds / elapsed) if begun and self.busy_seconds is not None else None,
            self.resumed.bytes_written + self.done.bytes_written,
        )

    def _seconds_left(self, elapsed: float) -> float | None:
        finished = self.resumed + self.done
        tiles, passed = self.total.tiles - finished.tiles, self.total.passed - finished.passed
        share = (finished.computed + _PRIOR_SHARE * _PRIOR_TILES) / (finished.passed + _PRIOR_TILES)
        if self.done.passed:
            share = (share + 3 * self._recent_share) / 4
        computed = passed * share
        if self.busy_seconds is None:
            return elapsed / _units(self.done.tiles, self.done.computed) * _units(tiles, computed)
        plain = max(0.0, elapsed - self.busy_seconds) / self.done.tiles
        model = self.busy_seconds / self.done.computed if self.done.computed else self.model_seconds
        if model is None:
            return None if passed else plain * tiles
        return plain * tiles + model * computed


def _units(tiles: float, computed: float) -> float:
    return tiles + (_MODEL_WEIGHT - 1) * computed
