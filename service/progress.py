"""How far a piece of work is, and the way to stop it."""

import threading
import time
from dataclasses import dataclass, field
from enum import StrEnum

from service.errors import Cancelled


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
        Of the upscaling stage, None while unknown.
    resumed_tiles
        Tiles that an earlier, interrupted run had finished.
    """

    stage: Stage
    tiles_done: int = 0
    tiles_total: int = 0
    tiles_per_second: float | None = None
    eta_seconds: float | None = None
    resumed_tiles: int = 0


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


@dataclass(slots=True)
class TileClock:
    """Counts tiles and derives speed and the time left from this process's own work."""

    total: int
    resumed: int = 0
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    def snapshot(self, stage: Stage) -> Progress:
        """Where the work is now."""
        elapsed = time.monotonic() - self.started
        rate = self.done / elapsed if self.done and elapsed > 0 else None
        left = self.total - self.resumed - self.done
        return Progress(stage, self.resumed + self.done, self.total, rate, left / rate if rate else None, self.resumed)
