"""Building blocks of networks: luma and chroma, bicubic enlargement, residual blocks, pixel-shuffle tails.

Sources: ITU-R BT.601 (luma); Keys, IEEE TASSP 29(6), 1981 (bicubic, a = -0.5); Lim et al., "EDSR", CVPRW 2017
(residual block, mean shift); Shi et al., "ESPCN", CVPR 2016 (pixel shuffle).
"""

import math
from collections.abc import Iterable
from functools import cache, reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slidelift.models.networks.spec import StateDict

RED, GREEN, BLUE = 0.299, 0.587, 0.114
"""BT.601's luma coefficients."""
LUMA_BLACK, LUMA_RANGE = 16 / 255, 219 / 255
"""Luma has a range of 16 to 235 of 255, as in the training of the public one-channel checkpoints."""
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
_IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
BICUBIC_RADIUS = 2
"""Radius of Keys' kernel in source pixels."""


class ImageNetwork(nn.Module):
    """Base class of networks on RGB in [0, 1] or on luma: (N, 3, h, w) -> (N, 3, scale*h, scale*w).

    With one channel the network enlarges luma, and chroma is enlarged by bicubic interpolation; grey images stay
    exactly grey. Subclasses implement `enlarge`.
    """

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"{channels} channels; use 1 (luma) or 3 (RGB)")
        self.channels, self.scale = channels, scale

    def enlarge(self, planes: Tensor) -> Tensor:
        """(N, channels, h, w) -> (N, channels, scale*h, scale*w)."""
        raise NotImplementedError

    def skip_halo(self) -> None:
        """Stop computing the halo at a patch's edge, which the caller crops. Does nothing by default."""

    def forward(self, image: Tensor) -> Tensor:
        """Enlarge a batch of RGB images."""
        if self.channels == 3:
            return self.enlarge(image)
        luma, chroma = to_luma_and_chroma(image.float())
        return to_rgb(self.enlarge(luma).float(), enlarge_bicubic(chroma, self.scale))


def to_luma_and_chroma(image: Tensor) -> tuple[Tensor, Tensor]:
    """Convert RGB in [0, 1] to luma in [16/255, 235/255] and chroma (red and blue minus luma) in [-1, 1].

    Chroma is computed from differences of colours, so that it is exactly zero for grey.
    """
    red, green, blue = image[:, :1], image[:, 1:2], image[:, 2:]
    luma = LUMA_BLACK + LUMA_RANGE * (RED * red + GREEN * green + BLUE * blue)
    red_excess = GREEN * (red - green) + BLUE * (red - blue)
    blue_excess = RED * (blue - red) + GREEN * (blue - green)
    return luma, torch.cat((red_excess, blue_excess), 1)


def to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    """Invert `to_luma_and_chroma`."""
    grey = (luma - LUMA_BLACK) / LUMA_RANGE
    red, blue = chroma[:, :1], chroma[:, 1:]
    green = -(RED * red + BLUE * blue) / GREEN
    return grey + torch.cat((red, green, blue), 1)


def enlarge_bicubic(image: Tensor, scale: int) -> Tensor:
    """Enlarge (N, c, h, w) to (N, c, scale*h, scale*w) by Keys' kernel; the border is replicated.

    Computed by separate multiplications and additions, so that rounding does not depend on the position in the tile,
    the device or autocast. `torch.nn.functional.interpolate` uses another kernel (a = -0.75).
    """
    padded = F.pad(image.float(), [BICUBIC_RADIUS] * 4, mode="replicate")
    return _enlarge_axis(_enlarge_axis(padded, 2, scale), 3, scale)


def _enlarge_axis(padded: Tensor, axis: int, scale: int) -> Tensor:
    length = padded.shape[axis] - 2 * BICUBIC_RADIUS
    phases = []
    for taps in _taps(scale):
        parts = [padded.narrow(axis, tap, length) * weight for tap, weight in enumerate(taps) if weight]
        phases.append(reduce(torch.add, parts))
    return torch.stack(phases, axis + 1).flatten(axis, axis + 1)


def bicubic_reach(scale: int, radius: int) -> int:
    """Return the radius in source pixels that corresponds to `radius` enlarged pixels."""
    farthest = [
        x // scale + max(tap - BICUBIC_RADIUS for tap, weight in enumerate(_taps(scale)[x % scale]) if weight)
        for x in range(scale + radius)
    ]
    return max(farthest)


