"""Segments of all stripes -> the levels of the whole, in file order.

Stripes bring the tiles of the levels they complete by themselves; the coarser ones (the top_levels) are made here from
the raw rows that each stripe kept of its first incomplete level.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from slidelift.wsi.errors import VerificationError
from slidelift.wsi.geometry import Size
from slidelift.wsi.pyramid import TILE, PyramidBuilder
from slidelift.wsi.slide import Pixels
from slidelift.wsi.writers.segment import Entry, Segment, SegmentWriter, detect_blank


def build_top_levels(
    path: Path,
    segments: Sequence[Segment],
    sizes: tuple[Size, ...],
    first: int,
    encode: Callable[[Pixels], Sequence[bytes]],
) -> Segment:
    """Encode the levels from `first` on into a segment of their own.

    Memory: one stripe's raw rows, and the tiles of the top_levels that are begun.
    """
    with SegmentWriter(path) as writer:

        def emit(level: int, row: int, column: int, tile: Pixels) -> None:
            writer.put(level, row, column, detect_blank(tile) or encode(tile))

        builder = PyramidBuilder(sizes[first:], emit, first)
        y = 0
        for segment in segments:
            remainder = segment.remainder()
            if remainder is not None:
                builder.add(0, y, remainder)
                y += remainder.shape[0]
        builder.finish()
        writer.finish(None, {})
    return Segment(path)


def assemble_levels(
    segments: Sequence[Segment],
    top_levels: Segment | None,
    stripe_height: int,
    sizes: Sequence[Size],
    in_stripes: int,
    check: Callable[[], None],
) -> Iterator[Iterator[Entry]]:
    """For each level, its entries in the order of rows and columns, rows counted from the top of the result.

    Parameters
    ----------
    check
        Called before each segment is read; may raise to stop.

    Raises
    ------
    VerificationError
        After a level of which a tile is missing.
    """
    for level, size in enumerate(sizes):
        parts = segments if level < in_stripes else [] if top_levels is None else [top_levels]
        yield _counted(parts, level, size, (stripe_height >> level) // TILE if level < in_stripes else 0, check)


def _counted(parts: Sequence[Segment], level: int, size: Size, rows: int, check: Callable[[], None]) -> Iterator[Entry]:
    found = 0
    for number, segment in enumerate(parts):
        check()
        for entry in segment.entries(level):
            found += entry.part == 0
            yield Entry(entry.level, entry.row + number * rows, entry.column, entry.part, entry.payload)
    expected = -(-size.width // TILE) * -(-size.height // TILE)
    if found != expected:
        raise VerificationError(f"level {level} has {found} of its {expected} tiles")
