"""Fidelity measures against computed values."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from slidelift.models.metrics.fidelity import luma, mse, psnr_rgb, psnr_y, rrmse, ssim_rgb, ssim_y, ssim_y_map


def grey(value: int, side: int = 16) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


@pytest.mark.parametrize(
    ("colour", "expected"),
    [((0, 0, 0), 16), ((255, 255, 255), 235), ((255, 0, 0), 81.481), ((0, 255, 0), 144.553), ((0, 0, 255), 40.966)],
)
def test_luma_is_bt601(colour, expected):
    assert luma(np.array([[colour]], np.uint8))[0, 0] == pytest.approx(expected)


@given(value=st.integers(0, 200), difference=st.integers(1, 55))
def test_psnr_of_a_uniform_shift(value, difference):
    shift = difference * (65.481 + 128.553 + 24.966) / 255
    assert psnr_y(grey(value + difference), grey(value)) == pytest.approx(20 * math.log10(255 / shift))


def test_measures_of_equal_images():
    image = noise(0, 20, 30)
    assert psnr_y(image, image) == psnr_rgb(image, image) == math.inf
    assert ssim_y(image, image) == pytest.approx(1)
    assert ssim_rgb(image, image) == pytest.approx(1)
    assert mse(image, image) == rrmse(image, image) == 0


def test_errors_of_two_pixels_by_hand():
    truth = np.array([[[3, 0, 0], [0, 4, 12]]], np.uint8)
    image = np.array([[[0, 0, 0], [0, 4, 8]]], np.uint8)
    # squared errors 9 and 16 of six values; the truth's squares are 9 + 16 + 144 = 169 = 13^2
    assert mse(image, truth) == pytest.approx(25 / 6)
    assert rrmse(image, truth) == pytest.approx(5 / 13)
    assert psnr_rgb(image, truth) == pytest.approx(10 * math.log10(65025 * 6 / 25))


def test_rrmse_of_a_black_truth_is_undefined():
    assert math.isnan(rrmse(grey(1), grey(0)))


def test_rgb_measures_equal_scikit_images():
    image, truth = noise(1, 20, 30), noise(2, 20, 30)
    assert mse(image, truth) == pytest.approx(mean_squared_error(truth, image))
    assert psnr_rgb(image, truth) == pytest.approx(peak_signal_noise_ratio(truth, image, data_range=255))
    channels = [
        structural_similarity(
            truth[..., c], image[..., c], data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for c in range(3)
    ]
    assert ssim_rgb(image, truth) == pytest.approx(np.mean(channels))


def test_ssim_of_one_window_follows_the_papers_formula():
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


def test_ssim_is_the_mean_of_its_map():
    image, truth = noise(1, 20, 30), noise(2, 20, 30)
    similarity = ssim_y_map(image, truth)
    assert similarity.shape == (10, 20)
    assert similarity.mean() == pytest.approx(ssim_y(image, truth))


def test_ssim_of_an_image_smaller_than_the_window_is_undefined():
    assert math.isnan(ssim_y(noise(1, 10, 40), noise(2, 10, 40)))
    assert math.isnan(ssim_rgb(noise(1, 40, 10), noise(2, 40, 10)))
