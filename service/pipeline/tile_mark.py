"""Outcome of a tile, as one letter of the tile map."""

from enum import StrEnum

from slidelift.wsi.tile_mask import MaskCell
from slidelift.wsi.tiling import Tile


class TileMark(StrEnum):
    """One letter of the tile map."""

    TISSUE = "t"
    REJECTED = "r"
    GLASS = "g"
    OUTSIDE = "o"
    STRAYED = "s"
    BAD = "b"


TISSUE_MARKS = (TileMark.TISSUE, TileMark.STRAYED, TileMark.BAD)
"""Tissue tiles. A tile that could not be read counts as one, since it may hold tissue."""

MASKED_MARKS = (TileMark.GLASS, TileMark.OUTSIDE)
"""Tiles that the mask rejects before they are read."""


def mark_of(tile: Tile, *, is_tissue: bool) -> TileMark:
    """Mark of a tile that was read, by the mask and the entropy test (`is_tissue`)."""
    if is_tissue:
        return TileMark.TISSUE
    return {
        MaskCell.MAYBE_TISSUE: TileMark.REJECTED,
        MaskCell.GLASS: TileMark.GLASS,
        MaskCell.OUTSIDE: TileMark.OUTSIDE,
    }[tile.cell]
