"""What generator and discriminator of a GAN minimise, from the discriminator's raw outputs (logits) of any shape.

Vanilla: Goodfellow et al., NIPS 2014, the generator's non-saturating. Hinge: Lim and Ye, 2017. Relativistic average:
Jolicoeur-Martineau, ICLR 2019, its two halves averaged as in ESRGAN's code (its paper sums them).
"""

from enum import StrEnum

import torch.nn.functional as F
from torch import Tensor


class Adversary(StrEnum):
    """The kinds of GAN."""

    VANILLA = "vanilla"
    HINGE = "hinge"
    RELATIVISTIC = "relativistic"


def discriminator_loss(kind: Adversary | str, real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator minimises.

    Parameters
    ----------
    kind
        "vanilla", "hinge" or "relativistic".
    real, fake
        Logits of real images, and of predictions that were detached from the generator.

    Raises
    ------
    ValueError
        If there is no such kind.
    """
    real, fake = real.float(), fake.float()
    match Adversary(kind):
        case Adversary.VANILLA:
            return _is_real(real) + _is_fake(fake)
        case Adversary.HINGE:
            return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        case Adversary.RELATIVISTIC:
            return (_is_real(real - fake.mean()) + _is_fake(fake - real.mean())) / 2


def generator_loss(kind: Adversary | str, fake: Tensor, real: Tensor | None = None) -> Tensor:
    """What the generator minimises.

    Parameters
    ----------
    kind
        As of `discriminator_loss`.
    fake
        Logits of predictions, with the gradient's path to the generator.
    real
        Logits of real images, which "relativistic" needs; no gradient passes through them.

    Raises
    ------
    ValueError
        If there is no such kind, or `real` is missing where it is needed.
    """
    fake = fake.float()
    match Adversary(kind):
        case Adversary.VANILLA:
            return _is_real(fake)
        case Adversary.HINGE:
            return -fake.mean()
        case Adversary.RELATIVISTIC:
            if real is None:
                raise ValueError("the relativistic generator loss needs the discriminator's logits of real images too")
            real = real.detach().float()
            return (_is_fake(real - fake.mean()) + _is_real(fake - real.mean())) / 2


def _is_real(logits: Tensor) -> Tensor:
    """Mean of -log sigmoid(x)."""
    return F.softplus(-logits).mean()


def _is_fake(logits: Tensor) -> Tensor:
    """Mean of -log(1 - sigmoid(x))."""
    return F.softplus(logits).mean()
