"""How far a piece of work is, and the way to stop it."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from slidelift.service.errors import Cancelled


class Stage(StrEnum):
    """The stations of one slide, in order."""

    OPENING = "opening"
    PLANNING = "planning"
    UPSCALING = "upscaling"
    JOINING = "joining"
    VERIFYING = "verifying"


@dataclass(frozen=True, slots=True)
class Progress:
    """A snapshot.

    Attributes
    ----------
    tiles_done, tiles_total
        Source tiles of the plan; a resumed job starts with those of its finished stripes.
    tiles_per_second
        Over this process's own work, None before the first tile.
    eta_seconds
        Of the upscaling stage, None while unknown and in every other stage; see `TileClock`.
    resumed_tiles
        Tiles that an earlier, interrupted run had finished.
    device_busy
        Share of this process's upscaling in which the model computed, 0 to 1; None before the first tile, and where
        others make the stripes.
    bytes_written
        What finished stripes and the joined result take on disk; None before the stripes were counted.
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
    """Set from any thread; looked at between batches."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask for the work to stop at the next batch."""
        self._event.set()

    @property
    def is_set(self) -> bool:
        """Whether somebody asked to stop."""
        return self._event.is_set()

    def raise_if_cancelled(self) -> None:
        """Raise Cancelled if somebody asked to stop."""
        if self.is_set:
            raise Cancelled


@dataclass(frozen=True, slots=True)
class Tally:
    """Tiles by what they cost.

    Attributes
    ----------
    tiles
        All of them.
    passed
        Those that the plan's mask leaves to the entropy: of the others it is known beforehand that they are cheap.
    computed
        Those that went through the model.
    bytes_written
        What was written of them.
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


# Where nobody has timed the model: a tile of it costs about this many plain ones (compact-x4 on a CPU).
_WEIGHT = 20
# What is expected before anything was seen: nearly all that the mask passes is tissue; so many tiles outweigh it.
_SHARE, _DOUBT = 0.9, 8
# Tissue lies together: this share of the plan, but so many tiles at least, is what "of late" means.
_LATE, _LEAST_LATE = 1 / 16, 32


@dataclass(slots=True)
class TileClock:
    """Counts tiles and derives speed and the time left from this process's own work.

    The time left is that of the upscaling stage; joining and verifying, a few per cent of a long job, are not in it.
    It is the sum of two parts, each with its own speed. All tiles are read and encoded: they cost what passed while the
    model did not compute. Those with tissue cost the model's own time too. How many of the tiles left are such, the
    mask bounds, and their share so far and of late estimates; where a slide has no small level to make a mask of,
    nothing foresees tissue that comes late. Before the first of them the model's time is that of a trial
    (`model_seconds`), else no time left is told. Where the model's own time is unknown (a cluster), a tile with tissue
    counts as 20.

    Attributes
    ----------
    total, resumed
        Of the plan, and of an earlier run's stripes.
    model_seconds
        What one tile took the model in a trial, None without one.
    now
        The clock.
    """

    total: Tally
    resumed: Tally = field(default_factory=Tally)
    model_seconds: float | None = None
    now: Callable[[], float] = time.monotonic
    done: Tally = field(default_factory=Tally)
    busy_seconds: float | None = 0.0
    started: float = field(init=False)
    _share_of_late: float = _SHARE

    def __post_init__(self) -> None:
        self.started = self.now()

    def advance(self, tally: Tally, busy_seconds: float | None) -> None:
        """Count finished tiles, and the time for which the model computed; None where that is not known."""
        self.done += tally
        if tally.passed:
            late = max(_LEAST_LATE, self.total.tiles * _LATE)
            fading = math.exp(-tally.passed / late)
            self._share_of_late = fading * self._share_of_late + (1 - fading) * tally.computed / tally.passed
        known = busy_seconds is not None and self.busy_seconds is not None
        self.busy_seconds = (self.busy_seconds or 0) + (busy_seconds or 0) if known else None

    def snapshot(self, stage: Stage) -> Progress:
        """Where the work is now."""
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
        seen = self.resumed + self.done
        tiles, passed = self.total.tiles - seen.tiles, self.total.passed - seen.passed
        share = (seen.computed + _SHARE * _DOUBT) / (seen.passed + _DOUBT)
        if self.done.passed:
            share = (share + 3 * self._share_of_late) / 4
        computed = passed * share
        if self.busy_seconds is None:
            return elapsed / _units(self.done.tiles, self.done.computed) * _units(tiles, computed)
        plain = max(0.0, elapsed - self.busy_seconds) / self.done.tiles
        model = self.busy_seconds / self.done.computed if self.done.computed else self.model_seconds
        if model is None:
            return None if passed else plain * tiles
        return plain * tiles + model * computed


def _units(tiles: float, computed: float) -> float:
    return tiles + (_WEIGHT - 1) * computed
