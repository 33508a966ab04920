"""Deterministic reductions of sharp images to sources for evaluation, in NumPy and Pillow.

`bicubic` is the measuring convention. Training uses other degradations, with random blur, noise and compression.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Reduction = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]

_SIGMA_PER_SCALE = 0.4
"""Sigma 1.6 at scale 4, common for blur-and-subsample degradations. Upadhyay and Awate also smooth and subsample, but
give no sigma."""
_REACH = 4.0


def bicubic(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Reduce by Pillow's antialiased bicubic: (scale*h, scale*w, 3) -> (h, w, 3)."""
    height, width, _ = image.shape
    return np.asarray(Image.fromarray(image).resize((width // scale, height // scale), Image.Resampling.BICUBIC))


def area(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Reduce to block means, rounded once (Pillow's box filter rounds after each axis)."""
    height, width, _ = image.shape
    squares = image.reshape(height // scale, scale, width // scale, scale, 3)
    means: NDArray[np.float64] = squares.mean(axis=(1, 3))
    return np.rint(means).astype(np.uint8)


def gaussian(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Smooth by a Gaussian of sigma 0.4 * scale and sample at block centres, without a shift."""
    values = image.astype(np.float64)
    for axis in (0, 1):
        values = _smooth_and_sample(values, scale, axis)
    return np.rint(values).clip(0, 255).astype(np.uint8)


REDUCTIONS: dict[str, Reduction] = {"bicubic": bicubic, "area": area, "gaussian": gaussian}


def _smooth_and_sample(values: NDArray[np.float64], scale: int, axis: int) -> NDArray[np.float64]:
    """Reduce one axis for `gaussian`; the border is mirrored."""
    sigma, middle = _SIGMA_PER_SCALE * scale, (scale - 1) / 2
    reach = math.ceil(_REACH * sigma)
    taps = np.arange(-reach, scale + reach)
    weights = np.exp(-0.5 * ((taps - middle) / sigma) ** 2)
    weights /= weights.sum()
    padded = np.pad(values, [(reach, reach) if one == axis else (0, 0) for one in range(3)], mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(taps), axis=axis)
    sampled = windows[::scale] if axis == 0 else windows[:, ::scale]
    reduced: NDArray[np.float64] = sampled @ weights
    return reduced
