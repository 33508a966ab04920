"""The mask of a plan: tissue, glass, and tiles outside a region of interest."""

from slidelift.wsi.geometry import Region
from slidelift.wsi.provenance import Provenance
from slidelift.wsi.tile_mask import MaskCell, maybe_tissue_count, with_outside
from slidelift.wsi.tiling import TilePlan


def plan_of(mask: tuple[str, ...]) -> TilePlan:
    return TilePlan(0, Region(0, 0, 512, 512), 4, 2, 0, 1, 3.0, mask)


def test_untouched_tiles_are_outside_whether_they_hold_tissue_or_glass() -> None:
    mask = with_outside(("10", "11"), ("01", "10"))
    assert mask == ("o0", "1o")
    assert maybe_tissue_count(mask) == 1
    plan = plan_of(mask)
    assert [plan.tile(row, column).cell for row in (0, 1) for column in (0, 1)] == [
        MaskCell.OUTSIDE,
        MaskCell.GLASS,
        MaskCell.MAYBE_TISSUE,
        MaskCell.OUTSIDE,
    ]
    assert [plan.tile(1, column).maybe_tissue for column in (0, 1)] == [True, False]
    assert TilePlan.from_dict(plan.as_dict()) == plan


def test_outside_and_glass_give_the_same_identity() -> None:
    """Both are resampled, so that no pixel depends on the difference."""
    outside, glass, tissue = (
        Provenance("ab", (0.5, 0.5), None, "bicubic", "", "uint8", "ome-tiff q90", plan_of((row, "11"))).identity
        for row in ("o1", "01", "11")
    )
    assert outside == glass != tissue
