"""Tests of the pyramid: 2x2 means with floor sizes, independent of the order of blocks."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import downscale_local_mean

from slidelift.wsi.geometry import Size
from slidelift.wsi.pyramid import TILE, PyramidBuilder, halve, level_sizes, levels_in_stripe


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def build(image, order, first=0, sizes=None, keep_remainder=False, pool=None):
    sizes = sizes or level_sizes(Size(image.shape[1], image.shape[0]))
    tiles: dict[tuple[int, int, int], np.ndarray] = {}
    builder = PyramidBuilder(
        sizes, lambda level, row, column, tile: tiles.update({(level, row, column): tile}), first, keep_remainder, pool
    )
    for x, y, width, height in order:
        builder.add(x, y, image[y : y + height, x : x + width])
    builder.finish()
    return tiles, builder.remainder


def stitch(tiles, level, size):
    image = np.zeros((-(-size.height // TILE) * TILE, -(-size.width // TILE) * TILE, 3), np.uint8)
    for (of, row, column), tile in tiles.items():
        if of == level:
            image[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] = tile
    return image[: size.height, : size.width]


@pytest.mark.parametrize("size", [(2, 2), (7, 5), (100, 1), (512, 513)])
def test_halving_is_the_mean_of_four_rounded_half_up(size: tuple[int, int]) -> None:
    image = picture(*size)
    even = image[: size[1] // 2 * 2, : size[0] // 2 * 2]
    expected = np.floor(downscale_local_mean(even.astype(float), (2, 2, 1)) + 0.5) if even.size else even[::2, ::2]
    assert (halve(image) == expected).all()


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 1400), st.integers(1, 1400), st.sampled_from([200, 512, 700]), st.randoms(), st.booleans())
def test_tiles_are_independent_of_the_order_of_blocks(width, height, step, random, in_threads) -> None:
    image = picture(width, height)
    order = [
        (x, y, min(step, width - x), min(step, height - y))
        for y in range(0, height, step)
        for x in range(0, width, step)
    ]
    random.shuffle(order)
    with ThreadPoolExecutor(2) as pool:
        tiles, _ = build(image, order, pool=pool if in_threads else None)
    for level, size in enumerate(level_sizes(Size(width, height))):
        assert (stitch(tiles, level, size) == image).all()
        image = halve(image)


def test_edge_tiles_repeat_their_last_row_and_column() -> None:
    image = picture(600, 100)
    tiles, _ = build(image, [(0, 0, 600, 100)])
    tile = tiles[0, 0, 1]
    assert (tile[:100, 88:] == image[:, -1:]).all()
    assert (tile[100:, :88] == image[-1:, 512:]).all()


def test_coarsest_level_fits_a_tile() -> None:
    assert level_sizes(Size(8880, 11868))[-1] == Size(277, 370)
    assert level_sizes(Size(512, 512)) == (Size(512, 512),)
    assert level_sizes(Size(5000, 1)) == (Size(5000, 1),)


@pytest.mark.parametrize(("scale", "expected"), [(4, 5), (2, 4), (3, 3), (1, 3)])
def test_levels_in_stripe(scale: int, expected: int) -> None:
    assert levels_in_stripe(8 * 256 * scale, 9) == expected


def test_remainder_is_the_first_level_that_is_not_built() -> None:
    image = picture(1030, 700)
    _, remainder = build(image, [(0, 0, 1030, 700)], sizes=(Size(1030, 700), Size(515, 350)), keep_remainder=True)
    assert (remainder == halve(halve(image))).all()


def test_missing_block_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="incomplete"):
        build(picture(600, 600), [(0, 0, 600, 300)])


def test_duplicate_block_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="twice"):
        build(picture(600, 600), [(0, 0, 500, 500), (0, 0, 500, 500)])
