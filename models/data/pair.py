"""Batches of training pairs."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pair:
    """Batch of training pairs, float32 in [0, 1] on one device.

    Attributes
    ----------
    low
        (N, 3, h, w), quantised to 8 bits: the network's input.
    high
        (N, 3, s*h, s*w): real images for a discriminator.
    target
        (N, 3, s*h, s*w): target of the other losses. The same tensor as `high` unless the degradation sharpens it.

    Raises
    ------
    ValueError
        If the sides of `high` are not the same multiple of those of `low`.
    """

    low: Tensor
    high: Tensor
    target: Tensor

    def __post_init__(self) -> None:
        (height, width), (h, w) = self.high.shape[2:], self.low.shape[2:]
        if height % h or width % w or height // h != width // w:
            raise ValueError(f"{width} x {height} px is no multiple of {w} x {h}; cut the crops to a multiple")


def to_8_bits(image: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to multiples of 1/255."""
    return image.clamp(0, 1).mul(255).round().div(255)


def crop_pair(pair: Pair, side: int, rng: torch.Generator) -> Pair:
    """Crop all images of a batch to the same random window, `side` high-resolution pixels wide.

    Real-ESRGAN degrades 400 px and keeps 256 of them, so that borders of blurs are not learned.

    Raises
    ------
    ValueError
        If `side` is no multiple of the scale, or larger than the pair.
    """
    height, width = pair.low.shape[2:]
    scale = pair.high.shape[2] // height
    window = side // scale
    if side % scale or window > min(height, width):
        raise ValueError(f"can't cut {side} px at scale {scale} out of {tuple(pair.high.shape[2:])}")
    top, left = (
        int(torch.randint(size - window + 1, (), generator=rng, device=rng.device)) for size in (height, width)
    )
    fine = slice(scale * top, scale * (top + window)), slice(scale * left, scale * (left + window))
    high = pair.high[:, :, fine[0], fine[1]]
    target = high if pair.target is pair.high else pair.target[:, :, fine[0], fine[1]]
    return Pair(pair.low[:, :, top : top + window, left : left + window], high, target)
