"""Pixel-wise fidelity: PSNR and SSIM on luma (the measuring convention) and on RGB, and squared errors.

BT.601 luma, whole images without cropping the border, computed by scikit-image. All functions take uint8 RGB
(h, w, 3), first the enlarged image, then the truth.
"""

import math

import numpy as np
import skimage  # loads its submodules lazily; the import of this one takes over a second
from numpy.typing import NDArray

WINDOW = 11
"""Side of SSIM's Gaussian window; SSIM is undefined for smaller images."""

_LUMA = np.array([65.481, 128.553, 24.966]) / 255
_SSIM = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def luma(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return BT.601 studio-range Y of uint8 RGB (h, w, 3) as float64 (h, w) in 16..235."""
    y: NDArray[np.float64] = image @ _LUMA + 16
    return y


def psnr_y(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio of luma in dB, peak 255; infinite for equal images."""
    if np.array_equal(image, truth):
        return math.inf
    return float(skimage.metrics.peak_signal_noise_ratio(luma(truth), luma(image), data_range=255))


def ssim_y(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Return the structural similarity of luma; NaN for images smaller than the window.

    11x11 Gaussian window, sigma 1.5, range 255, windows inside the image only (Wang et al., IEEE TIP 13(4), 2004).
    """
    if min(truth.shape[:2]) < WINDOW:
        return math.nan
    return float(skimage.metrics.structural_similarity(luma(truth), luma(image), **_SSIM))


def ssim_y_map(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return `ssim_y` of each window, (h - 10, w - 10) in -1..1; both sides must have at least 11 pixels."""
    edge = WINDOW // 2
    _, similarity = skimage.metrics.structural_similarity(luma(truth), luma(image), full=True, **_SSIM)
    inside: NDArray[np.float64] = similarity[edge:-edge, edge:-edge]
    return inside


def psnr_rgb(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio over all three channels in dB, peak 255; infinite for equal images."""
    error = mse(image, truth)
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim_rgb(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Return the mean of the three channels' structural similarity, each computed as `ssim_y`."""
    if min(truth.shape[:2]) < WINDOW:
        return math.nan
    return float(skimage.metrics.structural_similarity(truth, image, channel_axis=2, **_SSIM))


def mse(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Return the mean squared error over pixels and channels, in squared grey levels of 255."""
    return float(np.square(image.astype(np.float64) - truth).mean())


def rrmse(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Return the relative root squared error ||image - truth||_F / ||truth||_F; NaN if the truth is black.

    Upadhyay and Awate, ISBI 2019, section 3.
    """
    norm = float(np.linalg.norm(truth.astype(np.float64)))
    return float(np.linalg.norm(image.astype(np.float64) - truth)) / norm if norm else math.nan
