"""Optimisers and learning-rate schedules."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from slidelift.models.training.muon import Muon
from slidelift.models.training.recipe import Stage


def optimisers(stage: Stage, network: nn.Module, *, capturable: bool = False) -> list[torch.optim.Optimizer]:
    """Return the stage's optimisers; with Muon for the convolutions, AdamW for all other parameters.

    Parameters
    ----------
    capturable
        Whether a CUDA graph may contain their step: rate and step count are then tensors on the device. SGD does not
        support it.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    given: dict[str, Any] = {"lr": stage.learning_rate, "betas": stage.betas}
    if capturable:
        given |= {"capturable": True, "foreach": True}
    if stage.optimiser == "adam":
        return [torch.optim.Adam(parameters, **given)]
    if stage.optimiser == "adamw":
        return [torch.optim.AdamW(parameters, **given)]
    if stage.optimiser == "sgd":
        return [torch.optim.SGD(parameters, stage.learning_rate, momentum=stage.betas[0])]
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    muon: list[torch.optim.Optimizer] = [Muon(matrices, stage.learning_rate)]
    if vectors:
        muon.append(torch.optim.AdamW(vectors, **given, weight_decay=0))
    return muon


def set_rate(optimiser: torch.optim.Optimizer, rate: float | Tensor) -> None:
    """Set the learning rate of all groups; a tensor is used by reference."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def restore_optimiser(optimiser: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Restore a state dict's tensors but not its settings, so that a GPU's checkpoint can be resumed on a CPU."""
    optimiser.load_state_dict({"state": saved["state"], "param_groups": optimiser.state_dict()["param_groups"]})


def learning_rate(stage: Stage, iteration: int) -> float:
    """Return the learning rate of an iteration, counted from 0 within its stage."""
    past = iteration / stage.iterations
    warm = min(1.0, (iteration + 1) / min(stage.warmup, stage.iterations)) if stage.warmup else 1.0
    match stage.schedule:
        case "constant":
            share = 1.0
        case "cosine":
            share = 0.5 + 0.5 * math.cos(math.pi * past)
        case "linear":
            share = min(1.0, (1 - past) / stage.decay)
        case "halving":
            share = 0.5 ** sum(past >= milestone for milestone in stage.milestones)
    return warm * stage.learning_rate * share
