"""Other stains and scanners, from the crops at hand: their channels mixed and scaled in optical density."""

import torch
from torch import Tensor

from models.data.draws import Range, chances, uniform


def stain_jitter(
    crops: Tensor, rng: torch.Generator, share: float = 0.7, spread: float = 0.08, gains: Range = (0.8, 1.3)
) -> Tensor:
    """Mix and scale the channels of a share of the crops in optical density; to be done before the degradation.

    Glass (1, 1, 1) stays glass. Without this a narrow training set is over-fitted: the gain on stains never seen turns
    down after 8,000 iterations while that on the training set's own still climbs.

    Parameters
    ----------
    crops
        (N, 3, h, w) in [0, 1].
    share
        Probability of a crop being changed.
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
