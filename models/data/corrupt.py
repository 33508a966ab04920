"""Corruption of training examples: noisy, blurred or pale high-resolution crops with unchanged low-resolution ones.

Upadhyay and Awate (ISBI 2019, section 3) corrupt 0 to 50 % of the examples to test robust losses. They give no
strengths; those here are the project's, from barely visible to clearly unacceptable. Only the high-resolution crop is
changed, after the degradation, so that the pair is inconsistent.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from slidelift.models.data.draws import Range, chance, choose, normal_like, per_sample, uniform
from slidelift.models.data.kernels import filter_each, gaussian_kernels

NOISES: Range = (10.0, 50.0)
"""Standard deviation in grey levels of 255."""
BLURS: Range = (1.0, 4.0)
"""Standard deviation in pixels."""
CONTRASTS: Range = (0.3, 0.8)
"""Factor on the difference to the crop's mean colour."""


def corrupt(
    high: Tensor, fraction: float, rng: torch.Generator, kinds: Sequence[str] = ("noise", "blur", "contrast")
) -> Tensor:
    """Corrupt a fraction of high-resolution crops.

    Parameters
    ----------
    high
        (N, 3, H, W) in [0, 1], at least 13 px a side; not modified.
    fraction
        Share of crops to corrupt, 0 to 1. If that is no whole number of crops, it is rounded up at random, so that the
        mean over batches is exact.
    kinds
        Any of "noise", "blur" and "contrast"; each corrupted crop gets one of them at random.

    Raises
    ------
    ValueError
        If `fraction` is out of range, or a kind is unknown or none is given.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"the corrupted fraction must lie in [0, 1], not at {fraction}")
    if not kinds or (unknown := sorted(set(kinds) - set(_KINDS))):
        raise ValueError(f"unknown corruptions {unknown if kinds else kinds}; available: {', '.join(_KINDS)}")
    expected = fraction * len(high)
    count = int(expected + 1e-9)
    count += chance(expected - count, rng)
    rows = torch.randperm(len(high), generator=rng, device=rng.device)[:count].cpu()
    kind = choose((1.0,) * len(kinds), count, rng)
    out = high.clone()
    for number, name in enumerate(kinds):
        here = rows[kind == number].to(high.device)
        if len(here):
            out[here] = _KINDS[name](high[here], rng).clamp(0, 1)
    return out


def _noise(crops: Tensor, rng: torch.Generator) -> Tensor:
    return crops + per_sample(uniform(len(crops), NOISES, rng) / 255, crops) * normal_like(crops, rng)


def _blur(crops: Tensor, rng: torch.Generator) -> Tensor:
    return filter_each(crops, gaussian_kernels(25, uniform(len(crops), BLURS, rng)))


def _contrast(crops: Tensor, rng: torch.Generator) -> Tensor:
    mean = crops.mean((2, 3), keepdim=True)
    return mean + per_sample(uniform(len(crops), CONTRASTS, rng), crops) * (crops - mean)


_KINDS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
}
