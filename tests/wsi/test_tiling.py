"""Choice of the source, and tilings that cover the source and the output exactly once."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidelift.wsi.errors import NoSuchLevelError, PixelSizeMissingError, PlanError, RegionError, RoiError
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.roi import Roi
from slidelift.wsi.slide import Level, SlideInfo
from slidelift.wsi.tiling import SourcePlan, TilePlan, choose_level, is_close, plan_source, source_region

sides = st.integers(1, 5000)


def plan_of(width: int, height: int, **changes: object) -> TilePlan:
    rows, columns = -(-height // 256), -(-width // 256)
    values = {
        "level": 0,
        "source": Region(7, 3, width, height),
        "scale": 4,
        "halo": 18,
        "fade": 0,
        "batch": 1,
        "entropy": 3.0,
        "mask": ("1" * columns,) * rows,
    }
    return TilePlan(**{**values, **changes})


def info_of(*levels: tuple[int, int], bounds: Region | None = None) -> SlideInfo:
    widest = levels[0][0]
    return SlideInfo(
        "x.svs", "test", tuple(Level(Size(w, h), widest / w) for w, h in levels), (0.25, 0.25), 40, None, bounds
    )


@given(sides, sides)
def test_cores_cover_each_source_pixel_once(width: int, height: int) -> None:
    plan = plan_of(width, height)
    covered = np.zeros((height, width), np.uint8)
    for row in range(plan.rows):
        for column in range(plan.columns):
            core = plan.tile(row, column).core
            covered[core.y - 3 : core.bottom - 3, core.x - 7 : core.right - 7] += 1
    assert (covered == 1).all()


@given(sides, sides, st.sampled_from([1, 2, 3, 4]))
def test_stripes_cover_the_output_once_and_start_on_output_tiles(width: int, height: int, scale: int) -> None:
    plan = plan_of(width, height, scale=scale)
    y = row = 0
    for stripe in plan.stripes():
        assert (stripe.output.y, stripe.first_row) == (y, row)
        assert stripe.output.y % 512 == 0
        y, row = stripe.output.bottom, row + stripe.rows
    assert (y, row) == (plan.output.height, plan.rows)


@given(sides, sides, st.integers(0, 40), st.integers(0, 20))
def test_patches_hold_their_core_with_fade_and_halo_around(width: int, height: int, halo: int, fade: int) -> None:
    plan = plan_of(width, height, halo=halo, fade=fade)
    tile = plan.tile(plan.rows - 1, plan.columns - 1)
    assert tile.patch.size == Size(plan.patch, plan.patch)
    assert tile.core.x - tile.patch.x == tile.core.y - tile.patch.y == halo + fade
    assert tile.patch.contains(tile.core)


def test_a_stored_plan_is_the_same_plan() -> None:
    plan = plan_of(700, 300)
    assert TilePlan.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan


def test_level_zero_is_the_default() -> None:
    assert choose_level(info_of((4000, 3000), (1000, 750)), (0.25, 0.25), (4,), 4, None, None) == (0, 4)


def test_target_mpp_chooses_the_level_that_gives_it() -> None:
    info = info_of((4000, 3000), (1000, 750))
    assert choose_level(info, (0.25, 0.25), (4,), 4, 0.25, None) == (1, 4)
    assert choose_level(info, (0.25, 0.25), (1, 2, 3, 4), 4, 0.125, None) == (0, 2)


def test_the_finest_level_within_the_tolerance_is_taken_not_the_nearest_value() -> None:
    """Level 0 at 0.499 µm per pixel is preferred to 0.5 from a level with a quarter of the pixels."""
    levels = tuple(Level(Size(4000 // d, 3000 // d), downsample) for d, downsample in ((1, 1.0), (2, 2.0), (4, 4.008)))
    info = SlideInfo("x.svs", "test", levels, (0.499, 0.499), 20, None)
    assert choose_level(info, (0.499, 0.499), (1, 2, 3, 4), 4, 0.5, None) == (0, 1)
    assert choose_level(info, (0.499, 0.499), (2, 4), 4, 0.5, None) == (1, 2)
    assert choose_level(info, (0.499, 0.499), (4,), 4, 0.5, None) == (2, 4)
    assert choose_level(info, (0.499, 0.499), (1, 2, 3, 4), 4, 0.5, 2) == (2, 4)


@given(
    mpp=st.floats(0.06, 19),
    steps=st.lists(st.floats(1.01, 8), max_size=4),
    scales=st.sets(st.integers(1, 4), min_size=1),
    target=st.floats(0.02, 19),
)
def test_no_finer_level_gives_the_wanted_resolution(mpp, steps, scales, target) -> None:
    downsamples = [1.0]
    for step in steps:
        downsamples.append(downsamples[-1] * step)
    info = SlideInfo("x", "test", tuple(Level(Size(9, 9), one) for one in downsamples), (mpp, mpp), None, None)
    gives = {(n, s): mpp * one / s for n, one in enumerate(downsamples) for s in scales}
    fitting = [pair for pair, value in gives.items() if abs(value / target - 1) <= 0.05]
    try:
        found = choose_level(info, (mpp, mpp), tuple(scales), min(scales), target, None)
    except PlanError:
        assert fitting == []
        return
    assert found[0] == min(level for level, _ in fitting or [found])
    assert gives[found] == pytest.approx(target, rel=0.0501)


@pytest.mark.parametrize("ends", [0.95, 1.05])
def test_five_per_cent_are_within_five_per_cent(ends: float) -> None:
    for target in (0.1, 0.25, 0.3, 0.5, 0.7, 1.0, 2.0):
        assert is_close(target * ends, target)
        assert not is_close(target * (1 + (ends - 1) * 1.001), target)


def test_an_unreachable_target_lists_the_values_that_can_be_reached() -> None:
    with pytest.raises(PlanError, match=r"0\.0625, 0\.25"):
        choose_level(info_of((4000, 3000), (1000, 750)), (0.25, 0.25), (4,), 4, 0.1, None)


def test_a_missing_level_is_refused() -> None:
    with pytest.raises(NoSuchLevelError, match="levels 0 to 1"):
        choose_level(info_of((4000, 3000), (1000, 750)), (0.25, 0.25), (4,), 4, None, 2)


def test_region_is_in_level_zero_pixels() -> None:
    info = info_of((4000, 3000), (1000, 750))
    assert source_region(info, 1, Region(400, 800, 100, 40)) == Region(100, 200, 25, 10)
    assert source_region(info, 0, Region(400, 800, 100, 40)) == Region(400, 800, 100, 40)


def test_scanned_bounds_are_the_default_region() -> None:
    info = info_of((4000, 3000), bounds=Region(100, 200, 300, 400))
    assert source_region(info, 0, None) == Region(100, 200, 300, 400)


@pytest.mark.parametrize("region", [Region(3999, 0, 2, 1), Region(0, 0, 0, 5), Region(-1, 0, 5, 5)])
def test_a_region_outside_the_slide_is_refused(region: Region) -> None:
    with pytest.raises(RegionError, match="inside"):
        source_region(info_of((4000, 3000)), 0, region)


ROI = Roi((((((400.0, 800.0), (500.0, 800.0), (500.0, 840.0), (400.0, 800.0))),),))


def test_plan_source_takes_the_whole_of_level_zero_by_default() -> None:
    plan = plan_source(info_of((4000, 3000), (1000, 750)), (2, 4), 4, mpp=0.25)
    assert plan == SourcePlan((0.25, 0.25), 0, 4, Region(0, 0, 4000, 3000))
    assert plan.output == Size(16000, 12000)


def test_plan_source_converts_region_and_roi_to_the_chosen_level() -> None:
    info = info_of((4000, 3000), (1000, 750))
    for area in ({"region": (400, 800, 100, 40)}, {"roi": ROI}):
        plan = plan_source(info, (4,), 4, mpp=0.25, target_mpp=0.25, **area)
        assert (plan.level, plan.region) == (1, Region(100, 200, 25, 10))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"level": 2}, NoSuchLevelError),
        ({"level": -1}, NoSuchLevelError),
        ({"region": (3999, 0, 2, 1)}, RegionError),
        ({"region": (0, 0, 0, 5)}, RegionError),
        ({"region": (0, 0, 9, 9), "roi": ROI}, RoiError),
        ({"roi": Roi((((((-9.0, -9.0), (-1.0, -9.0), (-1.0, -1.0), (-9.0, -9.0))),),))}, RoiError),
        ({"target_mpp": 0.1}, PlanError),
        ({"mpp": None}, PixelSizeMissingError),
        ({"mpp": None, "level": 9, "region": (0, 0, 0, 0)}, NoSuchLevelError),
    ],
)
def test_plan_source_refuses_what_does_not_fit_the_slide(options: dict[str, Any], error: type[Exception]) -> None:
    info = replace(info_of((4000, 3000), (1000, 750)), mpp=None)
    with pytest.raises(error) as caught:
        plan_source(info, (4,), 4, **{"mpp": 0.25, **options})
    assert type(caught.value) is error