@cache
def _taps(scale: int) -> tuple[tuple[float, ...], ...]:
    """Return the weights of the source pixels -2 to 2 for each phase of an output pixel."""
    offsets = [(phase + 0.5) / scale - 0.5 for phase in range(scale)]
    reach = range(-BICUBIC_RADIUS, BICUBIC_RADIUS + 1)
    return tuple(tuple(_keys(abs(offset - tap)) for tap in reach) for offset in offsets)


def _keys(distance: float, a: float = -0.5) -> float:
    if distance < 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    if distance < 2:
        return a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return 0.0


def float32(x: Tensor) -> torch.autocast:
    """Return a context without autocast, for layers whose rounding in bfloat16 would be visible in the image."""
    return torch.autocast(x.device.type, enabled=False)


class ResidualBlock(nn.Module):
    """EDSR's residual block: convolution, ReLU, convolution, no normalisation; keys `body.0` and `body.2`.

    Parameters
    ----------
    damping
        Residual scaling; 0.1 stabilises training with 256 features.
    """

    def __init__(self, features: int, damping: float = 1.0) -> None:
        super().__init__()
        self.body = nn.Sequential(conv3(features, features), nn.ReLU(inplace=True), conv3(features, features))
        self.damping = damping

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out * self.damping + x


class MeanShift(nn.Module):
    """Subtracts (sign -1) or adds DIV2K's mean, in levels of 255; the fixed 1x1 convolution of public files."""

    def __init__(self, sign: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor(_IDENTITY).reshape(3, 3, 1, 1))
        self.register_buffer("bias", torch.tensor([255 * sign * mean for mean in DIV2K_MEAN]))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.get_buffer("weight"), self.get_buffer("bias"))


class ShiftedNetwork(nn.Module):
    """Common structure of EDSR and RCAN: head, residual body, pixel-shuffle tail, in levels of 255 minus DIV2K's mean.

    Parameters
    ----------
    features
        Channels of the body.
    blocks
        Modules of the body before its last convolution.
    """

    def __init__(self, features: int, scale: int, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.sub_mean = MeanShift(-1)
        self.head = nn.Sequential(conv3(3, features))
        self.body = nn.Sequential(*blocks, conv3(features, features))
        self.tail = nn.Sequential(pixel_shuffle_tail(features, scale), conv3(features, 3))
        self.add_mean = MeanShift(1)

    def forward(self, image: Tensor) -> Tensor:
        """Enlarge RGB images; under autocast only the body runs in lower precision."""
        with float32(image):
            first = self.head(self.sub_mean(image.float() * 255))
        residual = self.body(first)
        with float32(image):
            out: Tensor = self.add_mean(self.tail(first + residual.float()))
        return out / 255


def mean_shift_state() -> dict[str, Tensor]:
    """Return both mean shifts under the keys of EDSR's and RCAN's files, for checkpoints without them."""
    shifts = {"sub_mean": MeanShift(-1), "add_mean": MeanShift(1)}
    return {f"{name}.{key}": value for name, shift in shifts.items() for key, value in shift.state_dict().items()}


def conv3(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def pixel_shuffle_tail(features: int, scale: int) -> nn.Sequential:
    """Return convolutions with pixel shuffles: one for scales 2 and 3, two for 4; convolutions at indices 0 and 2."""
    layers: list[nn.Module] = []
    for factor in shuffle_factors(scale):
        layers += [conv3(features, features * factor**2), nn.PixelShuffle(factor)]
    return nn.Sequential(*layers)


def shuffle_factors(scale: int) -> tuple[int, ...]:
    """Return the factors of a pixel-shuffle tail's steps."""
    factors = {1: (), 2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}
    if scale not in factors:
        raise ValueError(f"no pixel-shuffle tail enlarges by {scale}")
    return factors[scale]


def tail_scale(state: StateDict, *convolutions: str) -> int:
    """Infer the scale of a pixel-shuffle tail from its convolutions' shapes; missing ones count as 1."""
    weights = [state[f"{name}.weight"] for name in convolutions if f"{name}.weight" in state]
    return math.prod(math.isqrt(weight.shape[0] // weight.shape[1]) for weight in weights)


def tail_radius(scale: int, last: int) -> float:
    """Return the radius in source pixels of a pixel-shuffle tail and a last convolution of radius `last`."""
    radius, side = 0.0, 1
    for factor in shuffle_factors(scale):
        radius += 1 / side
        side *= factor
    return radius + last / side
