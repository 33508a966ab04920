"""SSIM and MS-SSIM losses, averaged over the colour channels.

Windows lie inside the image only and their weights sum to one (no sample covariance); the range of values is 1.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_C1 = 0.01**2
_C2 = 0.03**2
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_LEAST_CONTRAST = 1e-4
"""Lower limit of contrast terms: negative ones have no real root, those near zero no usable gradient."""


@dataclass(frozen=True, slots=True)
class Structure:
    """1 - SSIM (Wang et al., IEEE TIP 13(4), 2004) with SRGAN_SQE's uniform windows (Upadhyay and Awate, ISBI 2019).

    The paper minimises the negative sum over all windows; with the mean, weights do not depend on the patch's size. The
    paper's weight of 2 is relative to a sum over pixels, so it applies to the means too.

    Parameters
    ----------
    window
        Side of the uniform window in pixels.

    Raises
    ------
    ValueError
        When called with images smaller than the window.
    """

    window: int = 5

    def __call__(self, prediction: Tensor, target: Tensor, _low: Tensor) -> Tensor:
        _require_side(prediction, self.window)
        luminance, contrast = _terms(prediction.float(), target, torch.ones(self.window) / self.window)
        return 1 - (luminance * contrast).mean()


@dataclass(frozen=True, slots=True)
class MultiScaleStructure:
    """1 - MS-SSIM (Wang, Simoncelli and Bovik, Asilomar 2003): 11x11 Gaussian of sigma 1.5, scales by 2x2 means.

    Parameters
    ----------
    scales
        1 to 5. The paper's five need 176 pixels a side, four need 88; exponents are scaled to sum to one.

    Raises
    ------
    ValueError
        If `scales` is out of range, or when called with images too small for it.
    """

    scales: int = 5

    def __post_init__(self) -> None:
        if not 1 <= self.scales <= len(_SCALE_WEIGHTS):
            raise ValueError(f"MS-SSIM has 1 to {len(_SCALE_WEIGHTS)} scales, not {self.scales}")

    def __call__(self, prediction: Tensor, target: Tensor, _low: Tensor) -> Tensor:
        _require_side(prediction, 11 * 2 ** (self.scales - 1))
        window = torch.exp(-0.5 * (torch.arange(-5, 6) / 1.5) ** 2)
        window = window / window.sum()
        shares = _SCALE_WEIGHTS[: self.scales]
        x, y, similarity = prediction.float(), target, torch.ones((), device=target.device)
        for scale, share in enumerate(shares):
            luminance, contrast = _terms(x, y, window)
            is_last = scale == self.scales - 1
            mean = (luminance * contrast if is_last else contrast).mean((2, 3))
            similarity = similarity * mean.clamp_min(_LEAST_CONTRAST) ** (share / math.fsum(shares))
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        return 1 - similarity.mean()


def _terms(x: Tensor, y: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """Return SSIM's luminance and contrast-structure terms of each window."""
    count = x.shape[1]
    stack = torch.cat([x, y, x * x, y * y, x * y], 1)
    weights = window.to(x.device, non_blocking=True).expand(5 * count, 1, 1, -1)
    stack = F.conv2d(stack, weights, groups=5 * count)
    stack = F.conv2d(stack, weights.transpose(2, 3), groups=5 * count)
    mean_x, mean_y, square_x, square_y, product = stack.split(count, 1)  # type: ignore[no-untyped-call]
    variances = square_x - mean_x**2 + square_y - mean_y**2
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    contrast = (2 * (product - mean_x * mean_y) + _C2) / (variances + _C2)
    return luminance, contrast


def _require_side(image: Tensor, least: int) -> None:
    if (side := min(image.shape[2:])) < least:
        raise ValueError(f"this loss needs {least} px a side, not {side}; use larger crops or fewer scales")
