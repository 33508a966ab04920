"""PSNR and SSIM on luma, by the measuring convention that every figure of this project follows.

BT.601 luma, whole images, no border cut; scikit-image does the arithmetic.
"""

import math

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

_LUMA = np.array([65.481, 128.553, 24.966]) / 255


def luma(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """BT.601 studio-range Y of uint8 RGB (h, w, 3): float64 (h, w) in 16..235."""
    y: NDArray[np.float64] = image @ _LUMA + 16
    return y


def psnr_y(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of luma in dB, peak 255; infinite for equal images."""
    if np.array_equal(image, truth):
        return math.inf
    return float(peak_signal_noise_ratio(luma(truth), luma(image), data_range=255))


def ssim_y(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Structural similarity of luma: 11x11 Gaussian window, sigma 1.5, range 255, windows wholly inside the image.

    Wang et al., IEEE TIP 13(4), 2004.
    """
    similarity = structural_similarity(
        luma(truth), luma(image), data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return float(similarity)
