"""Whether a segment holds the stripe that it is named after, whatever has become of the file.

Checksums find what a disk altered (`wsi.writers.segment`). What was whole when it was written, but is another stripe or
was told by another program, is found here, so that it is made anew and nothing fails over it later.
"""

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np

from slidelift.service.pipeline.stripe import TOLD, Mark, StripeOrder, StripeReport
from slidelift.wsi.errors import SegmentDamagedError
from slidelift.wsi.pyramid import TILE
from slidelift.wsi.seam import is_seam
from slidelift.wsi.tiling import Stripe, TilePlan
from slidelift.wsi.writers.segment import Segment


def require_finished(segment: Segment, order: StripeOrder, stripe: Stripe) -> None:
    """Raise SegmentDamagedError unless the segment's tiles, rest and report are those of the stripe."""
    if not (_is_report(segment.report, order.plan, stripe) and _holds_tiles(segment, order, stripe)):
        raise SegmentDamagedError(segment.path, "it does not hold this stripe")


def _holds_tiles(segment: Segment, order: StripeOrder, stripe: Stripe) -> bool:
    """Whether each tile of each level is there once, and the rest where one is wanted."""
    index, size = segment.index, stripe.output.size
    for level in range(order.levels):
        here, part = size.halved(level), index[(index["level"] == level) & (index["part"] == 0)]
        cells = {(int(one["row"]), int(one["column"])) for one in part}
        rows, columns = -(-here.height // TILE), -(-here.width // TILE)
        if len(part) != rows * columns or cells != {(row, column) for row in range(rows) for column in range(columns)}:
            return False
    rest = size.halved(order.levels)
    wanted = (rest.height, rest.width, 3) if order.more_levels else (0, 0, 3)
    return segment.remainder_shape == wanted and not np.any(index["level"] >= order.levels)


def _is_report(report: Any, plan: TilePlan, stripe: Stripe) -> bool:
    if not isinstance(report, dict) or report.keys() != {field.name for field in fields(StripeReport)}:
        return False

    def is_cell(row: Any, column: Any) -> bool:
        return (
            _is_count(row)
            and _is_count(column)
            and stripe.first_row <= row < stripe.first_row + stripe.rows
            and column < plan.columns
        )

    def is_bad(one: Any) -> bool:
        return (
            isinstance(one, dict)
            and one.keys() == set(TOLD)
            and is_cell(one["row"], one["column"])
            and all(_is_list(one[name], _is_whole) and len(one[name]) == 4 for name in ("region", "affected"))
            and isinstance(one["cause"], str)
            and isinstance(one["remedy"], str)
        )

    def is_score(one: Any) -> bool:
        return isinstance(one, list) and len(one) == 3 and is_cell(*one[:2]) and _is_figure(one[2])

    def is_row(one: Any) -> bool:
        return isinstance(one, str) and len(one) == plan.columns and set(one) <= set(Mark)

    return (
        report["number"] == stripe.number
        and _is_list(report["map"], is_row)
        and len(report["map"]) == stripe.rows
        and _is_list(report["consistency"], is_score)
        and _is_list(report["bad_tiles"], is_bad)
        and _is_list(report["incidents"], lambda one: isinstance(one, str))
        and is_seam(report["seam"])
    )


def _is_list(value: Any, of: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(of(one) for one in value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 0


def _is_figure(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
