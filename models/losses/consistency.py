"""Consistency loss between the reduced prediction and the network's input."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

REDUCTIONS = ("bicubic", "area")


@dataclass(frozen=True, slots=True)
class Consistency:
    """Mean absolute difference of `low` and the reduced prediction.

    Parameters
    ----------
    reduction
        Reduction of the degradation: "bicubic" (antialiased) or "area" (block means).

    Raises
    ------
    ValueError
        If the reduction is unknown.
    """

    reduction: str = "bicubic"

    def __post_init__(self) -> None:
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"no reduction {self.reduction!r}; available: {', '.join(REDUCTIONS)}")

    def __call__(self, prediction: Tensor, _target: Tensor, low: Tensor) -> Tensor:
        size = (low.shape[2], low.shape[3])
        if self.reduction == "area":
            reduced = F.adaptive_avg_pool2d(prediction.float(), size)
        else:
            reduced = F.interpolate(prediction.float(), size, mode="bicubic", antialias=True)
        return (reduced - low).abs().mean()
