"""Encoding of the tiles of a stripe on a pool of threads."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from slidelift.wsi.slide import Pixels
from slidelift.wsi.writers.segment import SegmentWriter, detect_blank

Encode = Callable[[Pixels], Sequence[bytes]]

# Encoded tiles in flight: bounds memory to about 50 MB of pixels.
_IN_FLIGHT = 64


class TileEncoder:
    """Encodes tiles on a pool and writes them to a segment; at most 64 tiles are in flight."""

    def __init__(self, pool: ThreadPoolExecutor, encode: Encode, writer: SegmentWriter) -> None:
        self._pool, self._encode, self._writer = pool, encode, writer
        self._free = threading.Semaphore(_IN_FLIGHT)
        self._futures: list[Future[None]] = []

    def submit(self, level: int, row: int, column: int, tile: Pixels) -> None:
        """Encode and write a tile; blocks while too many are in flight."""
        self._free.acquire()
        if len(self._futures) > 4 * _IN_FLIGHT:
            self._collect([future for future in self._futures if future.done()])
        self._futures.append(self._pool.submit(self._run, level, row, column, tile))

    def wait(self) -> None:
        """Wait until all tiles are written; raises the first error."""
        self._collect(list(self._futures))

    def _collect(self, futures: list[Future[None]]) -> None:
        collected = set(futures)
        self._futures = [future for future in self._futures if future not in collected]
        for future in futures:
            future.result()

    def _run(self, level: int, row: int, column: int, tile: Pixels) -> None:
        try:
            self._writer.put(level, row, column, detect_blank(tile) or self._encode(tile))
        finally:
            self._free.release()
