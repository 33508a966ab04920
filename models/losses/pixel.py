"""Losses that compare pixel by pixel, and one that compares frequency by frequency; all are means."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class L1:
    """Mean of |r|."""

    def __call__(self, prediction: Tensor, target: Tensor, _low: Tensor) -> Tensor:
        return (prediction.float() - target).abs().mean()


@dataclass(frozen=True, slots=True)
class MSE:
    """Mean of r^2."""

    def __call__(self, prediction: Tensor, target: Tensor, _low: Tensor) -> Tensor:
        return (prediction.float() - target).square().mean()


@dataclass(frozen=True, slots=True)
class Charbonnier:
    """Smooth L1 (Lai et al., CVPR 2017): mean of sqrt(r^2 + epsilon^2)."""

    epsilon: float = 1e-3

    def __call__(self, prediction: Tensor, target: Tensor, _low: Tensor) -> Tensor:
        return ((prediction.float() - target).square() + self.epsilon**2).sqrt().mean()


@dataclass(frozen=True, slots=True)
class QuasiNorm:
    """The robust fidelity of SRGAN_QE: mean of (r^2 + epsilon)^(q/2), Upadhyay and Awate, ISBI 2019, section 2.2.

    The paper sums over the pixels of a patch; the mean here keeps weights independent of the patch's size.

    Parameters
    ----------
    q
        In (0, 2]; 2 is the squared error, below 1 outliers count less the larger they are. Best in the paper: 0.5.
    epsilon
        Where the quasi-norm turns quadratic, squared; 1e-5 is 0.8 grey levels. The paper says "small".

    Raises
    ------
    ValueError
        If `q` or `epsilon` is out of range.
    """

    q: float = 0.5
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 < self.q <= 2 or self.epsilon <= 0:
            raise ValueError(f"q must lie in (0, 2] and epsilon above 0, not {self.q} and {self.epsilon}")

    def __call__(self, prediction: Tensor, target: Tensor, _low: Tensor) -> Tensor:
        return ((prediction.float() - target).square() + self.epsilon).pow(self.q / 2).mean()


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Mean modulus of the difference of the orthonormal Fourier transforms."""

    def __call__(self, prediction: Tensor, target: Tensor, _low: Tensor) -> Tensor:
        difference: Tensor = torch.fft.rfft2(prediction.float() - target, norm="ortho")
        # abs() of a complex zero has no gradient that can be used
        return (difference.real.square() + difference.imag.square() + 1e-12).sqrt().mean()
