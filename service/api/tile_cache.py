"""An in-memory cache of encoded viewer tiles."""

from collections import OrderedDict

_CACHE_BYTES = 32 * 2**20


class TileCache:
    """Encoded tiles that were asked for lately, up to `_CACHE_BYTES`; belongs to the event loop."""

    def __init__(self) -> None:
        self._tiles: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def get(self, tag: str) -> bytes | None:
        """The tile of that tag, if it is still there."""
        if tag in self._tiles:
            self._tiles.move_to_end(tag)
        return self._tiles.get(tag)

    def put(self, tag: str, tile: bytes) -> None:
        """Keep a tile; the one that was not asked for longest goes."""
        self._bytes += len(tile) - len(self._tiles.pop(tag, b""))
        self._tiles[tag] = tile
        while self._bytes > _CACHE_BYTES:
            self._bytes -= len(self._tiles.popitem(last=False)[1])
