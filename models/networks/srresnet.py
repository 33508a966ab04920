"""SRResNet: SRGAN's generator, residual blocks with batch normalisation and a pixel-shuffle tail.

Keys are those of leftthomas's SRGAN (`block1.0`, `block2.conv1` …), which has five blocks; the paper has sixteen.
Inference runs in eval mode, without batch statistics, so that a pixel depends only on its neighbourhood.

Source: Ledig et al., "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network", CVPR 2017.
"""

from collections.abc import Mapping
from itertools import count
from math import ceil

import torch
from torch import Tensor, nn

from slidelift.models.networks.blocks import (
    BICUBIC_RADIUS,
    ImageNetwork,
    conv3,
    float32,
    shuffle_factors,
    tail_radius,
    tail_scale,
)
from slidelift.models.networks.spec import Geometry, NetworkSpec, StateDict

_END = 9
"""Kernel size of the first and the last convolution."""


class NormalisedBlock(nn.Module):
    """Residual block of convolution, normalisation, PReLU, convolution, normalisation."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = conv3(features, features)
        self.bn1 = nn.BatchNorm2d(features)
        self.prelu = nn.PReLU()
        self.conv2 = conv3(features, features)
        self.bn2 = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(x)))))
        return x + out


class ShuffleBlock(nn.Module):
    """Convolution, pixel shuffle, PReLU."""

    def __init__(self, features: int, factor: int) -> None:
        super().__init__()
        self.conv = conv3(features, features * factor**2)
        self.pixel_shuffle = nn.PixelShuffle(factor)
        self.prelu = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, features, h, w) -> (N, features, factor*h, factor*w)."""
        out: Tensor = self.prelu(self.pixel_shuffle(self.conv(x)))
        return out


class SRResNet(ImageNetwork):
    """(N, 3, h, w) RGB in [0, 1] -> (N, 3, scale*h, scale*w), within [0, 1] by a tanh.

    Uses PyTorch's default initialisation; normalisation sets the scale of every block.

    Parameters
    ----------
    features
        Channels of the trunk.
    blocks
        Residual blocks; modules `block2` to `block{blocks + 1}`, as in public files.
    channels
        1 for luma, 3 for RGB.
    """

    def __init__(self, features: int = 64, blocks: int = 16, channels: int = 3, scale: int = 4) -> None:
        super().__init__(channels, scale)
        self.blocks = blocks
        self.block1 = nn.Sequential(nn.Conv2d(channels, features, _END, padding=_END // 2), nn.PReLU())
        for index in range(blocks):
            self.add_module(f"block{index + 2}", NormalisedBlock(features))
        self.add_module(f"block{blocks + 2}", nn.Sequential(conv3(features, features), nn.BatchNorm2d(features)))
        tail: list[nn.Module] = [ShuffleBlock(features, factor) for factor in shuffle_factors(scale)]
        tail.append(nn.Conv2d(features, channels, _END, padding=_END // 2))
        self.add_module(f"block{blocks + 3}", nn.Sequential(*tail))

    def enlarge(self, planes: Tensor) -> Tensor:
        """Under autocast only the blocks run in lower precision."""
        with float32(planes):
            first = self.block1(planes.float())
        trunk = first
        for index in range(2, self.blocks + 3):
            trunk = self.get_submodule(f"block{index}")(trunk)
        with float32(planes):
            out: Tensor = self.get_submodule(f"block{self.blocks + 3}")(first + trunk.float())
            return (torch.tanh(out) + 1) / 2


def canonical(state: StateDict) -> dict[str, Tensor]:
    """Add counters that older versions of torch did not save."""
    counters = {key.replace("running_var", "num_batches_tracked") for key in state if key.endswith("running_var")}
    return {**{key: torch.zeros(()) for key in sorted(counters - state.keys())}, **state}


def recognise(state: StateDict) -> bool:
    """Recognise a 9x9 convolution and numbered blocks with normalisation."""
    first = state.get("block1.0.weight")
    if first is None or "block2.bn1.weight" not in state or "block2.conv1.weight" not in state:
        return False
    return first.shape[1] in (1, 3) and first.shape[2:] == (_END, _END)


def hyperparameters(state: StateDict) -> dict[str, int]:
    """Infer width, depth and scale from shapes."""
    features, channels, *_ = state["block1.0.weight"].shape
    blocks = next(index for index in count() if f"block{index + 2}.conv1.weight" not in state)
    scale = tail_scale(state, *(f"block{blocks + 3}.{index}.conv" for index in range(4)))
    return {"features": features, "blocks": blocks, "channels": channels, "scale": scale}


def geometry(hyperparameters: Mapping[str, int]) -> Geometry:
    """Halo of the receptive radius: 40 at 16 blocks, 18 at 5 (x4)."""
    scale = hyperparameters["scale"]
    trunk = _END // 2 + 2 * hyperparameters["blocks"] + 1
    return Geometry(scale, max(BICUBIC_RADIUS, ceil(trunk + tail_radius(scale, _END // 2))), exact=True, fade=0)


SPEC = NetworkSpec(
    name="srresnet",
    recognise=recognise,
    canonical=canonical,
    hyperparameters=hyperparameters,
    build=SRResNet,
    geometry=geometry,
    paper="Ledig et al., Photo-Realistic Single Image Super-Resolution Using a GAN, CVPR 2017 (arXiv 1609.04802)",
)
