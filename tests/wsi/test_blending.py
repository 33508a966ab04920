"""Blocks cover the stripe once, blending weights sum to one, and overlaps are cross-faded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidelift.wsi.blending import blender_for
from slidelift.wsi.geometry import Region
from slidelift.wsi.tiling import TilePlan


def plan_for(width: int, height: int, fade: int, scale: int = 2, rows_per_stripe: int = 2) -> TilePlan:
    core = 32
    rows, columns = -(-height // core), -(-width // core)
    return TilePlan(
        level=0,
        source=Region(5, 9, width, height),
        scale=scale,
        halo=4,
        fade=fade,
        batch=1,
        entropy=0,
        mask=("1" * columns,) * rows,
        core=core,
        rows_per_stripe=rows_per_stripe,
    )


def assemble(plan, upscale):
    """Blend each stripe separately, as workers do, and count how often each pixel is written."""
    image = np.zeros((plan.output.height, plan.output.width, 3), np.uint8)
    count = np.zeros(image.shape[:2], int)
    for stripe in plan.stripes():
        blender = blender_for(plan, stripe)
        for row in range(stripe.first_row, stripe.first_row + stripe.rows + blender.extra_rows):
            for column in range(plan.columns):
                tile = plan.tile(row, column)
                for block in blender.add(tile, upscale(tile)):
                    where = Region(block.x, block.y, block.pixels.shape[1], block.pixels.shape[0])
                    assert stripe.output.contains(where)
                    image[where.y : where.bottom, where.x : where.right] = block.pixels
                    count[where.y : where.bottom, where.x : where.right] += 1
    return image, count


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 150), st.integers(1, 200), st.sampled_from([0, 1, 5, 16]), st.sampled_from([1, 2, 3]))
def test_every_output_pixel_is_emitted_once_at_its_position(width, height, fade, scale) -> None:
    plan = plan_for(width, height, fade, scale)

    def upscale(tile):  # a patch whose pixels are its coordinates
        y, x = np.mgrid[0 : plan.patch * scale, 0 : plan.patch * scale]
        y, x = y + (tile.patch.y - 9) * scale, x + (tile.patch.x - 5) * scale
        values = np.stack([x % 251, y % 241, (x + y) % 239], axis=2)
        return values.astype(np.float32) if fade else values.astype(np.uint8)

    image, count = assemble(plan, upscale)
    y, x = np.mgrid[0 : plan.output.height, 0 : plan.output.width]
    assert (count == 1).all()
    assert (image == np.stack([x % 251, y % 241, (x + y) % 239], axis=2)).all()


@given(st.integers(0, 255), st.sampled_from([1, 5, 16]))
@settings(deadline=None, max_examples=20)
def test_weights_sum_to_one(value: int, fade: int) -> None:
    plan = plan_for(100, 130, fade)
    flat = np.full((plan.patch * 2, plan.patch * 2, 3), value, np.float32)
    image, _ = assemble(plan, lambda tile: flat)
    assert (image == value).all()


def test_different_neighbours_are_cross_faded() -> None:
    plan = plan_for(64, 64, 16, scale=2)

    def upscale(tile):
        return np.full(
            (plan.patch * 2, plan.patch * 2, 3), 200.0 if (tile.row + tile.column) % 2 else 100.0, np.float32
        )

    image, _ = assemble(plan, upscale)
    steps = [np.abs(np.diff(image[..., 0].astype(int), axis=axis)).max() for axis in (0, 1)]
    assert max(steps) <= 100 / 32 + 1


@pytest.mark.parametrize("rows_per_stripe", [1, 2, 8])
def test_result_is_independent_of_the_stripe_height(rows_per_stripe: int) -> None:
    rng = np.random.default_rng(0)
    reference = plan_for(100, 150, 8)
    patches = {
        (row, column): rng.uniform(0, 255, (reference.patch * 2, reference.patch * 2, 3)).astype(np.float32)
        for row in range(reference.rows)
        for column in range(reference.columns)
    }
    one, _ = assemble(plan_for(100, 150, 8, rows_per_stripe=3), lambda tile: patches[tile.row, tile.column])
    other, _ = assemble(
        plan_for(100, 150, 8, rows_per_stripe=rows_per_stripe), lambda tile: patches[tile.row, tile.column]
    )
    assert (one == other).all()
