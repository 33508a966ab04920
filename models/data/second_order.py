"""Real-ESRGAN's second-order degradation, in batches.

The steps are: unsharp masking; blur, resize, noise, JPEG; the same again, milder; resize to the final size, sinc
filter, JPEG; rounding to 8 bits. As in the reference implementation, some parameters are drawn per sample: kernels,
noise levels, grey noise and JPEG qualities. The others are drawn per batch: resize factor and filter, kind of noise,
whether the second blur is skipped, and the order of the last two steps.

Source: Wang, Xie, Dong, Shan, "Real-ESRGAN", ICCVW 2021 (section 3, figure 2), and its published options.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from slidelift.models.data.draws import (
    Range,
    chance,
    chances,
    choose,
    generator_on,
    normal_like,
    per_sample,
    uniform,
)
from slidelift.models.data.jpeg import jpeg
from slidelift.models.data.kernels import filter_each, lowpass_kernels, pulse_kernels, shaped_kernels
from slidelift.models.data.pair import Pair, crop_pair, to_8_bits

_SIZE = 21
_ODD_SIDES = torch.arange(7, _SIZE + 1, 2)
_FILTERS = ("area", "bilinear", "bicubic")
_USM_SIZE = 51
_USM_SIGMA = 8.0
"""OpenCV's default for 51 px: 0.3 * (25 - 1) + 0.8."""


@dataclass(frozen=True, slots=True)
class DegradationRanges:
    """Ranges of the random parameters of one of the two degradations.

    Attributes
    ----------
    blur_share
        Probability that a batch is blurred.
    sinc_share
        Probability of a low-pass filter instead of a blur kernel.
    sigmas
        Standard deviations of the kernel in pixels.
    resize_shares
        Probabilities of enlarging, of reducing and of keeping the size.
    factors
        Smallest and largest resize factor.
    noises
        Standard deviation of Gaussian noise in grey levels of 255.
    poissons
        Factor on the Poisson noise.
    """

    blur_share: float
    sinc_share: float
    sigmas: Range
    resize_shares: tuple[float, float, float]
    factors: Range
    noises: Range
    poissons: Range
    gaussian_share: float = 0.5
    grey_share: float = 0.4
    qualities: Range = (30, 95)
    kernel_shares: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    """Isotropic and anisotropic Gaussian, generalised Gaussian, and plateau."""
    betas: Range = (0.5, 4.0)
    plateau_betas: Range = (1.0, 2.0)


FIRST = DegradationRanges(1.0, 0.1, (0.2, 3.0), (0.2, 0.7, 0.1), (0.15, 1.5), (1, 30), (0.05, 3.0))
SECOND = DegradationRanges(0.8, 0.1, (0.2, 1.5), (0.3, 0.4, 0.3), (0.3, 1.2), (1, 25), (0.05, 2.5))


def realesrgan(
    high: Tensor,
    scale: int,
    rng: torch.Generator,
    usm_weight: float = 0.5,
    final_sinc_share: float = 0.8,
    final_side: int | None = None,
) -> Pair:
    """Apply both degradations. The target is sharpened; the real image for the discriminator is not.

    Parameters
    ----------
    high
        (N, 3, s*h, s*w) in [0, 1]; at s = 4 at least 80 pixels a side, so that blurs can reflect the border.
    usm_weight
        Strength of the sharpening of target and input; 0 for none. From sharpened targets a network learns edges that
        the tissue does not have.
    final_sinc_share
        Probability of a final low-pass filter.
    final_side
        If given, the pair is cropped to this many high-resolution pixels (the reference implementation: 256 of 400), so
        that reflected borders are not learned.
    """
    target = sharpen(high, usm_weight) if usm_weight else high
    height, width = high.shape[2:]
    size = height // scale, width // scale
    image = _degrade_once(target, FIRST, (height, width), rng)
    image = _blur_resize_noise(image, SECOND, size, rng)
    sinc = _final_kernels(len(high), final_sinc_share, rng)
    if chance(0.5, rng):
        image = filter_each(_resize(image, size, rng), sinc)
        image = _compress(image, SECOND, rng)
    else:
        image = _compress(image, SECOND, rng)
        image = filter_each(_resize(image, size, rng), sinc)
    pair = Pair(to_8_bits(image), high, target)
    return pair if final_side is None else crop_pair(pair, final_side, rng)


def sharpen(images: Tensor, weight: float = 0.5, threshold: float = 10 / 255) -> Tensor:
    """Unsharp masking (51 px, sigma 8) where the residual exceeds the threshold; the mask is blurred likewise."""
    residual = images - _smooth(images)
    mask = _smooth((residual.abs() > threshold).to(images.dtype))
    return torch.lerp(images, (images + weight * residual).clamp(0, 1), mask)


def _smooth(images: Tensor) -> Tensor:
    """Apply the USM's Gaussian along rows, then along columns."""
    channels = images.shape[1]
    steps = torch.arange(_USM_SIZE) - _USM_SIZE // 2
    gaussian = torch.exp(-(steps**2) / (2 * _USM_SIGMA**2)).to(images.device)
    weights = (gaussian / gaussian.sum()).expand(channels, 1, 1, _USM_SIZE)
    margin = _USM_SIZE // 2
    mode = "reflect" if margin < min(images.shape[2:]) else "replicate"
    padded = F.pad(images, (margin,) * 4, mode=mode)
    return F.conv2d(F.conv2d(padded, weights, groups=channels), weights.transpose(2, 3), groups=channels)


