"""SSIM inside and outside a mask."""

import math

import numpy as np
import pytest

from slidelift.models.metrics.fidelity import ssim_y
from slidelift.models.metrics.region import region_ssim

TRUTH = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def test_damage_affects_only_its_side():
    image, mask = TRUTH.copy(), np.zeros((40, 60), bool)
    image[:, 40:] = 255 - image[:, 40:]
    mask[:, 35:] = True  # windows of 11 with their middle left of column 35 do not reach column 40
    similarity = region_ssim(image, TRUTH, mask)
    assert similarity.outside == pytest.approx(1)
    assert similarity.inside < 0.3


def test_weighted_mean_of_both_sides_is_the_ssim():
    image, mask = TRUTH[::-1].copy(), np.zeros((40, 60), bool)
    mask[12:20, 10:31] = True  # 8 * 21 = 168 of the 30 * 50 = 1500 windows
    similarity = region_ssim(image, TRUTH, mask)
    assert (168 * similarity.inside + 1332 * similarity.outside) / 1500 == pytest.approx(ssim_y(image, TRUTH))


def test_side_without_windows_is_undefined():
    similarity = region_ssim(TRUTH, TRUTH, np.ones((40, 60), bool))
    assert similarity.inside == pytest.approx(1)
    assert math.isnan(similarity.outside)
    assert math.isnan(region_ssim(TRUTH[:9], TRUTH[:9], np.ones((9, 60), bool)).inside)


def test_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="a mask of 60x39 for an image of 60x40"):
        region_ssim(TRUTH, TRUTH, np.ones((39, 60), bool))
