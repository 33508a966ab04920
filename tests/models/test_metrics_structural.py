"""MS-SSIM and QILV against direct implementations of their formulas, and for increasing damage."""

import math

import numpy as np
import pytest
from PIL import Image, ImageFilter

from slidelift.models.metrics.fidelity import luma, ssim_y
from slidelift.models.metrics.structural import ms_ssim, qilv, scales_that_fit

C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
BELL = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
WINDOW = np.outer(BELL, BELL) / BELL.sum() ** 2


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def scene(side: int = 200) -> np.ndarray:
    """Blobs of several sizes."""
    y, x = np.mgrid[:side, :side]
    waves = 128 + 60 * np.sin(x / 3) * np.cos(y / 4) + 50 * np.sin(x / 17 + y / 23)
    return np.stack([waves, waves * 0.6 + 60, 255 - waves], axis=2).clip(0, 255).astype(np.uint8)


def blurred(image: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def noisy(image: np.ndarray, sigma: float) -> np.ndarray:
    return (image + np.random.default_rng(3).normal(0, sigma, image.shape)).clip(0, 255).astype(np.uint8)


def windows(values: np.ndarray) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(values, (11, 11))


def moments(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Weighted means, variances and covariance of each window by definition."""
    wx, wy = windows(x), windows(y)
    mean_x, mean_y = ((WINDOW * w).sum(axis=(2, 3)) for w in (wx, wy))
    dx, dy = wx - mean_x[..., None, None], wy - mean_y[..., None, None]
    return mean_x, mean_y, *((WINDOW * one).sum(axis=(2, 3)) for one in (dx * dx, dy * dy, dx * dy))


def test_measures_of_identical_images():
    assert ms_ssim(scene(), scene()) == pytest.approx(1)
    assert qilv(scene(), scene()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("side", "scales"), [(10, 0), (11, 1), (21, 1), (22, 2), (44, 3), (88, 4), (175, 4), (176, 5), (4000, 5)]
)
def test_number_of_scales_follows_the_size(side, scales):
    assert scales_that_fit(side, 5000) == scales_that_fit(5000, side) == scales


def test_one_scale_is_ssim():
    image, truth = noisy(scene(21), 20), scene(21)
    assert ms_ssim(image, truth) == pytest.approx(ssim_y(image, truth))


def test_two_scales_follow_the_papers_formula():
    image, truth = noisy(scene(27), 20), scene(27)
    x, y = luma(image), luma(truth)
    mean_x, mean_y, var_x, var_y, cov = moments(x, y)
    fine = ((2 * cov + C2) / (var_x + var_y + C2)).mean()
    x, y = ((v[:26:2, :26:2] + v[1:26:2, :26:2] + v[:26:2, 1:26:2] + v[1:26:2, 1:26:2]) / 4 for v in (x, y))
    mean_x, mean_y, var_x, var_y, cov = moments(x, y)
    coarse = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1) * (2 * cov + C2) / (var_x + var_y + C2)
    # the first two weights, 0.0448 and 0.2856, are divided by their sum, 0.3304
    assert ms_ssim(image, truth) == pytest.approx(fine ** (0.0448 / 0.3304) * coarse.mean() ** (0.2856 / 0.3304))


def test_qilv_follows_the_papers_formula():
    image, truth = blurred(scene(40), 1), scene(40)
    _, _, v, w, _ = moments(luma(image), luma(truth))
    spread_v, spread_w = v.std(), w.std()
    covariance = (v * w).mean() - v.mean() * w.mean()
    expected = (2 * v.mean() * w.mean() + C1) / (v.mean() ** 2 + w.mean() ** 2 + C1)
    expected *= (2 * spread_v * spread_w + C2) / (spread_v**2 + spread_w**2 + C2)
    expected *= (covariance + C2 / 2) / (spread_v * spread_w + C2 / 2)
    assert qilv(image, truth) == pytest.approx(expected)


def test_qilv_falls_with_blur():
    assert 1 > qilv(blurred(scene(), 0.7), scene()) > qilv(blurred(scene(), 1.5), scene()) > 0


def test_ms_ssim_falls_with_noise():
    assert 1 > ms_ssim(noisy(scene(), 8), scene()) > ms_ssim(noisy(scene(), 30), scene()) > 0


def test_flat_images_do_not_divide_by_zero():
    flat = np.full((30, 30, 3), 90, np.uint8)
    assert qilv(flat, flat) == ms_ssim(flat, flat) == pytest.approx(1)
    assert qilv(flat, noise(1, 30, 30)) < 0.01


def test_opposite_structure_scores_zero():
    assert ms_ssim(255 - scene(), scene()) == 0


def test_measures_of_an_image_smaller_than_the_window_are_undefined():
    assert math.isnan(ms_ssim(noise(1, 10, 60), noise(2, 10, 60)))
    assert math.isnan(qilv(noise(1, 10, 60), noise(2, 10, 60)))
