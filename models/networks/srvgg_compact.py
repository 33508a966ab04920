"""SRVGGNetCompact: Real-ESRGAN's small VGG-style network, the project's default.

3x3 convolutions at source resolution and a pixel shuffle, added to the input enlarged by nearest neighbour. Keys are
those of the public checkpoints (`realesr-general-x4v3`, `realesr-animevideov3`): a flat list of convolutions (even
indices) and PReLUs (odd indices).

Source: Wang, Xie, Dong, Shan, "Real-ESRGAN", ICCVW 2021, and its repository's `srvgg_arch`.
"""

from collections.abc import Mapping
from itertools import count
from math import isqrt

import torch.nn.functional as F
from torch import Tensor, nn

from slidelift.models.networks.blocks import BICUBIC_RADIUS, ImageNetwork
from slidelift.models.networks.spec import Geometry, NetworkSpec, StateDict


class SRVGGNetCompact(ImageNetwork):
    """(N, 3, h, w) RGB in [0, 1] -> (N, 3, scale*h, scale*w).

    Parameters
    ----------
    features
        Channels of the body.
    convolutions
        Body convolutions between the first and the last; the receptive radius is `convolutions + 2` pixels.
    channels
        1 for luma, 3 for RGB.
    scale
        Enlargement along each axis.
    """

    def __init__(self, features: int = 64, convolutions: int = 16, channels: int = 3, scale: int = 4) -> None:
        super().__init__(channels, scale)
        layers: list[nn.Module] = [nn.Conv2d(channels, features, 3, padding=1), nn.PReLU(features)]
        for _ in range(convolutions):
            layers += [nn.Conv2d(features, features, 3, padding=1), nn.PReLU(features)]
        layers.append(nn.Conv2d(features, channels * scale**2, 3, padding=1))
        self.body = nn.ModuleList(layers)
        self.initialise()

    def initialise(self) -> None:
        """Kaiming-normal weights and a scaled last layer; with PyTorch's default the signal vanishes."""
        convolutions = [layer for layer in self.body if isinstance(layer, nn.Conv2d)]
        for layer in convolutions:
            nn.init.kaiming_normal_(layer.weight, a=0.25)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        convolutions[-1].weight.data.mul_(0.1)

    def skip_halo(self) -> None:
        """Remove the padding of all convolutions, which saves an eighth of the work on a patch of 300 pixels."""
        for layer in self.body:
            if isinstance(layer, nn.Conv2d):
                layer.padding = (0, 0)

    def enlarge(self, planes: Tensor) -> Tensor:
        """Under autocast only the body runs in lower precision."""
        out = planes
        for layer in self.body:
            out = layer(out)
        base = F.interpolate(planes.float(), scale_factor=self.scale, mode="nearest")
        dropped = [self.scale * (planes.shape[axis] - out.shape[axis]) // 2 for axis in (3, 3, 2, 2)]
        return F.pad(F.pixel_shuffle(out.float(), self.scale), dropped) + base


def _last_index(state: StateDict) -> int:
    return next(i for i in count(2, 2) if f"body.{i + 2}.weight" not in state)


def recognise(state: StateDict) -> bool:
    """Recognise a flat list `body.N` whose second entry is a PReLU."""
    first, second = state.get("body.0.weight"), state.get("body.1.weight")
    if first is None or first.ndim != 4 or second is None or second.ndim != 1:
        return False
    return first.shape[1] in (1, 3)


def hyperparameters(state: StateDict) -> dict[str, int]:
    """Infer width, depth and scale from shapes."""
    last = _last_index(state)
    features, channels, *_ = state["body.0.weight"].shape
    return {
        "features": features,
        "convolutions": last // 2 - 1,
        "channels": channels,
        "scale": isqrt(state[f"body.{last}.weight"].shape[0] // channels),
    }


def geometry(hyperparameters: Mapping[str, int]) -> Geometry:
    """Halo of the receptive radius."""
    halo = max(hyperparameters["convolutions"] + 2, BICUBIC_RADIUS)
    return Geometry(hyperparameters["scale"], halo, exact=True, fade=0)


SPEC = NetworkSpec(
    name="srvgg-compact",
    recognise=recognise,
    canonical=dict,
    hyperparameters=hyperparameters,
    build=SRVGGNetCompact,
    geometry=geometry,
    paper="Wang et al., Real-ESRGAN, ICCVW 2021 (arXiv 2107.10833)",
    scales=(1, 2, 3, 4),
)
