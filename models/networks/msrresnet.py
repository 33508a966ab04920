"""MSRResNet: BasicSR's SRResNet without normalisation, added to a bilinear enlargement. Keys are BasicSR's.

Sources: Ledig et al., CVPR 2017; Wang et al., "ESRGAN", ECCVW 2018 (its baseline).
"""

from collections.abc import Mapping
from itertools import count
from math import ceil

import torch.nn.functional as F
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

_UPCONVS = ("upconv1", "upconv2")


class PlainBlock(nn.Module):
    """Residual block of convolution, ReLU, convolution; keys `conv1` and `conv2`."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = conv3(features, features)
        self.conv2 = conv3(features, features)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(F.relu(self.conv1(x), inplace=True))
        return x + out


class MSRResNet(ImageNetwork):
    """(N, 3, h, w) RGB in [0, 1] -> (N, 3, scale*h, scale*w).

    Parameters
    ----------
    features, blocks
        Channels of the trunk, and its residual blocks.
    channels
        1 for luma, 3 for RGB.
    """

    def __init__(self, features: int = 64, blocks: int = 16, channels: int = 3, scale: int = 4) -> None:
        super().__init__(channels, scale)
        self.factors = shuffle_factors(scale)
        self.conv_first = conv3(channels, features)
        self.body = nn.Sequential(*(PlainBlock(features) for _ in range(blocks)))
        for name, factor in zip(_UPCONVS, self.factors, strict=False):
            self.add_module(name, conv3(features, features * factor**2))
        self.conv_hr = conv3(features, features)
        self.conv_last = conv3(features, channels)
        self.initialise()

    def initialise(self) -> None:
        """Kaiming-normal; residuals and the last layer scaled by 0.1, without which each block doubles the signal."""
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.1)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
                if name.endswith(("conv2", "conv_last")):
                    layer.weight.data.mul_(0.1)

    def enlarge(self, planes: Tensor) -> Tensor:
        """Under autocast only the body runs in lower precision."""
        with float32(planes):
            first = _lrelu(self.conv_first(planes.float()))
        out = self.body(first)
        with float32(planes):
            out = out.float()
            for name, factor in zip(_UPCONVS, self.factors, strict=False):
                out = _lrelu(F.pixel_shuffle(self.get_submodule(name)(out), factor))
            base = F.interpolate(planes.float(), scale_factor=self.scale, mode="bilinear", align_corners=False)
            residual: Tensor = self.conv_last(_lrelu(self.conv_hr(out)))
        return residual + base


def _lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1, inplace=True)


def recognise(state: StateDict) -> bool:
    """Recognise plain residual blocks and numbered upsampling convolutions."""
    keys = {"conv_first.weight", "body.0.conv1.weight", "upconv1.weight", "conv_hr.weight", "conv_last.weight"}
    return keys <= state.keys() and state["conv_first.weight"].shape[1] in (1, 3)


def hyperparameters(state: StateDict) -> dict[str, int]:
    """Infer width, depth and scale from shapes."""
    features, channels, *_ = state["conv_first.weight"].shape
    blocks = next(index for index in count() if f"body.{index}.conv1.weight" not in state)
    return {"features": features, "blocks": blocks, "channels": channels, "scale": tail_scale(state, *_UPCONVS)}


def geometry(hyperparameters: Mapping[str, int]) -> Geometry:
    """Halo of the receptive radius: 36 at 16 blocks (x4)."""
    scale = hyperparameters["scale"]
    radius = 1 + 2 * hyperparameters["blocks"] + tail_radius(scale, 2)
    return Geometry(scale, halo=max(BICUBIC_RADIUS, ceil(radius)), exact=True, fade=0)


SPEC = NetworkSpec(
    name="msrresnet",
    recognise=recognise,
    canonical=dict,
    hyperparameters=hyperparameters,
    build=MSRResNet,
    geometry=geometry,
    paper="Wang et al., ESRGAN, ECCVW 2018 (arXiv 1809.00219); after Ledig et al., CVPR 2017",
)
