"""Interface of losses."""

from typing import Protocol

from torch import Tensor


class Loss(Protocol):
    """Differentiable distance; parameters are given to the constructor."""

    def __call__(self, prediction: Tensor, target: Tensor, low: Tensor, /) -> Tensor:
        """Return a float32 scalar.

        Parameters
        ----------
        prediction, target
            (N, 3, H, W) in about [0, 1].
        low
            (N, 3, h, w): the network's input.
        """
        ...
