"""Comparison of every stored tile of a result with the segment that it was copied from."""

from collections.abc import Iterable
from pathlib import Path

from slidelift.wsi.errors import VerificationError
from slidelift.wsi.writers.formats import OutputFormat
from slidelift.wsi.writers.segment import Entry


def read_back(path: Path, output_format: OutputFormat, levels: Iterable[Iterable[Entry]], quality: int) -> None:
    """Raise if a tile of the file at `path` differs from its entry.

    Parameters
    ----------
    levels
        The levels that were passed to `output_format.write`.

    Raises
    ------
    VerificationError
        The message names the level and the tile.
    """
    with output_format.open_stored(path) as read:
        for level, entries in enumerate(levels):
            for entry in entries:
                for part, data in output_format.stored_parts(entry, quality):
                    try:
                        is_equal = read(level, entry.row, entry.column, part) == data
                    except OSError as error:
                        raise _read_back_error(path, level, entry, str(error)) from error
                    if not is_equal:
                        raise _read_back_error(path, level, entry, "it differs from what was written")


def _read_back_error(path: Path, level: int, entry: Entry, reason: str) -> VerificationError:
    tile = f"level {level}, tile ({entry.row}, {entry.column})"
    return VerificationError(f"{path.name}: {tile} can't be read back ({reason}); check the disk, then try again")
