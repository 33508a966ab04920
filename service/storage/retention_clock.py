"""The clock by which files expire: it follows the store's clock, but at most twice as fast as time passes.

Otherwise a clock that jumps a day ahead (a virtual machine that wakes up, a wrong time server) would let the uploads
and results of a day expire at once. The time is kept in the store, so it does not jump at a restart either; after a
pause of the service it catches up at the same rate.
"""

import logging
import time
from collections.abc import Callable

from slidelift.service.jobs.store import Store

_MAX_RATE = 2
"""Maximum rate, in seconds per second; above 1, so that the clock catches up after a pause."""

_DAY = 86400

log = logging.getLogger(__name__)


class RetentionClock:
    """Thread-safe; several processes may share the time in one store.

    Parameters
    ----------
    monotonic
        Seconds since any moment; never jumps.
    """

    def __init__(self, store: Store, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store, self._monotonic = store, monotonic
        self._base, self._since = store.retention_time(), monotonic()
        if store.now() - self._base > _DAY:
            log.warning(
                "the clock is %.1f days ahead of the last clean-up and may be wrong; expired files are deleted later",
                (store.now() - self._base) / _DAY,
            )

    def now(self) -> float:
        """Return seconds since 1970, never ahead of this machine's clock; does not use the database."""
        return min(time.time(), self._limit())

    def keep(self) -> float:
        """Save the time in the store and return it; never ahead of the store's clock."""
        now = min(self._store.now(), self._limit())
        self._base, self._since = max(self._base, now), self._monotonic()
        self._store.keep_retention_time(self._base)
        return now

    def _limit(self) -> float:
        return self._base + _MAX_RATE * (self._monotonic() - self._since)
