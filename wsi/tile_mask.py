"""The mask of a plan: what the low-resolution survey and the region of interest say of each tile."""

from collections.abc import Sequence
from enum import StrEnum


class MaskCell(StrEnum):
    """One tile of the mask, as one letter."""

    MAYBE_TISSUE = "1"
    GLASS = "0"
    OUTSIDE = "o"
    """Outside the region of interest."""


def with_outside(mask: Sequence[str], touched: Sequence[str]) -> tuple[str, ...]:
    """Mark the tiles outside a region of interest.

    Parameters
    ----------
    mask
        As `wsi.tissue.Survey.tissue_rows` returns it.
    touched
        As `wsi.roi.Roi.tile_rows` returns it for the same grid.
    """
    return tuple(
        "".join(cell if inside == "1" else MaskCell.OUTSIDE for cell, inside in zip(*rows, strict=True))
        for rows in zip(mask, touched, strict=True)
    )


def maybe_tissue_count(mask: Sequence[str]) -> int:
    """Number of tiles that may hold tissue."""
    return sum(row.count(MaskCell.MAYBE_TISSUE) for row in mask)
