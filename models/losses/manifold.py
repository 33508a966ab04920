"""Manifold loss of SRGAN_SQE: distance of a frozen encoder's codes, a perceptual loss learned from tissue."""

import torch
from torch import Tensor, nn

from slidelift.models.losses.pixel import QuasiNorm


class Manifold:
    """Mean quasi-norm of the difference of codes (Upadhyay and Awate, ISBI 2019, section 2.2).

    Parameters
    ----------
    encoder
        (N, 3, H, W) in [0, 1] -> codes of any shape; from an autoencoder trained on high-resolution images. It is
        frozen and set to eval mode.
    q, epsilon
        See `QuasiNorm`; q = 2 gives SRGAN_E.
    """

    def __init__(self, encoder: nn.Module, q: float = 0.5, epsilon: float = 1e-5) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.distance = QuasiNorm(q, epsilon)

    def __call__(self, prediction: Tensor, target: Tensor, low: Tensor) -> Tensor:
        self.encoder.to(prediction.device)
        with torch.no_grad():
            target_codes = self.encoder(target)
        return self.distance(self.encoder(prediction), target_codes.float(), low)
