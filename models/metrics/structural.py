"""MS-SSIM and QILV on luma.

Upadhyay and Awate, ISBI 2019, report both: MS-SSIM is more sensitive to noise, QILV to blur.
"""

import math

import numpy as np
import scipy
from numpy.typing import NDArray

from slidelift.models.metrics.fidelity import WINDOW, luma

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales from the finest (Wang, Simoncelli, Bovik, Asilomar 2003, section 3.2)."""

_SIGMA = 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def scales_that_fit(height: int, width: int) -> int:
    """Return how many of MS-SSIM's five scales have sides of at least 11 pixels: 5 from 176 pixels on, 0 below 11."""
    fit = (number for number in range(len(SCALE_WEIGHTS), 0, -1) if min(height, width) >> (number - 1) >= WINDOW)
    return next(fit, 0)


def ms_ssim(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Return the multi-scale structural similarity, 0 to 1; both images uint8 (h, w, 3).

    Each scale is the 2x2 mean of the one before. Images below 176 pixels have fewer scales, with weights divided by
    their sum; below 11 pixels the result is NaN. A negative mean of a scale counts as 0.

    Wang, Simoncelli and Bovik, Asilomar 2003, equation 7.
    """
    scales = scales_that_fit(*truth.shape[:2])
    if not scales:
        return math.nan
    weights = np.array(SCALE_WEIGHTS[:scales]) / sum(SCALE_WEIGHTS[:scales])
    x, y = luma(image), luma(truth)
    means = []
    for scale in range(scales):
        if scale:
            x, y = _halved(x), _halved(y)
        luminance, contrast_structure = _terms(x, y)
        last = scale == scales - 1
        means.append(float((luminance * contrast_structure if last else contrast_structure).mean()))
    return float(np.prod(np.maximum(means, 0) ** weights))


def qilv(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Return the quality index based on local variance, at most 1; both images uint8 (h, w, 3).

    Compares the maps of local variance (11x11 Gaussian window, sigma 1.5, windows inside the image only) by mean,
    standard deviation and covariance: 2 m1 m2 / (m1^2 + m2^2) * 2 s1 s2 / (s1^2 + s2^2) * s12 / (s1 s2), with SSIM's
    constants against divisions by zero. NaN for images below 11 pixels.

    Aja-Fernandez, San Jose Estepar, Alberola-Lopez and Westin, EMBC 2006.
    """
    if min(truth.shape[:2]) < WINDOW:
        return math.nan
    v, w = (_variance(luma(one)) for one in (image, truth))
    mean_v, mean_w, spread_v, spread_w = v.mean(), w.mean(), v.std(), w.std()
    covariance = ((v - mean_v) * (w - mean_w)).mean()
    means = (2 * mean_v * mean_w + _C1) / (mean_v**2 + mean_w**2 + _C1)
    spreads = (2 * spread_v * spread_w + _C2) / (spread_v**2 + spread_w**2 + _C2)
    return float(means * spreads * (covariance + _C2 / 2) / (spread_v * spread_w + _C2 / 2))


def _terms(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return SSIM's luminance and contrast-structure terms of each window."""
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variances = _window_mean(x * x) - mean_x**2 + _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return luminance, (2 * covariance + _C2) / (variances + _C2)


def _variance(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(_window_mean(values**2) - _window_mean(values) ** 2, 0)


def _window_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    edge = WINDOW // 2
    mean: NDArray[np.float64] = scipy.ndimage.gaussian_filter(values, _SIGMA, radius=edge)[edge:-edge, edge:-edge]
    return mean


def _halved(values: NDArray[np.float64]) -> NDArray[np.float64]:
    height, width = (side // 2 for side in values.shape)
    halved: NDArray[np.float64] = values[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean(axis=(1, 3))
    return halved
