"""An in-memory cache of encoded viewer tiles."""

from collections import OrderedDict

_CACHE_BYTES = 32 * 2**20


class TileCache:
    """Least recently used cache of up to `_CACHE_BYTES`; belongs to the event loop."""

    def __init__(self) -> None:
        self._tiles: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def get(self, etag: str) -> bytes | None:
        """Return the tile with that ETag, or None."""
        if etag in self._tiles:
            self._tiles.move_to_end(etag)
        return self._tiles.get(etag)

    def put(self, etag: str, tile: bytes) -> None:
        """Add a tile and evict the least recently used."""
        self._bytes += len(tile) - len(self._tiles.pop(etag, b""))
        self._tiles[etag] = tile
        while self._bytes > _CACHE_BYTES:
            self._bytes -= len(self._tiles.popitem(last=False)[1])