def _degrade_once(image: Tensor, ranges: DegradationRanges, size: tuple[int, int], rng: torch.Generator) -> Tensor:
    return _compress(_blur_resize_noise(image, ranges, size, rng), ranges, rng)


def _blur_resize_noise(image: Tensor, ranges: DegradationRanges, size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """Blur, resize to `size` times a random factor, and add noise."""
    kernels = blur_kernels(len(image), ranges, rng)
    if chance(ranges.blur_share, rng):
        image = filter_each(image, kernels)
    kind = int(choose(ranges.resize_shares, 1, rng))
    bounds = ((1.0, ranges.factors[1]), (ranges.factors[0], 1.0), (1.0, 1.0))[kind]
    factor = float(uniform(1, bounds, rng))
    image = _resize(image, (int(size[0] * factor), int(size[1] * factor)), rng)
    grey = chances(len(image), ranges.grey_share, rng)
    if chance(ranges.gaussian_share, rng):
        return _add_gaussian(image, uniform(len(image), ranges.noises, rng) / 255, grey, rng).clamp(0, 1)
    return _add_poisson(image, uniform(len(image), ranges.poissons, rng), grey, rng).clamp(0, 1)


def blur_kernels(count: int, ranges: DegradationRanges, rng: torch.Generator) -> Tensor:
    """Draw kernels (count, 21, 21): random family, size of 7 to 21 px, widths and rotation, or a low-pass filter."""
    sides = _ODD_SIDES[choose((1.0,) * len(_ODD_SIDES), count, rng)]
    kind = choose(ranges.kernel_shares, count, rng)
    sigmas = torch.stack([uniform(count, ranges.sigmas, rng) for _ in range(2)], 1)
    angle = uniform(count, (-math.pi, math.pi), rng)
    is_round, is_plateau = kind % 2 == 0, kind >= 4
    sigmas[:, 1] = torch.where(is_round, sigmas[:, 0], sigmas[:, 1])
    beta = torch.where(
        is_plateau, _beta(count, ranges.plateau_betas, rng), _beta(count, ranges.betas, rng)
    ).where(kind >= 2, torch.ones(()))  # fmt: skip
    kernels = shaped_kernels(_SIZE, sides, sigmas, angle, beta, is_plateau)
    lowest = torch.where(sides < 13, math.pi / 3, math.pi / 5)
    cutoff = lowest + (math.pi - lowest) * uniform(count, (0, 1), rng)
    is_sinc = chances(count, ranges.sinc_share, rng)[:, None, None]
    return torch.where(is_sinc, lowpass_kernels(_SIZE, sides, cutoff), kernels)


def _beta(count: int, bounds: Range, rng: torch.Generator) -> Tensor:
    """Draw half of the values below 1 and half above; if the range begins at 1, the first half are 1."""
    below, above = uniform(count, (bounds[0], 1.0), rng), uniform(count, (1.0, bounds[1]), rng)
    return torch.where(chances(count, 0.5, rng), below, above)


def _final_kernels(count: int, share: float, rng: torch.Generator) -> Tensor:
    sides = _ODD_SIDES[choose((1.0,) * len(_ODD_SIDES), count, rng)]
    sinc = lowpass_kernels(_SIZE, sides, uniform(count, (math.pi / 3, math.pi), rng))
    return torch.where(chances(count, share, rng)[:, None, None], sinc, pulse_kernels(count, _SIZE))


def _resize(image: Tensor, size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """Resize by area, bilinear or bicubic at random, without antialiasing, as in the reference implementation."""
    return F.interpolate(image, size, mode=_FILTERS[int(choose((1.0,) * len(_FILTERS), 1, rng))])


def _add_gaussian(image: Tensor, sigma: Tensor, grey: Tensor, rng: torch.Generator) -> Tensor:
    noise = torch.where(per_sample(grey, image), normal_like(image[:, :1], rng), normal_like(image, rng))
    return image + per_sample(sigma, image) * noise


def _add_poisson(image: Tensor, factor: Tensor, grey: Tensor, rng: torch.Generator) -> Tensor:
    image = image.contiguous()
    levels = image.clamp(0, 1).mul(255).round()
    noise = torch.empty_like(image)
    for is_grey in (False, True):
        rows = (grey == is_grey).nonzero()[:, 0].to(image.device, non_blocking=True)
        if len(rows):
            chosen = levels[rows]
            if is_grey:
                red, green, blue = chosen.unbind(1)
                chosen = (0.299 * red + 0.587 * green + 0.114 * blue).round()[:, None]
            noise[rows] = _poisson_noise(chosen, rng)
    return image + per_sample(factor, image) * noise


def _poisson_noise(levels: Tensor, rng: torch.Generator) -> Tensor:
    """Draw shot noise of images in 0..255.

    As in the reference implementation, 255 corresponds to as many photons as the image has distinct levels, rounded up
    to a power of two.
    """
    flat = levels.flatten(1).long()
    is_used = torch.zeros(len(flat), 256, device=levels.device).scatter_(1, flat, 1.0)
    photons = 2 ** is_used.sum(1).log2().ceil()[:, None, None, None]
    clean = levels / 255
    return torch.poisson(clean * photons, generator=generator_on(levels.device, rng)) / photons - clean


def _compress(image: Tensor, ranges: DegradationRanges, rng: torch.Generator) -> Tensor:
    return jpeg(image, uniform(len(image), ranges.qualities, rng), "4:2:0")
