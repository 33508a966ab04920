"""FSRCNN: SRCNN at source resolution, with narrow convolutions and a transposed convolution.

Keys are those of yjn870's FSRCNN-pytorch. One-channel weights are luma. The transposed convolution has a 9x9 kernel at
every scale, so the scale can't be inferred from the weights.

Source: Dong, Loy, Tang, "Accelerating the Super-Resolution Convolutional Neural Network", ECCV 2016.
"""

from collections.abc import Mapping
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slidelift.models.networks.blocks import BICUBIC_RADIUS, ImageNetwork, conv3, float32
from slidelift.models.networks.spec import Geometry, NetworkSpec, StateDict

_FIRST, _LAST = 5, 9


class FSRCNN(ImageNetwork):
    """(N, 3, h, w) RGB in [0, 1] -> (N, 3, scale*h, scale*w).

    Parameters
    ----------
    features, mapped
        Channels of the outer layers and of the narrow middle: the paper's d and s.
    convolutions
        Convolutions of the middle: the paper's m.
    channels
        1 for luma, 3 for RGB.
    """

    def __init__(
        self, features: int = 56, mapped: int = 12, convolutions: int = 4, channels: int = 1, scale: int = 4
    ) -> None:
        super().__init__(channels, scale)
        self.first_part = nn.Sequential(nn.Conv2d(channels, features, _FIRST, padding=_FIRST // 2), nn.PReLU(features))
        middle: list[nn.Module] = [nn.Conv2d(features, mapped, 1), nn.PReLU(mapped)]
        for _ in range(convolutions):
            middle += [conv3(mapped, mapped), nn.PReLU(mapped)]
        self.mid_part = nn.Sequential(*middle, nn.Conv2d(mapped, features, 1), nn.PReLU(features))
        self.last_part = nn.ConvTranspose2d(
            features, channels, _LAST, stride=scale, padding=_LAST // 2, output_padding=scale - 1
        )
        self.initialise()

    def initialise(self) -> None:
        """Kaiming-normal, and a last layer near zero as in the paper; with PyTorch's default the signal vanishes."""
        for layer in (*self.first_part, *self.mid_part):
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.25)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.last_part.weight.data.normal_(std=0.001)
        nn.init.zeros_(self.last_part.bias)  # type: ignore[arg-type]

    def enlarge(self, planes: Tensor) -> Tensor:
        """Run in float32: there is no skip connection, and narrow layers would gain little from bfloat16."""
        with float32(planes):
            return self.deconvolve(self.mid_part(self.first_part(planes.float())))

    def deconvolve(self, x: Tensor) -> Tensor:
        """Compute `last_part` as a convolution per phase and a pixel shuffle.

        torch's transposed convolution sums in an order that depends on the patch's size, so that tiles would differ in
        the last bits, and takes 2.7 times as long (256x256, two cores).
        """
        kernel, bias = self.last_part.weight, self.last_part.bias
        reach = _reach(self.scale)
        taps = torch.arange(-reach, reach + 1, device=kernel.device)
        index = torch.arange(self.scale, device=kernel.device)[:, None] + _LAST // 2 - self.scale * taps
        index = index.clamp(-1, _LAST) + 1  # indices outside the kernel point to the border of zeros
        padded = F.pad(kernel, [1, 1, 1, 1])
        phases = padded[:, :, index[:, None, :, None], index[None, :, None, :]]
        phases = phases.permute(1, 2, 3, 0, 4, 5).flatten(0, 2)
        out = F.pixel_shuffle(F.conv2d(x, phases, padding=reach), self.scale)
        return out if bias is None else out + bias[:, None, None]


def _reach(scale: int) -> int:
    """Return the radius of the transposed convolution in source pixels."""
    return (_LAST // 2 + scale - 1) // scale


def recognise(state: StateDict) -> bool:
    """Recognise the three parts by the first 5x5 and the last 9x9 kernel."""
    first, last = state.get("first_part.0.weight"), state.get("last_part.weight")
    if first is None or last is None or "mid_part.0.weight" not in state:
        return False
    return first.shape[1] in (1, 3) and first.shape[2] == _FIRST and last.shape[2] == _LAST


def hyperparameters(state: StateDict) -> dict[str, int]:
    """Infer widths and depth from shapes, which do not depend on the scale."""
    features, channels, *_ = state["first_part.0.weight"].shape
    last = next(index for index in count(2, 2) if f"mid_part.{index + 2}.weight" not in state)
    mapped = state["mid_part.0.weight"].shape[0]
    return {"features": features, "mapped": mapped, "convolutions": last // 2 - 1, "channels": channels}


def geometry(hyperparameters: Mapping[str, int]) -> Geometry:
    """Halo of the receptive radius: convolutions at source resolution and the transposed convolution."""
    scale = hyperparameters["scale"]
    radius = _FIRST // 2 + hyperparameters["convolutions"] + _reach(scale)
    return Geometry(scale, halo=max(radius, BICUBIC_RADIUS), exact=True, fade=0)


SPEC = NetworkSpec(
    name="fsrcnn",
    recognise=recognise,
    canonical=dict,
    hyperparameters=hyperparameters,
    build=FSRCNN,
    geometry=geometry,
    paper="Dong et al., Accelerating the Super-Resolution Convolutional Neural Network, ECCV 2016 (arXiv 1608.00367)",
)
