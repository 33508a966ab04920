"""The clock by which things expire: it follows the store's clock, but at most twice as fast as time passes.

A clock that jumps a day ahead (a virtual machine that wakes up, a wrong time server) would otherwise let a day's
uploads and results expire at once. What the clock has reached is kept in the store, so that a restart does not let it
jump either; after a pause of the service it catches up as slowly.
"""

import logging
import time
from collections.abc import Callable

from slidelift.service.jobs.store import Store

_PACE = 2
"""Seconds that it may go on in each second: so that it catches up after a pause."""

_DAY = 86400

log = logging.getLogger(__name__)


class RetentionClock:
    """Callable from any thread; several processes may keep their reading in one store.

    Parameters
    ----------
    passed
        Seconds that have passed since some moment; never jumps.
    """

    def __init__(self, store: Store, passed: Callable[[], float] = time.monotonic) -> None:
        self._store, self._passed = store, passed
        self._base, self._since = store.retention_time(), passed()
        if store.now() - self._base > _DAY:
            log.warning(
                "the clock is %.1f days ahead of the last sweep: what is to be deleted by age is deleted later, since "
                "the clock may be wrong",
                (store.now() - self._base) / _DAY,
            )

    def now(self) -> float:
        """Seconds since 1970, never ahead of this machine's clock; asks no database."""
        return min(time.time(), self._reachable())

    def keep(self) -> float:
        """Write down what it has reached, never ahead of the store's clock, and return that."""
        reached = min(self._store.now(), self._reachable())
        self._base, self._since = max(self._base, reached), self._passed()
        self._store.keep_retention_time(self._base)
        return reached

    def _reachable(self) -> float:
        return self._base + _PACE * (self._passed() - self._since)
