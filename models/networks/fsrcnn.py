"""FSRCNN: SRCNN at source resolution, an hourglass of narrow convolutions and one deconvolution.

Keys are those of yjn870's FSRCNN-pytorch. One-channel weights are luma. The deconvolution has side 9 at every scale,
so the scale does not stand in the weights.

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
        Channels of the wide ends and of the narrow middle: the paper's d and s.
    convolutions
        Those of the middle: the paper's m.
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
        """Kaiming-normal, and a deconvolution near zero as in the paper; PyTorch's default fades layer by layer."""
        for layer in (*self.first_part, *self.mid_part):
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.25)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.last_part.weight.data.normal_(std=0.001)
        nn.init.zeros_(self.last_part.bias)  # type: ignore[arg-type]

    def enlarge(self, planes: Tensor) -> Tensor:
        """All in float32: no skip path carries the image, and narrow layers gain little from less."""
        with float32(planes):
            return self.deconvolve(self.mid_part(self.first_part(planes.float())))

    def deconvolve(self, x: Tensor) -> Tensor:
        """What `last_part` computes, as a convolution for each phase and a pixel shuffle.

        Torch's deconvolution adds up in an order that depends on the patch's size, so tiles differ in the last bits,
        and takes 2.7 times as long (256x256, two cores).
        """
        kernel, bias = self.last_part.weight, self.last_part.bias
        reach = _reach(self.scale)
        taps = torch.arange(-reach, reach + 1, device=kernel.device)
        places = torch.arange(self.scale, device=kernel.device)[:, None] + _LAST // 2 - self.scale * taps
        places = places.clamp(-1, _LAST) + 1  # into a border of zeros where the kernel does not reach
        padded = F.pad(kernel, [1, 1, 1, 1])
        phases = padded[:, :, places[:, None, :, None], places[None, :, None, :]]
        phases = phases.permute(1, 2, 3, 0, 4, 5).flatten(0, 2)
        out = F.pixel_shuffle(F.conv2d(x, phases, padding=reach), self.scale)
        return out if bias is None else out + bias[:, None, None]


def _reach(scale: int) -> int:
    """Source pixels to either side that an output pixel of the deconvolution sees."""
    return (_LAST // 2 + scale - 1) // scale


def recognise(state: StateDict) -> bool:
    """An hourglass that ends in a 9x9 deconvolution."""
    first, last = state.get("first_part.0.weight"), state.get("last_part.weight")
    if first is None or last is None or "mid_part.0.weight" not in state:
        return False
    return first.shape[1] in (1, 3) and first.shape[2] == _FIRST and last.shape[2] == _LAST


def hyperparameters(state: StateDict) -> dict[str, int]:
    """Widths and depth of a checkpoint; its scale stands nowhere in it."""
    features, channels, *_ = state["first_part.0.weight"].shape
    last = next(index for index in count(2, 2) if f"mid_part.{index + 2}.weight" not in state)
    mapped = state["mid_part.0.weight"].shape[0]
    return {"features": features, "mapped": mapped, "convolutions": last // 2 - 1, "channels": channels}


def geometry(hyperparameters: Mapping[str, int]) -> Geometry:
    """Convolutions at source resolution, and the source pixels that one output pixel of the deconvolution sees."""
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
