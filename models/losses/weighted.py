"""Several losses as one number, and each as a number for the log."""

from collections.abc import Mapping

import torch
from torch import Tensor

from slidelift.models.losses.loss import Loss


class WeightedSum:
    """The weighted sum of named losses.

    Parameters
    ----------
    terms
        Name -> (weight, loss); a weight of 0 leaves the loss out.

    Raises
    ------
    ValueError
        If no loss has a weight.
    """

    def __init__(self, terms: Mapping[str, tuple[float, Loss]]) -> None:
        self.terms = {name: (weight, loss) for name, (weight, loss) in terms.items() if weight}
        if not self.terms:
            raise ValueError("no loss with a weight other than 0")

    def __call__(self, prediction: Tensor, target: Tensor, low: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, and each loss unweighted and detached: a tensor, so that logging decides when to wait for it."""
        parts = {name: loss(prediction, target, low) for name, (_, loss) in self.terms.items()}
        total = torch.stack([self.terms[name][0] * value for name, value in parts.items()]).sum()
        return total, {name: value.detach() for name, value in parts.items()}
