"""What this program wrote, tile by tile: finished results, and the stripes of one that is being made."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import tifffile
import zarr

from slidelift.wsi.errors import SegmentDamagedError, SlideUnreadableError, TileReadError, library_message
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.pyramid import TILE
from slidelift.wsi.readers.references import require_alone
from slidelift.wsi.readers.tiffslide import DECODER_ERRORS
from slidelift.wsi.readers.zarr_store import LoneStore, bare_path
from slidelift.wsi.slide import Level, Pixels, SlideInfo
from slidelift.wsi.writers import ome_tiff
from slidelift.wsi.writers.segment import Blank, Segment
from slidelift.wsi.writers.table import format_named

Fetch = Callable[[int, int, int], Pixels]
"""Level, row and column -> uint8 (512, 512, channels)."""
# Decoded tiles of 0.75 MB: what the next view beside this one needs again.
_KEPT = 24


class GridReader:
    """A pyramid of 512-px tiles, each level half of the one before; for one thread at a time."""

    def __init__(
        self, name: str, sizes: Sequence[Size], fetch: Fetch, close: Callable[[], None], path: Path | None = None
    ) -> None:
        levels = tuple(Level(size, float(1 << number)) for number, size in enumerate(sizes))
        self.info = SlideInfo(name, "result", levels, None, None, None)
        self._fetch, self._close, self._path = lru_cache(_KEPT)(fetch), close, path or Path(name)

    def read(self, level: int, region: Region) -> Pixels:
        """See `SlideReader.read`; of stripes four channels, the fourth 0 where there is nothing yet."""
        columns = range(region.x // TILE, -(-region.right // TILE))
        rows = range(region.y // TILE, -(-region.bottom // TILE))
        try:
            tiles = [np.concatenate([self._fetch(level, row, column) for column in columns], axis=1) for row in rows]
        except (SegmentDamagedError, *DECODER_ERRORS) as error:
            cause = library_message(error, self._path, self.info.name)
            raise TileReadError(self.info.name, level, region, cause) from error
        top, left = region.y % TILE, region.x % TILE
        return np.concatenate(tiles, axis=0)[top : top + region.height, left : left + region.width]

    def close(self) -> None:
        """Give file handles back."""
        self._fetch.cache_clear()
        self._close()


def open_result(path: Path, output_format: str, name: str | None = None) -> GridReader:
    """A finished result: an OME-TIFF, or an OME-Zarr as folder or zip.

    Parameters
    ----------
    name
        How messages call the result; None for the name of its file.

    Raises
    ------
    SlideUnreadableError
        It is not there, or not what was written.
    """
    name = name or path.name
    try:
        return _open_tiff(path, name) if output_format == ome_tiff.NAME else _open_zarr(path, name)
    except (tifffile.TiffFileError, BadZipFile, *DECODER_ERRORS) as error:
        cause = library_message(error, path, name)
        raise SlideUnreadableError(f"{name}: the result can't be opened ({cause})") from error


def _open_tiff(path: Path, name: str) -> GridReader:
    require_alone(path, name)
    tiff = tifffile.TiffFile(path, _multifile=False)
    pages = [level.pages[0] for level in tiff.series[0].levels]
    decode = format_named(ome_tiff.NAME).decode

    def fetch(level: int, row: int, column: int) -> Pixels:
        page = pages[level]
        number = row * -(-page.imagewidth // TILE) + column
        tiff.filehandle.seek(page.dataoffsets[number])
        return decode((tiff.filehandle.read(page.databytecounts[number]),))

    return GridReader(name, [Size(page.imagewidth, page.imagelength) for page in pages], fetch, tiff.close, path)


def _open_zarr(path: Path, name: str) -> GridReader:
    zipped = zarr.storage.ZipStore(path, mode="r") if path.suffix == ".zip" else None
    store = zipped or LoneStore(path, read_only=True)
    group = zarr.open_group(store, path=path.stem if zipped else "", mode="r", zarr_format=2)
    arrays = [group[bare_path(path, one["path"])] for one in group.attrs["multiscales"][0]["datasets"]]

    def fetch(level: int, row: int, column: int) -> Pixels:
        planes = np.asarray(arrays[level][:, row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE])
        padding = ((0, TILE - planes.shape[1]), (0, TILE - planes.shape[2]), (0, 0))
        return np.pad(np.moveaxis(planes, 0, -1), padding, mode="edge")

    sizes = [Size(array.shape[2], array.shape[1]) for array in arrays]
    return GridReader(name, sizes, fetch, zipped.close if zipped else lambda: None, path)


def open_stripes(
    name: str, sizes: Sequence[Size], output_format: str, stripe_height: int, segment: Callable[[int], Segment | None]
) -> GridReader:
    """What is finished of a result that is being made.

    Parameters
    ----------
    sizes
        Of the levels that stripes complete by themselves.
    segment
        A stripe's segment by its number, None while it is not finished. Not asked again for tiles that it had.
    """
    decode = format_named(output_format).decode

    def fetch(level: int, row: int, column: int) -> Pixels:
        rows = (stripe_height >> level) // TILE
        found = segment(row // rows)
        if found is None:
            return np.zeros((TILE, TILE, 4), np.uint8)
        tile = found.tile(level, row % rows, column)
        pixels = np.full((TILE, TILE, 3), tile.colour, np.uint8) if isinstance(tile, Blank) else decode(tile)
        return np.dstack([pixels, np.full((TILE, TILE), 255, np.uint8)])

    return GridReader(name, sizes, fetch, lambda: None)
