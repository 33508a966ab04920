"""Compare every stored tile of a joined result with the segment that it came from."""

from collections.abc import Iterable
from pathlib import Path

from slidelift.wsi.errors import VerificationError
from slidelift.wsi.writers.formats import OutputFormat
from slidelift.wsi.writers.segment import Entry


def read_back(path: Path, output_format: OutputFormat, levels: Iterable[Iterable[Entry]], quality: int) -> None:
    """Raise unless each tile of the file at `path` has the bytes that it was joined from.

    Parameters
    ----------
    levels
        As `output_format.join` was given them.

    Raises
    ------
    VerificationError
        Names the level and the tile.
    """
    with output_format.stored(path) as stored:
        for level, entries in enumerate(levels):
            for entry in entries:
                for part, data in output_format.parts(entry, quality):
                    try:
                        same = stored(level, entry.row, entry.column, part) == data
                    except OSError as error:
                        raise _differs(path, level, entry, str(error)) from error
                    if not same:
                        raise _differs(path, level, entry, "it is not what was written")


def _differs(path: Path, level: int, entry: Entry, reason: str) -> VerificationError:
    place = f"level {level}, tile ({entry.row}, {entry.column})"
    return VerificationError(f"{path.name}: {place} can't be read back ({reason}); check the disk, then try again")
