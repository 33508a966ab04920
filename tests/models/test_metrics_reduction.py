"""Reductions and downscale consistency."""

import math

import numpy as np
import pytest
from PIL import Image

from slidelift.models.metrics.consistency import downscale_consistency, mean_consistency, worst_block
from slidelift.models.metrics.reduction import REDUCTIONS, area, bicubic, gaussian


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_mirroring_and_reducing_commute(image, name, scale):
    reduce = REDUCTIONS[name]
    mirrored = reduce(np.ascontiguousarray(image[::-1, ::-1]), scale).astype(int)
    assert mirrored.shape == (24 // scale, 36 // scale, 3)
    assert abs(mirrored[::-1, ::-1] - reduce(image, scale)).max() <= 1  # a half may be rounded either way


@pytest.mark.parametrize("name", REDUCTIONS)
def test_constant_colour_is_kept(name):
    flat = np.full((24, 36, 3), (3, 128, 250), np.uint8)
    assert np.array_equal(REDUCTIONS[name](flat, 4), flat[::4, ::4])


def test_bicubic_equals_pillows(image):
    expected = Image.fromarray(image).resize((9, 6), Image.Resampling.BICUBIC)
    assert np.array_equal(bicubic(image, 4), np.asarray(expected))


def test_area_is_the_mean_of_each_block(image):
    squares = image.reshape(6, 4, 9, 4, 3).mean(axis=(1, 3))
    assert np.abs(area(image, 4) - squares).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("scale", [2, 3])
def test_gaussian_equals_the_direct_sum(image, scale):
    sigma, (row, column) = 0.4 * scale, (24 // scale // 2, 36 // scale // 2)
    y, x = np.mgrid[:24, :36]
    middle = scale * np.array([row, column]) + (scale - 1) / 2
    weight = np.exp(-((y - middle[0]) ** 2 + (x - middle[1]) ** 2) / (2 * sigma**2))
    expected = (weight[..., None] * image).sum(axis=(0, 1)) / weight.sum()
    assert np.abs(gaussian(image, scale)[row, column] - expected).max() <= 0.51


def test_nearest_enlargement_is_consistent_with_area_and_not_with_bicubic(image):
    enlarged = image.repeat(4, axis=0).repeat(4, axis=1)
    assert downscale_consistency(enlarged, image, area) == math.inf
    assert 10 < downscale_consistency(enlarged, image) < 40


def test_consistency_of_a_uniform_shift(image):
    flat, source = np.full((40, 40, 3), 103, np.uint8), np.full((10, 10, 3), 100, np.uint8)
    # an error of 3 everywhere: 20 log10(255 / 3) = 38.588 dB
    assert downscale_consistency(flat, source) == pytest.approx(38.588, abs=0.001)


def test_truth_is_consistent_with_its_own_reduction(image):
    assert downscale_consistency(image, bicubic(image, 4)) == math.inf


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_worst_block_is_found(image, kind):
    enlarged = image.repeat(4, axis=0).repeat(4, axis=1).astype(kind)
    assert worst_block(enlarged, image) == mean_consistency(enlarged, image) == 0
    enlarged[4 * 16 : 4 * 24, 4 * 32 :] = 255 - enlarged[4 * 16 : 4 * 24, 4 * 32 :]  # the last, half a block wide
    off = 255 - 2.0 * image[16:24, 32:]
    whole = 255 - 2.0 * image[16:24, 32:36]
    assert worst_block(enlarged, image) == pytest.approx(np.sqrt((off**2).sum() / whole.size))
    assert worst_block(enlarged, image) > 3 * mean_consistency(enlarged, image)


def test_image_smaller_than_a_block_is_one_block():
    source = np.full((3, 5, 3), 100, np.uint8)
    assert worst_block(np.full((6, 10, 3), 110, np.uint8), source) == pytest.approx(10)
