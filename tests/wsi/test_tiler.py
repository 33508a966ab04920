"""Tests of reading patches: mirroring at the edge, and unreadable tiles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidelift.wsi.bad_tile import Remedy
from slidelift.wsi.errors import TileReadError
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.tiler import Tiler
from slidelift.wsi.tiling import TilePlan


def plan_for(source: Region, **changes: object) -> TilePlan:
    rows, columns = -(-source.height // 256), -(-source.width // 256)
    values = {
        "level": 0,
        "source": source,
        "scale": 4,
        "halo": 18,
        "fade": 0,
        "batch": 1,
        "entropy": 0.0,
        "mask": ("1" * columns,) * rows,
    }
    return TilePlan(**{**values, **changes})


def read_all(reader, plan, *, mark_bad=False, **options):
    tiler = Tiler(reader, plan, mark_bad=mark_bad, **options)
    try:
        return list(tiler.rows(0, plan.rows))
    finally:
        tiler.close()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 40), st.sampled_from([0, 16]))
def test_patches_equal_the_mirrored_slide(formula_reader, formula_pixels, width, height, halo, fade) -> None:
    plan = plan_for(Region(0, 0, width, height), halo=halo, fade=fade)
    margin = plan.patch + 256
    padded = np.pad(
        formula_pixels(Region(0, 0, width, height)), ((margin, margin), (margin, margin), (0, 0)), "symmetric"
    )
    for batch in read_all(formula_reader(Size(width, height)), plan):
        for tile, pixels in zip(batch.tiles, batch.pixels, strict=True):
            y, x = tile.patch.y + margin, tile.patch.x + margin
            assert (pixels == padded[y : y + plan.patch, x : x + plan.patch]).all()


def test_context_of_a_region_is_read_from_the_slide(formula_reader, formula_pixels) -> None:
    plan = plan_for(Region(300, 300, 256, 256))
    (batch,) = read_all(formula_reader(Size(1000, 1000)), plan)
    assert (batch.pixels[0] == formula_pixels(Region(282, 282, 292, 292))).all()


def test_pixels_are_independent_of_threads_and_window(formula_reader) -> None:
    plan = plan_for(Region(0, 0, 9000, 600))
    one = read_all(formula_reader(Size(9000, 600)), plan, threads=1, window=1)
    many = read_all(formula_reader(Size(9000, 600)), plan, threads=8, window=3)
    assert [batch.tiles for batch in one] == [batch.tiles for batch in many]
    assert all((a.pixels == b.pixels).all() for a, b in zip(one, many, strict=True))


def test_read_ahead_is_bounded(formula_reader) -> None:
    reader = formula_reader(Size(256 * 16 * 20, 100))
    plan = plan_for(Region(0, 0, reader.size.width, 100))
    tiler = Tiler(reader, plan, mark_bad=False, window=2)
    try:
        next(tiler.rows(0, 1))
        assert len(reader.reads) <= 4
    finally:
        tiler.close()


def test_tiles_outside_the_mask_are_not_tissue(formula_reader) -> None:
    plan = plan_for(Region(0, 0, 512, 256), mask=("01",))
    (batch,) = read_all(formula_reader(Size(512, 256)), plan)
    assert batch.tissue.tolist() == [False, True]


def test_unreadable_tile_raises_by_default(formula_reader) -> None:
    reader = formula_reader(Size(1000, 600), broken=(Region(600, 300, 20, 20),))
    with pytest.raises(TileReadError, match="level 0"):
        read_all(reader, plan_for(Region(0, 0, 1000, 600)))


def test_only_unreadable_pixels_are_replaced_and_reported(formula_reader, formula_pixels) -> None:
    broken = Region(600, 330, 20, 20)
    reader = formula_reader(Size(1000, 600), broken=(broken,))
    plan = plan_for(Region(0, 0, 1000, 600))
    batches = read_all(reader, plan, mark_bad=True)
    (bad,) = [bad for batch in batches for bad in batch.bad]
    assert (bad.row, bad.column, bad.remedy) == (1, 2, Remedy.BLANK)
    assert bad.unreadable.contains(broken)
    assert bad.unreadable.width * bad.unreadable.height <= 128 * 128
    patch, seen = batches[1].pixels[2], plan.tile(1, 2).patch
    truth = formula_pixels(seen)
    inside = bad.unreadable.moved(-seen.x, -seen.y)
    same = (patch == truth).all(axis=2)
    assert (patch[inside.y : inside.bottom, inside.x : inside.right] == 255).any()
    same[inside.y : inside.bottom, inside.x : inside.right] = True
    assert same.all()
    assert not batches[1].tissue[2]


def test_tile_with_unreadable_context_keeps_its_own_pixels(formula_reader, formula_pixels) -> None:
    reader = formula_reader(Size(1000, 600), broken=(Region(515, 10, 5, 5),))
    batches = read_all(reader, plan_for(Region(0, 0, 1000, 600)), mark_bad=True)
    told = {(bad.row, bad.column): bad.remedy for batch in batches for bad in batch.bad}
    assert told == {(0, 1): Remedy.MIRRORED_CONTEXT, (0, 2): Remedy.BLANK}
    assert (batches[0].pixels[1][18:274, 18:274] == formula_pixels(Region(256, 0, 256, 256))).all()
    assert batches[0].tissue[1]


def test_mirrored_context_does_not_reach_into_the_fade(formula_reader, formula_pixels) -> None:
    reader = formula_reader(Size(1000, 1000), broken=(Region(515, 520, 8, 8),))
    plan = plan_for(Region(0, 0, 1000, 1000), fade=32)
    for batch in read_all(reader, plan, mark_bad=True):
        for tile, patch in zip(batch.tiles, batch.pixels, strict=True):
            kept = Region(tile.patch.x + 18, tile.patch.y + 18, 32 + tile.core.width, 32 + tile.core.height)
            kept = kept.intersect(Region(0, 0, 1000, 1000))
            local = kept.moved(-tile.patch.x, -tile.patch.y)
            same = (patch[local.y : local.bottom, local.x : local.right] == formula_pixels(kept)).all(axis=2)
            assert (~same).sum() <= 128 * 128


def test_coarser_level_is_used_before_white(formula_reader) -> None:
    reader = formula_reader(Size(2000, 1200), (1, 4), broken=(Region(600, 330, 20, 20),))
    batches = read_all(reader, plan_for(Region(0, 0, 2000, 1200)), mark_bad=True)
    (bad,) = [bad for batch in batches for bad in batch.bad]
    assert bad.remedy is Remedy.COARSER_LEVEL


def test_all_tiles_of_an_unreadable_slide_are_reported(formula_reader) -> None:
    reader = formula_reader(Size(600, 300), broken_levels=(0,))
    batches = read_all(reader, plan_for(Region(0, 0, 600, 300)), mark_bad=True)
    assert sum(len(batch.bad) for batch in batches) == 6
    assert all((batch.pixels == 255).all() for batch in batches)
