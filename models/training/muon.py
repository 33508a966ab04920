"""Muon: momentum whose matrices are orthogonalised before each step.

On the project's compact network from scratch it reaches in 250 iterations the loss that AdamW reaches in 400.
torch's own takes matrices alone; a convolution's weight is one of (out, in * kernel), so this one flattens.

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; scaling of the step to
AdamW's after Liu et al., "Muon is scalable for LLM training", arXiv 2502.16982, equation 4.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz iteration that pushes singular values towards one."""


class Muon(torch.optim.Optimizer):
    """For weights of two or more dimensions; give biases and slopes to AdamW.

    Matrices of one shape are orthogonalised as one stack: the 351 of RRDBNet-23 are 8 stacks, and a GPU does not wait
    for its host. Memory: a step holds four copies of the largest stack, 120 MB there.

    Parameters
    ----------
    learning_rate
        The root mean square of an update is 0.2 of it, as AdamW's is about, so that its rates carry over. A group's
        `lr` may be a tensor on the weights' device, as a captured CUDA graph needs it.
    """

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": learning_rate, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # noqa: ARG002 - torch's
        """Move every weight once along its orthogonalised Nesterov momentum."""
        for group in self.param_groups:
            for weights in _by_shape(group["params"]):
                self._move(weights, group["lr"], group["momentum"])

    def _move(self, weights: list[Tensor], rate: float | Tensor, momentum: float) -> None:
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
    """About the nearest matrices whose singular values are all one (0.7 to 1.2), by Newton-Schulz iteration.

    Parameters
    ----------
    matrices
        (rows, columns), or a stack of such: (N, rows, columns).
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
    """The weights that have a gradient, together where their matrices have one shape."""
    stacks: dict[tuple[int, int], list[Tensor]] = {}
    for weight in weights:
        if weight.grad is not None:
            stacks.setdefault((weight.shape[0], weight[0].numel()), []).append(weight)
    return stacks.values()
