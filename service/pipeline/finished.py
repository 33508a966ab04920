"""Checks that a segment contains the stripe of its file name.

Checksums detect changes after writing (`wsi.writers.segment`). An unchanged segment may still be that of another stripe
or of another version of the program; it is then made again.
"""

import numpy as np

from slidelift.service.pipeline.stripe import StripeSettings
from slidelift.service.pipeline.stripe_record import StripeRecord
from slidelift.service.pipeline.tile_mark import TileMark
from slidelift.wsi.errors import SegmentDamagedError
from slidelift.wsi.pyramid import TILE
from slidelift.wsi.tiling import Stripe, TilePlan
from slidelift.wsi.writers.segment import Segment


def require_finished(segment: Segment, settings: StripeSettings, stripe: Stripe) -> None:
    """Raise SegmentDamagedError unless the segment's tiles, remainder and record are those of the stripe."""
    if not (_has_record(segment, settings.plan, stripe) and _has_tiles(segment, settings, stripe)):
        raise SegmentDamagedError(segment.path, "it does not hold this stripe")


def _has_tiles(segment: Segment, settings: StripeSettings, stripe: Stripe) -> bool:
    """Whether the segment has each tile of each level once, and the remainder that coarser levels need."""
    index, size = segment.index, stripe.output.size
    for level in range(settings.levels):
        here, part = size.halved(level), index[(index["level"] == level) & (index["part"] == 0)]
        cells = {(int(one["row"]), int(one["column"])) for one in part}
        rows, columns = -(-here.height // TILE), -(-here.width // TILE)
        if len(part) != rows * columns or cells != {(row, column) for row in range(rows) for column in range(columns)}:
            return False
    remainder = size.halved(settings.levels)
    expected = (remainder.height, remainder.width, 3) if settings.has_top_levels else (0, 0, 3)
    return segment.remainder_shape == expected and not np.any(index["level"] >= settings.levels)


def _has_record(segment: Segment, plan: TilePlan, stripe: Stripe) -> bool:
    try:
        record = StripeRecord.of(segment)
    except SegmentDamagedError:
        return False
    rows = range(stripe.first_row, stripe.first_row + stripe.rows)
    places = [(row, column) for row, column, _ in record.consistency]
    places += [(bad.row, bad.column) for bad in record.bad_tiles]
    return (
        record.as_dict() == segment.report  # no other members
        and record.number == stripe.number
        and len(record.map) == stripe.rows
        and all(len(row) == plan.columns and set(row) <= set(TileMark) for row in record.map)
        and all(row in rows and 0 <= column < plan.columns for row, column in places)
        and all(rmse >= 0 for _, _, rmse in record.consistency)
    )
