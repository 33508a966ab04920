"""The face of every loss."""

from typing import Protocol

from torch import Tensor


class Loss(Protocol):
    """A differentiable distance; what a loss needs besides the images it was built with."""

    def __call__(self, prediction: Tensor, target: Tensor, low: Tensor, /) -> Tensor:
        """One float32 number.

        Parameters
        ----------
        prediction, target
            (N, 3, H, W) in about [0, 1].
        low
            (N, 3, h, w): what the network was given.
        """
        ...
