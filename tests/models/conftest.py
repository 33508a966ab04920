"""Fixtures: small networks with image-like output, and real data if available."""

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from slidelift.models.networks.table import NETWORKS
from slidelift.models.zoo.self_test import COLOURS

TINY = {
    "srvgg-compact": {"features": 8, "convolutions": 3},
    "rrdbnet": {"features": 8, "growth": 4, "blocks": 1},
    "srcnn": {"features": 8, "mapped": 6, "kernel": 5},
    "fsrcnn": {"features": 56, "mapped": 12, "convolutions": 2},  # narrower 1x1 kernels add up as the size has it
    "vdsr": {"features": 8, "layers": 5},
    "espcn": {"features": 8, "mapped": 6},
    "srresnet": {"features": 6, "blocks": 2, "scale": 2},  # 9x9 convolutions at four times the size take long
    "msrresnet": {"features": 8, "blocks": 2},
    "edsr": {"features": 8, "blocks": 2},
    "rcan": {"features": 8, "groups": 2, "blocks": 2, "reduction": 4},
}
SCALE = 4


def build_tiny(architecture: str, noise: float, **hyperparameters: int) -> nn.Module:
    """Initialise a network and add noise to all weights, so that mixed-up keys are detected."""
    rng = torch.Generator().manual_seed(7)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = NETWORKS[architecture].build(**({"scale": SCALE} | TINY[architecture] | hyperparameters))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=rng))
        for name, buffer in network.named_buffers():
            if "running" in name:
                buffer.add_(noise * torch.rand(buffer.shape, generator=rng))
    return network.eval()


def keep_colours(network: nn.Module, shift: float = 0.0) -> nn.Module:
    """Change the last layer by the least amount that preserves plain colours, or makes them `shift` levels brighter.

    Gauss-Newton steps of minimum norm: one if the output is linear in the last layer, a few with a tanh.
    """
    painted = torch.tensor(list(COLOURS.values())).reshape(-1, 3, 1, 1) / 255
    expected = (painted + shift / 255).flatten()
    network.requires_grad_(False)
    parameters = [parameter.requires_grad_(True) for parameter in list(network.parameters())[-2:]]
    for _ in range(20):
        middle = _middle(network(painted.expand(-1, 3, 48, 48)))
        missing = expected - middle.detach()
        if missing.abs().max() * 255 < 0.25:
            return network.requires_grad_(True)
        rows = [torch.autograd.grad(value, parameters, retain_graph=True) for value in middle]
        slopes = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows]).double()
        step = torch.linalg.pinv(slopes, rtol=1e-6) @ missing.double()
        parts = step.float().split([parameter.numel() for parameter in parameters])
        with torch.no_grad():
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.add_(part.reshape(parameter.shape))
    raise AssertionError(f"no weights of {type(network).__name__} found that preserve colours")


def _middle(image: Tensor) -> Tensor:
    third = image.shape[-1] // 3
    return image[:, :, third:-third, third:-third].mean((2, 3)).flatten()


@pytest.fixture(scope="session")
def tiny_network() -> Callable[..., nn.Module]:
    """`tiny_network(architecture, noise=0.02, shift=0, **hyperparameters)`: a few channels wide, preserving colours.

    `shift=None` does not correct the colours.
    """

    @cache
    def built(architecture: str, noise: float, shift: float | None, **hyperparameters: int) -> nn.Module:
        network = build_tiny(architecture, noise, **hyperparameters)
        return network if shift is None else keep_colours(network, shift)

    def build(architecture: str, noise: float = 0.02, shift: float | None = 0.0, **hyperparameters: int) -> nn.Module:
        return deepcopy(built(architecture, noise, shift, **hyperparameters))

    return build


@pytest.fixture
def patches() -> np.ndarray:
    """Three patches of noise, (3, 21, 26, 3)."""
    return np.random.default_rng(3).integers(0, 256, (3, 21, 26, 3), np.uint8)


@pytest.fixture(scope="session")
def eval_sets(data: Path) -> Path:
    """Folder of held-out real images."""
    return data / "eval"
