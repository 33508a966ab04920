"""SSIM inside and outside a mask, such as an annotated tumour.

After Sharma, Medical Image Super Resolution (separate figures for diseased and normal regions).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidelift.models.metrics.fidelity import WINDOW, ssim_y_map


@dataclass(frozen=True, slots=True)
class RegionSimilarity:
    """Mean SSIM of the windows centred inside the mask, and of the others; NaN if there are none."""

    inside: float
    outside: float


def region_ssim(image: NDArray[np.uint8], truth: NDArray[np.uint8], mask: NDArray[np.bool_]) -> RegionSimilarity:
    """Compute `models.metrics.fidelity.ssim_y` inside and outside a mask (h, w).

    Raises
    ------
    ValueError
        If the mask's size differs from the truth's.
    """
    if mask.shape != truth.shape[:2]:
        raise ValueError(f"a mask of {mask.shape[1]}x{mask.shape[0]} for an image of {truth.shape[1]}x{truth.shape[0]}")
    if min(mask.shape) < WINDOW:
        return RegionSimilarity(math.nan, math.nan)
    edge = WINDOW // 2
    similarity, middle = ssim_y_map(image, truth), mask[edge:-edge, edge:-edge]
    return RegionSimilarity(_mean(similarity[middle]), _mean(similarity[~middle]))


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else math.nan
