"""What this program wrote, tile by tile: finished results, and the stripes of one that is being made."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import tifffile
import zarr

from slidelift.wsi.errors import SegmentDamagedError, SlideUnreadableError, TileReadError
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.pyramid import TILE
from slidelift.wsi.readers.references import require_alone
from slidelift.wsi.readers.tiffslide import DECODER_ERRORS
from slidelift.wsi.readers.zarr_store import ContainedStore, check_level_path
from slidelift.wsi.slide import Level, Pixels, SlideInfo
from slidelift.wsi.writers import ome_tiff
from slidelift.wsi.writers.formats import get_format
from slidelift.wsi.writers.segment import Blank, Segment

Fetch = Callable[[int, int, int], Pixels]
"""Level, row and column -> uint8 (512, 512, channels)."""
# Decoded tiles of 0.75 MB: what the next view beside this one needs again.
_KEPT = 24


class ResultReader:
    """A pyramid of 512-px tiles, each level half of the one before; for one thread at a time."""

    def __init__(self, name: str, sizes: Sequence[Size], fetch: Fetch, close: Callable[[], None]) -> None:
        levels = tuple(Level(size, float(1 << number)) for number, size in enumerate(sizes))
        self.info = SlideInfo(name, "result", levels, None, None, None)
        self._fetch, self._close = lru_cache(_KEPT)(fetch), close

    def read_region(self, level: int, region: Region) -> Pixels:
        """See `SlideReader.read_region`; of stripes four channels, the fourth 0 where there is nothing yet."""
        columns = range(region.x // TILE, -(-region.right // TILE))
        rows = range(region.y // TILE, -(-region.bottom // TILE))
        try:
            tiles = [np.concatenate([self._fetch(level, row, column) for column in columns], axis=1) for row in rows]
        except (SegmentDamagedError, *DECODER_ERRORS) as error:
            raise TileReadError(self.info.name, level, region, str(error)) from error
        top, left = region.y % TILE, region.x % TILE
        return np.concatenate(tiles, axis=0)[top : top + region.height, left : left + region.width]

    def close(self) -> None:
        """Give file handles back."""
        self._fetch.cache_clear()
        self._close()


def open_result(path: Path, output_format: str) -> ResultReader:
    """A finished result: an OME-TIFF, or an OME-Zarr as folder or zip.

    Raises
    ------
    SlideUnreadableError
        It is not there, or not what was written.
    """
    try:
        return _open_tiff(path) if output_format == ome_tiff.NAME else _open_zarr(path)
    except (tifffile.TiffFileError, BadZipFile, *DECODER_ERRORS) as error:
        raise SlideUnreadableError(f"{path.name}: the result can't be opened ({error})") from error


def _open_tiff(path: Path) -> ResultReader:
    require_alone(path)
    tiff = tifffile.TiffFile(path, _multifile=False)
    pages = [level.pages[0] for level in tiff.series[0].levels]
    decode = get_format(ome_tiff.NAME).decode

    def fetch(level: int, row: int, column: int) -> Pixels:
        page = pages[level]
        number = row * -(-page.imagewidth // TILE) + column
        tiff.filehandle.seek(page.dataoffsets[number])
        return decode((tiff.filehandle.read(page.databytecounts[number]),))

    return ResultReader(path.name, [Size(page.imagewidth, page.imagelength) for page in pages], fetch, tiff.close)


def _open_zarr(path: Path) -> ResultReader:
    zipped = zarr.storage.ZipStore(path, mode="r") if path.suffix == ".zip" else None
    store = zipped or ContainedStore(path, read_only=True)
    group = zarr.open_group(store, path=path.stem if zipped else "", mode="r", zarr_format=2)
    arrays = [group[check_level_path(path, one["path"])] for one in group.attrs["multiscales"][0]["datasets"]]

    def fetch(level: int, row: int, column: int) -> Pixels:
        planes = np.asarray(arrays[level][:, row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE])
        padding = ((0, TILE - planes.shape[1]), (0, TILE - planes.shape[2]), (0, 0))
        return np.pad(np.moveaxis(planes, 0, -1), padding, mode="edge")

    sizes = [Size(array.shape[2], array.shape[1]) for array in arrays]
    return ResultReader(path.name, sizes, fetch, zipped.close if zipped else lambda: None)


def open_segments(
    name: str, sizes: Sequence[Size], output_format: str, stripe_height: int, segment: Callable[[int], Segment | None]
) -> ResultReader:
    """What is finished of a result that is being made.

    Parameters
    ----------
    sizes
        Of the levels that stripes complete by themselves.
    segment
        A stripe's segment by its number, None while it is not finished. Not asked again for tiles that it had.
    """
    decode = get_format(output_format).decode

    def fetch(level: int, row: int, column: int) -> Pixels:
        rows = (stripe_height >> level) // TILE
        found = segment(row // rows)
        if found is None:
            return np.zeros((TILE, TILE, 4), np.uint8)
        tile = found.tile(level, row % rows, column)
        pixels = np.full((TILE, TILE, 3), tile.colour, np.uint8) if isinstance(tile, Blank) else decode(tile)
        return np.dstack([pixels, np.full((TILE, TILE), 255, np.uint8)])

    return ResultReader(name, sizes, fetch, lambda: None)
