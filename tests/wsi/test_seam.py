"""The seam figure: 1 for an image without tiles, more where tile borders are visible."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from slidelift.wsi.blending import Block
from slidelift.wsi.geometry import Region
from slidelift.wsi.seam import DirectionSums, Seam, SeamGauge, SeamSums
from slidelift.wsi.tiling import TilePlan

SCALE, HALO = 2, 8
SIDE = 1024


def picture(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return gaussian_filter(rng.normal(128, 300, (SIDE, SIDE, 3)), (4, 4, 0)).clip(0, 255).astype(np.uint8)


def measured(result: np.ndarray, source: np.ndarray, counted=lambda tile: True) -> Seam:
    plan = TilePlan(0, Region(0, 0, SIDE, SIDE), SCALE, HALO, 0, 1, 0.0, ("1111",) * 4)
    padded = np.pad(source, ((HALO, HALO), (HALO, HALO), (0, 0)), "symmetric")
    gauge = SeamGauge(plan)
    for row in range(4):
        for column in range(4):
            tile = plan.tile(row, column)
            patch = padded[tile.patch.y + HALO :, tile.patch.x + HALO :][: plan.patch, : plan.patch]
            x, y, side = column * 256 * SCALE, row * 256 * SCALE, 256 * SCALE
            block = Block(x, y, result[y : y + side, x : x + side])
            gauge.add(tile, block, patch, counted=counted(tile))
    return Seam.of([gauge.sums()])


def enlarged(source: np.ndarray) -> np.ndarray:
    return source.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def test_image_without_tiles_has_figure_one() -> None:
    found = measured(enlarged(picture()), picture())
    assert found.figure == 1.0
    assert found.result == pytest.approx(1.0, abs=0.05)
    assert found.borders == 2 * 3 * SIDE * SCALE


def test_tiles_that_differ_by_a_few_levels_raise_the_figure() -> None:
    result, rng = enlarged(picture()).astype(int), np.random.default_rng(1)
    side = 256 * SCALE
    for y in range(0, SIDE * SCALE, side):
        for x in range(0, SIDE * SCALE, side):
            result[y : y + side, x : x + side] += rng.integers(-8, 9)
    figure = measured(result.clip(0, 255).astype(np.uint8), picture()).figure
    assert figure is not None
    assert figure > 1.2


def test_seams_of_the_source_do_not_raise_the_figure() -> None:
    source = picture().astype(int)
    source[:, 256:512] += 20
    source = source.clip(0, 255).astype(np.uint8)
    found = measured(enlarged(source), source)
    assert found.result is not None
    assert found.result > 1.2
    assert found.figure == 1.0


def test_only_borders_between_counted_tiles_are_measured() -> None:
    found = measured(enlarged(picture()), picture(), lambda tile: tile.row == 1 and tile.column < 2)
    assert found.borders == 256 * SCALE
    assert measured(enlarged(picture()), picture(), lambda tile: False).figure is None


def test_sums_of_stripes_can_be_added() -> None:
    whole = measured(enlarged(picture()), picture())
    plan = TilePlan(0, Region(0, 0, SIDE, SIDE), SCALE, HALO, 0, 1, 0.0, ("1111",) * 4)
    empty = SeamGauge(plan).sums()
    assert Seam.of([empty]).borders == 0
    assert whole.borders > 0
    one = SeamSums(DirectionSums((1, 2), (3, 4), (5, 6), (7, 8)), DirectionSums((8, 7), (6, 5), (4, 3), (2, 1)))
    assert one + empty == one
    assert one + one == SeamSums(
        DirectionSums((2, 4), (6, 8), (10, 12), (14, 16)), DirectionSums((16, 14), (12, 10), (8, 6), (4, 2))
    )
