"""Small networks whose output is an image, and the real data where it is there."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.networks.rrdbnet import RRDBNet
from models.networks.srvgg_compact import SRVGGNetCompact
from models.networks.table import NETWORKS

TINY = {
    "srvgg-compact": {"features": 8, "convolutions": 3, "scale": 4},
    "rrdbnet": {"features": 8, "growth": 4, "blocks": 1, "scale": 4},
}


def keep_colours(network: nn.Module, noise: float) -> nn.Module:
    """Weights that repeat each pixel, and noise on every one of them, so that a key put in the wrong place shows."""
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(noise * torch.randn(parameter.shape, generator=rng))
        if isinstance(network, SRVGGNetCompact):
            return network.eval()
        assert isinstance(network, RRDBNet)
        folded = network.fold**2
        for channel in range(3):
            network.conv_first.weight[channel, channel * folded : (channel + 1) * folded, 1, 1] += 1 / folded
            for layer in (network.conv_up1, network.conv_up2, network.conv_hr, network.conv_last):
                layer.weight[channel, channel, 1, 1] += 1
        grey = network(torch.full((1, 3, 32, 32), 0.5))[0, :, 8:-8, 8:-8].mean((1, 2))
        network.conv_last.bias += 0.5 - grey
    return network.eval()


@pytest.fixture(scope="session")
def tiny_network() -> Callable[..., nn.Module]:
    """`tiny_network(architecture, noise=0.02, **hyperparameters)`: a network a few channels wide."""

    def build(architecture: str, noise: float = 0.02, **hyperparameters: int) -> nn.Module:
        return keep_colours(NETWORKS[architecture].build(**(TINY[architecture] | hyperparameters)), noise)

    return build


@pytest.fixture
def patches() -> np.ndarray:
    """Three patches of noise, (3, 21, 26, 3)."""
    return np.random.default_rng(3).integers(0, 256, (3, 21, 26, 3), np.uint8)


@pytest.fixture(scope="session")
def eval_sets(data: Path) -> Path:
    """The folder of held-out real images."""
    return data / "eval"
