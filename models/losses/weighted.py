"""Weighted sum of losses."""

from collections.abc import Mapping

import torch
from torch import Tensor

from slidelift.models.losses.loss import Loss


class WeightedSum:
    """Weighted sum of named losses.

    Parameters
    ----------
    terms
        Name -> (weight, loss); losses with a weight of 0 are not computed.

    Raises
    ------
    ValueError
        If all weights are 0.
    """

    def __init__(self, terms: Mapping[str, tuple[float, Loss]]) -> None:
        self.terms = {name: (weight, loss) for name, (weight, loss) in terms.items() if weight}
        if not self.terms:
            raise ValueError("no loss with a weight other than 0")

    def __call__(self, prediction: Tensor, target: Tensor, low: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total, and each loss unweighted and detached, as tensors to avoid synchronisation."""
        parts = {name: loss(prediction, target, low) for name, (_, loss) in self.terms.items()}
        total = torch.stack([self.terms[name][0] * value for name, value in parts.items()]).sum()
        return total, {name: value.detach() for name, value in parts.items()}
