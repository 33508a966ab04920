"""The measuring convention, against values by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.metrics.fidelity import luma, psnr_y, ssim_y


def grey(value: int, side: int = 16) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


@pytest.mark.parametrize(
    ("colour", "expected"),
    [((0, 0, 0), 16), ((255, 255, 255), 235), ((255, 0, 0), 81.481), ((0, 255, 0), 144.553), ((0, 0, 255), 40.966)],
)
def test_luma_is_bt601(colour, expected):
    assert luma(np.array([[colour]], np.uint8))[0, 0] == pytest.approx(expected)


@given(value=st.integers(0, 200), difference=st.integers(1, 55))
def test_psnr_of_a_uniform_shift_is_known(value, difference):
    shift = difference * (65.481 + 128.553 + 24.966) / 255
    assert psnr_y(grey(value + difference), grey(value)) == pytest.approx(20 * math.log10(255 / shift))


def test_equal_images_are_perfect():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    assert psnr_y(image, image) == math.inf
    assert ssim_y(image, image) == pytest.approx(1)


def test_ssim_of_one_window_is_the_papers_formula():
    rng = np.random.default_rng(5)
    truth, image = (rng.integers(0, 256, (11, 11, 3), np.uint8) for _ in range(2))
    bell = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(bell, bell) / bell.sum() ** 2
    x, y = luma(truth), luma(image)
    mean_x, mean_y = (window * x).sum(), (window * y).sum()
    var_x, var_y = (window * x**2).sum() - mean_x**2, (window * y**2).sum() - mean_y**2
    covariance = (window * x * y).sum() - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    expected = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    expected /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    assert ssim_y(image, truth) == pytest.approx(expected)
