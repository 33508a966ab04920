"""VDSR: twenty convolutions that learn the residual of a bicubic enlargement.

Keys are those of twtygqyy's pytorch-vdsr: `input`, `residual_layer.N.conv`, `output`, without biases; its earlier flat
list `features.N` is converted. One-channel weights are luma. The scale can't be inferred from the weights: the paper
trains one network for 2, 3 and 4.

Source: Kim, Lee, Lee, "Accurate Image Super-Resolution Using Very Deep Convolutional Networks", CVPR 2016.
"""

import re
from collections.abc import Mapping
from itertools import count

import torch.nn.functional as F
from torch import Tensor, nn

from slidelift.models.networks.blocks import ImageNetwork, bicubic_reach, enlarge_bicubic, float32
from slidelift.models.networks.spec import Geometry, NetworkSpec, StateDict


class ConvolutionAndReLU(nn.Module):
    """Layer of the body; key `conv`."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features, features, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x), inplace=True)


class VDSR(ImageNetwork):
    """(N, 3, h, w) RGB in [0, 1] -> (N, 3, scale*h, scale*w).

    Parameters
    ----------
    features
        Channels of the body.
    layers
        Number of convolutions, including the first and the last.
    channels
        1 for luma, 3 for RGB.
    """

    def __init__(self, features: int = 64, layers: int = 20, channels: int = 1, scale: int = 4) -> None:
        super().__init__(channels, scale)
        self.input = nn.Conv2d(channels, features, 3, padding=1, bias=False)
        self.residual_layer = nn.Sequential(*(ConvolutionAndReLU(features) for _ in range(layers - 2)))
        self.output = nn.Conv2d(features, channels, 3, padding=1, bias=False)
        self.initialise()

    def initialise(self) -> None:
        """Kaiming-normal and a scaled last layer; with PyTorch's default the signal vanishes in twenty layers."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        self.output.weight.data.mul_(0.1)

    def enlarge(self, planes: Tensor) -> Tensor:
        """Under autocast only the body runs in lower precision."""
        base = enlarge_bicubic(planes, self.scale)
        with float32(planes):
            first = F.relu(self.input(base))
        body = self.residual_layer(first)
        with float32(planes):
            out: Tensor = self.output(body.float()) + base
        return out


_FLAT = re.compile(r"features\.(\d+)\.")


def canonical(state: StateDict) -> dict[str, Tensor]:
    """Convert the flat list, whose even numbers are convolutions."""
    numbers = [int(match[1]) for key in state if (match := _FLAT.match(key))]
    last = max(numbers, default=0)

    def renamed(match: re.Match[str]) -> str:
        number = int(match[1])
        ends = {0: "input.", last: "output."}
        return ends.get(number, f"residual_layer.{number // 2 - 1}.conv.")

    return {_FLAT.sub(renamed, key): value for key, value in state.items()}


def recognise(state: StateDict) -> bool:
    """Recognise convolutions without biases, with one or three channels of input and output."""
    state = canonical(state)
    first, last = state.get("input.weight"), state.get("output.weight")
    if first is None or last is None or first.ndim != 4 or last.ndim != 4:
        return False
    body = all(key in ("input.weight", "output.weight") or key.startswith("residual_layer.") for key in state)
    return body and first.shape[1] == last.shape[0] and first.shape[1] in (1, 3)


def hyperparameters(state: StateDict) -> dict[str, int]:
    """Infer width and depth from shapes, which do not depend on the scale."""
    features, channels, *_ = state["input.weight"].shape
    body = next(index for index in count() if f"residual_layer.{index}.conv.weight" not in state)
    return {"features": features, "layers": body + 2, "channels": channels}


def geometry(hyperparameters: Mapping[str, int]) -> Geometry:
    """Halo of one enlarged pixel per layer and the bicubic kernel."""
    scale = hyperparameters["scale"]
    return Geometry(scale, halo=bicubic_reach(scale, hyperparameters["layers"]), exact=True, fade=0)


SPEC = NetworkSpec(
    name="vdsr",
    recognise=recognise,
    canonical=canonical,
    hyperparameters=hyperparameters,
    build=VDSR,
    geometry=geometry,
    paper="Kim et al., Accurate Image Super-Resolution Using Very Deep Convolutional Networks, CVPR 2016 "
    "(arXiv 1511.04587)",
)
