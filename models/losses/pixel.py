"""Losses on pixels or frequencies; all are means."""

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
class NegativePsnr:
    """Negative PSNR in dB, mean over the batch (HINet, Chen et al., CVPRW 2021).

    Each crop counts by its relative error. In a mean of squares, strongly compressed crops outweigh clean ones, whose
    error is a tenth as large.

    Parameters
    ----------
    luma_share
        Weight of the PSNR of BT.601 luma, the measure of evaluations, against that of RGB; 0 to 1.
    epsilon
        Added to the mean squared error; 1e-7 is 70 dB.

    Raises
    ------
    ValueError
        If `luma_share` or `epsilon` is out of range.
    """

    luma_share: float = 0.5
    epsilon: float = 1e-7

    def __post_init__(self) -> None:
        if not 0 <= self.luma_share <= 1 or self.epsilon <= 0:
            raise ValueError(
                f"luma_share must lie in 0 to 1 and epsilon above 0, not {self.luma_share}, {self.epsilon}"
            )

    def __call__(self, prediction: Tensor, target: Tensor, _low: Tensor) -> Tensor:
        difference = prediction.float() - target
        red, green, blue = difference.unbind(1)
        luma = (65.481 * red + 128.553 * green + 24.966 * blue) / 255
        return self.luma_share * self._decibels(luma) + (1 - self.luma_share) * self._decibels(difference)

    def _decibels(self, difference: Tensor) -> Tensor:
        return 10 * (difference.square().flatten(1).mean(1) + self.epsilon).log10().mean()


@dataclass(frozen=True, slots=True)
class QuasiNorm:
    """Robust loss of SRGAN_QE: mean of (r^2 + epsilon)^(q/2) (Upadhyay and Awate, ISBI 2019, section 2.2).

    The paper sums over the pixels of a patch; with the mean, weights do not depend on the patch's size.

    Parameters
    ----------
    q
        In (0, 2]; 2 is the squared error; below 1 large outliers have little weight. Best in the paper: 0.5.
    epsilon
        Square of the residual below which the quasi-norm is quadratic; 1e-5 is 0.8 grey levels. The paper says "small".

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
    """Mean modulus of the difference of orthonormal Fourier transforms."""

    def __call__(self, prediction: Tensor, target: Tensor, _low: Tensor) -> Tensor:
        difference: Tensor = torch.fft.rfft2(prediction.float() - target, norm="ortho")
        # abs() has no usable gradient at a complex zero
        return (difference.real.square() + difference.imag.square() + 1e-12).sqrt().mean()
