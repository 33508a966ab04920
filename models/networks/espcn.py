"""ESPCN: three convolutions at source resolution and a pixel shuffle.

Keys are those of yjn870's ESPCN-pytorch. One-channel weights are luma.

Source: Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
Neural Network", CVPR 2016.
"""

from collections.abc import Mapping
from math import isqrt

from torch import Tensor, nn

from slidelift.models.networks.blocks import BICUBIC_RADIUS, ImageNetwork, conv3, float32
from slidelift.models.networks.spec import Geometry, NetworkSpec, StateDict

_FIRST = 5


class ESPCN(ImageNetwork):
    """(N, 3, h, w) RGB in [0, 1] -> (N, 3, scale*h, scale*w).

    Parameters
    ----------
    features, mapped
        Channels after the first and after the second convolution.
    channels
        1 for luma, 3 for RGB.
    """

    def __init__(self, features: int = 64, mapped: int = 32, channels: int = 1, scale: int = 4) -> None:
        super().__init__(channels, scale)
        self.first_part = nn.Sequential(
            nn.Conv2d(channels, features, _FIRST, padding=_FIRST // 2), nn.Tanh(), conv3(features, mapped), nn.Tanh()
        )
        self.last_part = nn.Sequential(conv3(mapped, channels * scale**2), nn.PixelShuffle(scale))
        self.initialise()

    def initialise(self) -> None:
        """Xavier initialisation for tanh, and a last layer near zero, so that all phases of the shuffle start alike."""
        for layer in (*self.first_part, *self.last_part):
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.last_part[0].weight.data.mul_(0.1)  # type: ignore[operator]

    def enlarge(self, planes: Tensor) -> Tensor:
        """Run in float32: there is no skip connection, and three layers would gain little from bfloat16."""
        with float32(planes):
            out: Tensor = self.last_part(self.first_part(planes.float()))
        return out


def recognise(state: StateDict) -> bool:
    """Recognise three convolutions and no other parameters."""
    layers = ("first_part.0", "first_part.2", "last_part.0")
    return state.keys() == {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")} and (
        state["first_part.0.weight"].shape[1] in (1, 3)
    )


def hyperparameters(state: StateDict) -> dict[str, int]:
    """Infer widths and scale from shapes."""
    features, channels, *_ = state["first_part.0.weight"].shape
    outputs, mapped, *_ = state["last_part.0.weight"].shape
    return {"features": features, "mapped": mapped, "channels": channels, "scale": isqrt(outputs // channels)}


def geometry(hyperparameters: Mapping[str, int]) -> Geometry:
    """Halo of the receptive radius: 2 + 1 + 1 source pixels, more than the 2 for chroma."""
    return Geometry(hyperparameters["scale"], halo=max(_FIRST // 2 + 2, BICUBIC_RADIUS), exact=True, fade=0)


SPEC = NetworkSpec(
    name="espcn",
    recognise=recognise,
    canonical=dict,
    hyperparameters=hyperparameters,
    build=ESPCN,
    geometry=geometry,
    paper="Shi et al., Efficient Sub-Pixel Convolutional Neural Network, CVPR 2016 (arXiv 1609.05158)",
)
