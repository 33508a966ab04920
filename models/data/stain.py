"""Colour augmentation: variations of stain and scanner, and colours of ink, dirt and labels."""

import torch
from torch import Tensor

from slidelift.models.data.draws import Range, chances, uniform


def stain_jitter(
    crops: Tensor, rng: torch.Generator, share: float = 0.7, spread: float = 0.08, gains: Range = (0.8, 1.3)
) -> Tensor:
    """Mix and scale the channels of a share of the crops in optical density; apply before the degradation.

    White (glass) does not change. Without this augmentation a narrow training set is overfitted: the gain on unseen
    stains falls after 8,000 iterations while that on the training set's stains still rises.

    Parameters
    ----------
    crops
        (N, 3, h, w) in [0, 1].
    share
        Probability that a crop is changed.
    spread
        Standard deviation of the random 3x3 matrix that is added to the identity.
    gains
        Range of the factor on each channel's density.
    """
    n = len(crops)
    mixing = torch.eye(3) + spread * torch.randn(n, 3, 3, generator=rng, device=rng.device).cpu()
    gain = uniform(3 * n, gains, rng).reshape(n, 3, 1)
    chosen = chances(n, share, rng)[:, None, None]
    mixing = torch.where(chosen, mixing * gain, torch.eye(3)).to(crops.device, non_blocking=True)
    density = -torch.log(crops.clamp_min(1 / 255))
    return torch.exp(-torch.einsum("nij,njhw->nihw", mixing, density)).clamp(0, 1)


def odd_colours(
    crops: Tensor, rng: torch.Generator, share: float, gains: Range = (1.0, 4.0), mosaic_share: float = 0.125
) -> Tensor:
    """Give a share of the crops colours and contrasts that no stain has; apply before the degradation.

    Channels are permuted, half of the crops inverted, and all stretched about middle grey until they clip, as with ink,
    dirt and sharpening scanners. Some become a mosaic of plain blocks in random colours, as in print and labels. A
    network trained without them draws patterns unrelated to its source on such input.

    Parameters
    ----------
    crops
        (N, 3, h, w) in [0, 1].
    share
        Probability that a crop is changed.
    gains
        Range of the factor on the distance to middle grey.
    mosaic_share
        Probability that a changed crop is a mosaic, with blocks of 8, 16, 32 or 64 pixels a side, one size per batch.
    """
    n = len(crops)
    order = torch.rand(n, 3, generator=rng, device=rng.device).argsort(1).to(crops.device)
    permuted = crops.gather(1, order[:, :, None, None].expand_as(crops))
    sign = 1 - 2 * chances(n, 0.5, rng).to(crops)[:, None, None, None]
    gain = uniform(n, gains, rng).to(crops)[:, None, None, None]
    odd = (0.5 + (permuted - 0.5) * sign * gain).clamp(0, 1)
    mosaic = chances(n, mosaic_share, rng).to(crops.device)[:, None, None, None]
    odd = torch.where(mosaic, _mosaic(crops, rng), odd)
    chosen = chances(n, share, rng).to(crops.device)[:, None, None, None]
    return torch.where(chosen, odd, crops)


def _mosaic(crops: Tensor, rng: torch.Generator) -> Tensor:
    """Return blocks of random colours in the crops' shape."""
    n, channels, height, width = crops.shape
    side = 8 << int(torch.randint(4, (), generator=rng, device=rng.device))
    rows, columns = -(-height // side), -(-width // side)
    colours = torch.rand(n, channels, rows, columns, generator=rng, device=rng.device).to(crops)
    return colours.repeat_interleave(side, 2).repeat_interleave(side, 3)[:, :, :height, :width]
