"""Readers for this program's own output: finished results, and the finished stripes of a running job."""

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
from slidelift.wsi.readers.zarr_store import ContainedStore, check_level_path
from slidelift.wsi.slide import Level, Pixels, SlideInfo
from slidelift.wsi.writers import ome_tiff
from slidelift.wsi.writers.formats import get_format
from slidelift.wsi.writers.segment import Blank, Segment

ReadTile = Callable[[int, int, int], Pixels]
"""Decodes one tile, by level, row and column, to uint8 (512, 512, channels)."""
# Decoded tiles, 0.75 MB each, which neighbouring viewer tiles need again.
_CACHED_TILES = 24


class ResultReader:
    """Reader of a pyramid of 512-px tiles with downsamples 1, 2, 4, ...; not thread-safe."""

    def __init__(
        self,
        name: str,
        sizes: Sequence[Size],
        read_tile: ReadTile,
        close: Callable[[], None],
        path: Path | None = None,
    ) -> None:
        levels = tuple(Level(size, float(1 << number)) for number, size in enumerate(sizes))
        self.info = SlideInfo(name, "result", levels, None, None, None)
        self._read_tile, self._close = lru_cache(_CACHED_TILES)(read_tile), close
        self._path = path or Path(name)

    def read_region(self, level: int, region: Region) -> Pixels:
        """See `SlideReader.read_region`; RGBA for `open_segments`, with alpha 0 where no stripe is finished."""
        columns = range(region.x // TILE, -(-region.right // TILE))
        rows = range(region.y // TILE, -(-region.bottom // TILE))
        try:
            tiles = [
                np.concatenate([self._read_tile(level, row, column) for column in columns], axis=1) for row in rows
            ]
        except (SegmentDamagedError, *DECODER_ERRORS) as error:
            cause = library_message(error, self._path, self.info.name)
            raise TileReadError(self.info.name, level, region, cause) from error
        top, left = region.y % TILE, region.x % TILE
        return np.concatenate(tiles, axis=0)[top : top + region.height, left : left + region.width]

    def close(self) -> None:
        """Close the file handles."""
        self._read_tile.cache_clear()
        self._close()


def open_result(path: Path, output_format: str, name: str | None = None) -> ResultReader:
    """Open a finished result: an OME-TIFF, or an OME-Zarr as folder or zip archive.

    Parameters
    ----------
    name
        Name of the result in messages; None for the name of its file.

    Raises
    ------
    SlideUnreadableError
        The file is missing or damaged.
    """
    name = name or path.name
    try:
        return _open_tiff(path, name) if output_format == ome_tiff.NAME else _open_zarr(path, name)
    except (tifffile.TiffFileError, BadZipFile, *DECODER_ERRORS) as error:
        cause = library_message(error, path, name)
        raise SlideUnreadableError(f"{name}: the result can't be opened ({cause}); compute it again") from error


def _open_tiff(path: Path, name: str) -> ResultReader:
    require_alone(path, name)
    tiff = tifffile.TiffFile(path, _multifile=False)
    pages = [level.pages[0] for level in tiff.series[0].levels]
    decode = get_format(ome_tiff.NAME).decode

    def read_tile(level: int, row: int, column: int) -> Pixels:
        page = pages[level]
        index = row * -(-page.imagewidth // TILE) + column
        tiff.filehandle.seek(page.dataoffsets[index])
        return decode((tiff.filehandle.read(page.databytecounts[index]),))

    sizes = [Size(page.imagewidth, page.imagelength) for page in pages]
    return ResultReader(name, sizes, read_tile, tiff.close, path)


def _open_zarr(path: Path, name: str) -> ResultReader:
    zipped = zarr.storage.ZipStore(path, mode="r") if path.suffix == ".zip" else None
    store = zipped or ContainedStore(path, read_only=True)
    group = zarr.open_group(store, path=path.stem if zipped else "", mode="r", zarr_format=2)
    arrays = [group[check_level_path(path, dataset["path"])] for dataset in group.attrs["multiscales"][0]["datasets"]]

    def read_tile(level: int, row: int, column: int) -> Pixels:
        planes = np.asarray(arrays[level][:, row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE])
        padding = ((0, TILE - planes.shape[1]), (0, TILE - planes.shape[2]), (0, 0))
        return np.pad(np.moveaxis(planes, 0, -1), padding, mode="edge")

    sizes = [Size(array.shape[2], array.shape[1]) for array in arrays]
    return ResultReader(name, sizes, read_tile, zipped.close if zipped else lambda: None, path)


def open_segments(
    name: str, sizes: Sequence[Size], output_format: str, stripe_height: int, segment: Callable[[int], Segment | None]
) -> ResultReader:
    """Open the finished stripes of a running job as a slide, transparent where no stripe is finished.

    Parameters
    ----------
    sizes
        Sizes of the levels that stripes complete by themselves, finest first.
    segment
        Returns a stripe's segment by its index, None until the stripe is finished; not called for cached tiles.
    """
    decode = get_format(output_format).decode

    def read_tile(level: int, row: int, column: int) -> Pixels:
        rows = (stripe_height >> level) // TILE
        stripe = segment(row // rows)
        if stripe is None:
            return np.zeros((TILE, TILE, 4), np.uint8)
        tile = stripe.tile(level, row % rows, column)
        pixels = np.full((TILE, TILE, 3), tile.colour, np.uint8) if isinstance(tile, Blank) else decode(tile)
        return np.dstack([pixels, np.full((TILE, TILE), 255, np.uint8)])

    return ResultReader(name, sizes, read_tile, lambda: None)
