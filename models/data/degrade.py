"""Degradations: functions that make training pairs of high-resolution crops.

Each is a pure function of its inputs and a generator, works in batches on the device of the crops, and returns
low-resolution images quantised to 8 bits. Stain augmentation (`stain_jitter`) is applied before.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from slidelift.models.data.draws import Range, chances, choose, normal_like, per_sample, uniform
from slidelift.models.data.jpeg import Sampling, jpeg, quality_of_steps, steps_of_quality
from slidelift.models.data.kernels import filter_each, gaussian_kernels
from slidelift.models.data.pair import Pair, to_8_bits
from slidelift.models.data.second_order import realesrgan


def reduce_bicubic(images: Tensor, scale: int) -> Tensor:
    """Reduce by antialiased bicubic (a = -0.5) without rounding; (N, 3, s*h, s*w) -> (N, 3, h, w).

    Pillow also rounds and clips between its two passes: results differ by a grey level, by more at edges of black and
    white.
    """
    size = (images.shape[2] // scale, images.shape[3] // scale)
    return F.interpolate(images, size, mode="bicubic", antialias=True)


def reduce_area(images: Tensor, scale: int) -> Tensor:
    """Reduce to block means without rounding, as scanners make their lower levels."""
    return F.avg_pool2d(images, scale)


def bicubic(high: Tensor, scale: int, rng: torch.Generator) -> Pair:  # noqa: ARG001 - signature of all degradations
    """Antialiased bicubic, the benchmark degradation of the literature."""
    return Pair(to_8_bits(reduce_bicubic(high, scale)), high, high)


def area(high: Tensor, scale: int, rng: torch.Generator) -> Pair:  # noqa: ARG001
    """Block means, as in a scanner's pyramid."""
    return Pair(to_8_bits(reduce_area(high, scale)), high, high)


def mixed(
    high: Tensor,
    scale: int,
    rng: torch.Generator,
    bicubic_share: float = 0.6,
    jpeg_share: float = 0.0,
    qualities: Range = (30, 95),
) -> Pair:
    """Bicubic for a share of the crops, block means for the others, JPEG for a share of both.

    A network trained without JPEG sharpens the 8-px blocks of strongly compressed slides.
    """
    low = to_8_bits(_reduce_either(high, scale, rng, bicubic_share))
    return Pair(compress(low, jpeg_share, qualities, rng), high, high)


def gaussian(high: Tensor, scale: int, rng: torch.Generator, sigma: float | None = None) -> Pair:  # noqa: ARG001
    """Gaussian smoothing, then subsampling at block centres (Upadhyay and Awate, ISBI 2019).

    Parameters
    ----------
    sigma
        In high-resolution pixels; the paper gives none. Default: 0.4 * scale, which halves the contrast at the
        low resolution's Nyquist frequency.
    """
    sigma = 0.4 * scale if sigma is None else sigma
    size = 2 * int(3 * sigma + 0.5) + scale  # same parity as the scale, so that block and kernel centres coincide
    kernels = gaussian_kernels(size, torch.full((len(high),), sigma))
    return Pair(to_8_bits(filter_each(high, kernels, stride=scale)), high, high)


def scanner(
    high: Tensor,
    scale: int,
    rng: torch.Generator,
    bicubic_share: float = 0.5,
    blur_share: float = 0.5,
    sigmas: Range = (0.0, 0.8),
    noise_share: float = 0.3,
    noises: Range = (0.0, 3.0),
    jpeg_share: float = 0.6,
    qualities: Range = (70, 95),
) -> Pair:
    """First-order model of a slide scanner: reduction, slight defocus, noise, JPEG.

    Parameters
    ----------
    bicubic_share
        Share of bicubic reductions; the others are block means.
    blur_share, sigmas
        Share of blurred crops, and range of the Gaussian's standard deviation in low-resolution pixels.
    noise_share, noises
        Share of noisy crops, and range of the noise's standard deviation in grey levels of 255.
    jpeg_share, qualities
        Share of compressed crops, and range of libjpeg's quality; see `compress`.
    """
    n = len(high)
    low = _reduce_either(high, scale, rng, bicubic_share)
    low = filter_each(low, gaussian_kernels(7, uniform(n, sigmas, rng) * chances(n, blur_share, rng)))
    deviation = uniform(n, noises, rng) * chances(n, noise_share, rng) / 255
    low = to_8_bits(low + per_sample(deviation, low) * normal_like(low, rng))
    return Pair(compress(low, jpeg_share, qualities, rng), high, high)


SAMPLING_SHARES: dict[Sampling, float] = {"4:2:0": 0.6, "4:2:2": 0.1, "4:4:4": 0.1, "RGB": 0.2}
"""Probability of each chroma sampling: most scanners write 4:2:0; older Aperio files hold RGB without a colour
transform."""


def compress(low: Tensor, share: float, qualities: Range, rng: torch.Generator) -> Tensor:
    """Apply JPEG of random quality and chroma sampling to a share of the crops; (N, 3, h, w) in [0, 1].

    Quantisation steps are drawn uniformly in their square root: 12 % of the qualities 25 to 95 are above 90 and 38 %
    below 50 (7 and 36 % if uniform in quality, 23 and 23 % if uniform in the step's logarithm). Reasons:
    docs/decisions/compression.md.
    """
    if share <= 0:
        return low
    n = len(low)
    first, last = (steps_of_quality(torch.tensor(qualities, dtype=torch.float32)).sqrt()).tolist()
    chosen, quality = chances(n, share, rng), quality_of_steps(uniform(n, (first, last), rng) ** 2)
    sampling = choose(tuple(SAMPLING_SHARES.values()), n, rng)
    low = low.clone()
    for number, name in enumerate(SAMPLING_SHARES):
        rows = (chosen & (sampling == number)).nonzero()[:, 0]
        if len(rows):
            here = rows.to(low.device, non_blocking=True)
            low[here] = jpeg(low[here], quality[rows], name)
    return low


def _reduce_either(high: Tensor, scale: int, rng: torch.Generator, bicubic_share: float) -> Tensor:
    is_bicubic = per_sample(chances(len(high), bicubic_share, rng), high)
    return torch.where(is_bicubic, reduce_bicubic(high, scale), reduce_area(high, scale))


DEGRADATIONS: dict[str, Callable[..., Pair]] = {
    "bicubic": bicubic,
    "area": area,
    "mixed": mixed,
    "gaussian": gaussian,
    "scanner": scanner,
    "realesrgan": realesrgan,
}
"""`DEGRADATIONS[name](high, scale, rng, **parameters)`; `high` is (N, 3, s*h, s*w) in [0, 1]."""
