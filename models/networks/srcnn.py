"""SRCNN: three convolutions that sharpen a bicubic enlargement.

Keys are those of yjn870's SRCNN-pytorch: `conv1`, `conv2`, `conv3`. One-channel weights are luma. The scale can't
be inferred from the weights, because the input is already enlarged.

Source: Dong, Loy, He, Tang, "Image Super-Resolution Using Deep Convolutional Networks", TPAMI 2016.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from slidelift.models.networks.blocks import ImageNetwork, bicubic_reach, enlarge_bicubic, float32
from slidelift.models.networks.spec import Geometry, NetworkSpec, StateDict

_FIRST, _LAST = 9, 5


class SRCNN(ImageNetwork):
    """(N, 3, h, w) RGB in [0, 1] -> (N, 3, scale*h, scale*w).

    Parameters
    ----------
    features, mapped
        Channels after the first and after the second convolution.
    kernel
        Kernel size of the second convolution: 1, 3 or 5; the others have 9 and 5.
    channels
        1 for luma, 3 for RGB.
    """

    def __init__(
        self, features: int = 64, mapped: int = 32, kernel: int = 5, channels: int = 1, scale: int = 4
    ) -> None:
        super().__init__(channels, scale)
        self.conv1 = nn.Conv2d(channels, features, _FIRST, padding=_FIRST // 2)
        self.conv2 = nn.Conv2d(features, mapped, kernel, padding=kernel // 2)
        self.conv3 = nn.Conv2d(mapped, channels, _LAST, padding=_LAST // 2)
        self.initialise()

    def initialise(self) -> None:
        """Kaiming-normal and a scaled last layer; the paper's deviation of 0.001 needs 10^8 backpropagations."""
        for layer in (self.conv1, self.conv2, self.conv3):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.conv3.weight.data.mul_(0.1)

    def enlarge(self, planes: Tensor) -> Tensor:
        """Run in float32: there is no skip connection, and three layers would gain little from bfloat16."""
        with float32(planes):
            out = F.relu(self.conv1(enlarge_bicubic(planes, self.scale)))
            sharpened: Tensor = self.conv3(F.relu(self.conv2(out)))
        return sharpened


def recognise(state: StateDict) -> bool:
    """Recognise three convolutions with kernels of 9, any size and 5, and no other parameters."""
    layers = ("conv1", "conv2", "conv3")
    if state.keys() != {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}:
        return False
    first, last = state["conv1.weight"], state["conv3.weight"]
    return first.shape[2:] == (_FIRST, _FIRST) and last.shape[2:] == (_LAST, _LAST) and first.shape[1] in (1, 3)


def hyperparameters(state: StateDict) -> dict[str, int]:
    """Infer widths and kernel size from shapes, which do not depend on the scale."""
    features, channels, *_ = state["conv1.weight"].shape
    mapped, _, kernel, _ = state["conv2.weight"].shape
    return {"features": features, "mapped": mapped, "kernel": kernel, "channels": channels}


def geometry(hyperparameters: Mapping[str, int]) -> Geometry:
    """Halo of the convolutions (in enlarged pixels) and the bicubic kernel."""
    scale = hyperparameters["scale"]
    enlarged = _FIRST // 2 + hyperparameters["kernel"] // 2 + _LAST // 2
    return Geometry(scale, halo=bicubic_reach(scale, enlarged), exact=True, fade=0)


SPEC = NetworkSpec(
    name="srcnn",
    recognise=recognise,
    canonical=dict,
    hyperparameters=hyperparameters,
    build=SRCNN,
    geometry=geometry,
    paper="Dong et al., Image Super-Resolution Using Deep Convolutional Networks, TPAMI 2016 (arXiv 1501.00092)",
)
