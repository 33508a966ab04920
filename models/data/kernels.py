"""Blur kernels, one per sample, and their application by one grouped convolution.

Real-ESRGAN's families: (generalised) Gaussian and plateau-shaped kernels (Liu et al., 2020), and circular low-pass
("sinc") filters.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def _grid(size: int) -> tuple[Tensor, Tensor]:
    """Return offsets (y, x) from the centre, float64 (size, size) each."""
    steps = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return y, x


def _normalised(kernels: Tensor, sides: Tensor | None) -> Tensor:
    """Normalise kernels to a sum of one as float32, cut to the odd sides (N,) if given."""
    if sides is not None:
        y, x = _grid(kernels.shape[-1])
        kernels = kernels * (torch.maximum(y.abs(), x.abs()) <= sides[:, None, None] // 2)
    return (kernels / kernels.sum((1, 2), keepdim=True)).float()


def gaussian_kernels(size: int, sigma: Tensor) -> Tensor:
    """Return isotropic Gaussians (N, size, size) of standard deviations (N,) in pixels; 0 means no blur.

    The centre of an even size lies between pixels.
    """
    y, x = _grid(size)
    return _normalised(torch.exp(-(y**2 + x**2) / (2 * sigma.double().clamp_min(1e-2)[:, None, None] ** 2)), None)


def shaped_kernels(size: int, sides: Tensor, sigmas: Tensor, angle: Tensor, beta: Tensor, is_plateau: Tensor) -> Tensor:
    """Return generalised Gaussians exp(-d^beta / 2) or plateaus 1 / (1 + d^beta) of squared Mahalanobis distances d.

    Parameters
    ----------
    size
        Side of the tensor, odd; kernels with smaller `sides` are padded with zeros.
    sides
        (N,), odd.
    sigmas
        (N, 2): standard deviations in pixels along the kernel's axes.
    angle
        (N,) in radians, from x towards y.
    beta
        (N,); 1 is the Gaussian.
    is_plateau
        bool (N,).
    """
    y, x = _grid(size)
    cosine, sine = (part.double()[:, None, None] for part in (angle.cos(), angle.sin()))
    first, second = sigmas.double()[:, :, None, None].unbind(1)
    squared = ((cosine * x + sine * y) / first) ** 2 + ((cosine * y - sine * x) / second) ** 2
    powered = squared ** beta.double()[:, None, None]
    kernels = torch.where(is_plateau[:, None, None], 1 / (1 + powered), torch.exp(-powered / 2))
    return _normalised(kernels, sides)


def lowpass_kernels(size: int, sides: Tensor, cutoff: Tensor) -> Tensor:
    """Return circular low-pass filters c J1(c r) / (2 pi r), cut to `sides` (N,), with cutoff c (N,) in (0, pi]."""
    y, x = _grid(size)
    radius = torch.hypot(y, x).expand(len(cutoff), size, size)
    c = cutoff.double()[:, None, None]
    safe = radius.clamp_min(1e-9)
    kernels = c * torch.special.bessel_j1(c * safe) / (2 * math.pi * safe)
    return _normalised(torch.where(radius == 0, c**2 / (4 * math.pi), kernels), sides)


def pulse_kernels(count: int, size: int) -> Tensor:
    """Return identity kernels (count, size, size) of odd size."""
    kernels = torch.zeros(count, size, size)
    kernels[:, size // 2, size // 2] = 1
    return kernels


def filter_each(images: Tensor, kernels: Tensor, stride: int = 1) -> Tensor:
    """Filter each image (N, C, h, w) by its own kernel (N, k, k); borders are reflected, or repeated for tiny images.

    Kernels are centred on each `stride` x `stride` block.
    """
    size = kernels.shape[-1]
    before, after = (size - stride) // 2, (size - stride + 1) // 2
    mode = "reflect" if after < min(images.shape[2:]) else "replicate"
    padded = F.pad(images, (before, after, before, after), mode=mode)
    weights = kernels.to(images.device, non_blocking=True)[:, None]
    filtered = F.conv2d(padded.transpose(0, 1), weights, stride=stride, groups=len(images))
    return filtered.transpose(0, 1).contiguous()
