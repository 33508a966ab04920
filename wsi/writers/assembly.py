"""Assembly of the levels of a result from the segments of its stripes.

Segments hold the tiles of the levels that a stripe completes by itself. The coarser levels (`top_levels`) are built
here, from the rows that each segment keeps of its first incomplete level.
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
    """Build and encode the levels from `first` on, into a segment of their own.

    Memory: the rows that one segment keeps, and the unfinished tiles of these levels.
    """
    with SegmentWriter(path) as writer:

        def emit(level: int, row: int, column: int, tile: Pixels) -> None:
            writer.put(level, row, column, detect_blank(tile) or encode(tile))

        builder = PyramidBuilder(sizes[first:], emit, first)
        y = 0
        for segment in segments:
            rows = segment.remainder()
            if rows is not None:
                builder.add(0, y, rows)
                y += rows.shape[0]
        builder.finish()
        writer.finish(None, {})
    return Segment(path)


def assemble_levels(
    segments: Sequence[Segment],
    top_levels: Segment | None,
    stripe_height: int,
    sizes: Sequence[Size],
    in_stripes: int,
    check_cancelled: Callable[[], None],
) -> Iterator[Iterator[Entry]]:
    """Yield the entries of each level, finest first, in the order of rows and columns of the whole result.

    Parameters
    ----------
    stripe_height
        In pixels of level 0 of the result.
    in_stripes
        Number of levels that stripes complete by themselves.
    check_cancelled
        Called before each segment is read; may raise to stop.

    Raises
    ------
    VerificationError
        A tile is missing; raised at the end of its level.
    """
    for level, size in enumerate(sizes):
        if level < in_stripes:
            yield _level_entries(segments, level, size, (stripe_height >> level) // TILE, check_cancelled)
        else:
            yield _level_entries([] if top_levels is None else [top_levels], level, size, 0, check_cancelled)


def _level_entries(
    segments: Sequence[Segment], level: int, size: Size, rows_per_segment: int, check_cancelled: Callable[[], None]
) -> Iterator[Entry]:
    count = 0
    for number, segment in enumerate(segments):
        check_cancelled()
        for entry in segment.entries(level):
            count += entry.part == 0
            row = entry.row + number * rows_per_segment
            yield Entry(entry.level, row, entry.column, entry.part, entry.payload)
    expected = -(-size.width // TILE) * -(-size.height // TILE)
    if count != expected:
        raise VerificationError(f"level {level} of the result has {count} tiles instead of {expected}; try again")
