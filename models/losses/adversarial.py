"""GAN losses on the discriminator's logits, of any shape.

Vanilla: Goodfellow et al., NIPS 2014, with the non-saturating generator loss. Hinge: Lim and Ye, 2017. Relativistic
average: Jolicoeur-Martineau, ICLR 2019, averaged over real and fake as in ESRGAN's code (its paper sums them).
"""

from enum import StrEnum

import torch.nn.functional as F
from torch import Tensor


class GANLoss(StrEnum):
    """Kinds of GAN loss."""

    VANILLA = "vanilla"
    HINGE = "hinge"
    RELATIVISTIC = "relativistic"


def discriminator_loss(kind: GANLoss | str, real: Tensor, fake: Tensor) -> Tensor:
    """Return the discriminator's loss.

    Parameters
    ----------
    kind
        "vanilla", "hinge" or "relativistic".
    real, fake
        Logits of real images, and of predictions detached from the generator.

    Raises
    ------
    ValueError
        If the kind is unknown.
    """
    real, fake = real.float(), fake.float()
    match GANLoss(kind):
        case GANLoss.VANILLA:
            return _is_real(real) + _is_fake(fake)
        case GANLoss.HINGE:
            return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        case GANLoss.RELATIVISTIC:
            return (_is_real(real - fake.mean()) + _is_fake(fake - real.mean())) / 2


def generator_loss(kind: GANLoss | str, fake: Tensor, real: Tensor | None = None) -> Tensor:
    """Return the generator's loss.

    Parameters
    ----------
    kind
        "vanilla", "hinge" or "relativistic".
    fake
        Logits of predictions, with gradients to the generator.
    real
        Logits of real images, needed for "relativistic"; used without gradients.

    Raises
    ------
    ValueError
        If the kind is unknown, or `real` is missing.
    """
    fake = fake.float()
    match GANLoss(kind):
        case GANLoss.VANILLA:
            return _is_real(fake)
        case GANLoss.HINGE:
            return -fake.mean()
        case GANLoss.RELATIVISTIC:
            if real is None:
                raise ValueError("the relativistic generator loss needs the discriminator's logits of real images too")
            real = real.detach().float()
            return (_is_fake(real - fake.mean()) + _is_real(fake - real.mean())) / 2


def _is_real(logits: Tensor) -> Tensor:
    """Return the mean of -log sigmoid(x)."""
    return F.softplus(-logits).mean()


def _is_fake(logits: Tensor) -> Tensor:
    """Return the mean of -log(1 - sigmoid(x))."""
    return F.softplus(logits).mean()
