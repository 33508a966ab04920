"""Table of losses: name -> constructor, called with a recipe's parameters."""

from collections.abc import Callable

from slidelift.models.losses.consistency import Consistency
from slidelift.models.losses.loss import Loss
from slidelift.models.losses.manifold import Manifold
from slidelift.models.losses.perceptual import Perceptual
from slidelift.models.losses.pixel import L1, MSE, Charbonnier, NegativePsnr, QuasiNorm, Spectrum
from slidelift.models.losses.structural import MultiScaleStructure, Structure

LOSSES: dict[str, Callable[..., Loss]] = {
    "l1": L1,
    "mse": MSE,
    "charbonnier": Charbonnier,
    "psnr": NegativePsnr,
    "quasi_norm": QuasiNorm,
    "fft": Spectrum,
    "ssim": Structure,
    "ms_ssim": MultiScaleStructure,
    "vgg": Perceptual,
    "manifold": Manifold,
    "consistency": Consistency,
}
