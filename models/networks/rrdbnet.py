"""RRDBNet: the generator of ESRGAN and Real-ESRGAN, 23 residual-in-residual dense blocks.

Real-ESRGAN's version always enlarges by four; for scales 2 and 1 it first folds the source by a pixel unshuffle of 2 or
4. ESRGAN's versions of scale 1, 2 and 8 have as many doublings as needed instead. Keys are those of Real-ESRGAN's
checkpoints; the older ones of ESRGAN (numbered `model.N`) and BSRGAN (`RRDB_trunk`) are converted.

Sources: Wang et al., "ESRGAN", ECCVW 2018; Wang, Xie, Dong, Shan, "Real-ESRGAN", ICCVW 2021.
"""

import re
from collections.abc import Mapping
from itertools import count
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slidelift.models.networks.blocks import ImageNetwork, conv3, float32
from slidelift.models.networks.spec import Geometry, NetworkSpec, StateDict

_FOLD = {4: 1, 2: 2, 1: 4}
"""Scale -> factor of the pixel unshuffle."""


class DenseBlock(nn.Module):
    """Residual block of five densely connected convolutions, with a residual scaling of 0.2."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, growth, 3, padding=1)
        self.conv2 = nn.Conv2d(features + growth, growth, 3, padding=1)
        self.conv3 = nn.Conv2d(features + 2 * growth, growth, 3, padding=1)
        self.conv4 = nn.Conv2d(features + 3 * growth, growth, 3, padding=1)
        self.conv5 = nn.Conv2d(features + 4 * growth, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate in one variable, so that in inference each shorter tensor is freed at once."""
        dense = x
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            grown = _lrelu(convolution(dense))
            dense = torch.cat((dense.to(grown.dtype), grown), 1)
        out: Tensor = self.conv5(dense)
        return out * 0.2 + x


class ResidualDenseBlock(nn.Module):
    """Residual block of three dense blocks, with a residual scaling of 0.2."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(features, growth)
        self.rdb2 = DenseBlock(features, growth)
        self.rdb3 = DenseBlock(features, growth)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return out * 0.2 + x


class RRDBNet(ImageNetwork):
    """(N, 3, h, w) RGB in [0, 1] -> (N, 3, scale*h, scale*w).

    Parameters
    ----------
    features, growth
        Channels of the trunk, and those added by each dense convolution.
    blocks
        Residual-in-residual dense blocks; the receptive radius is `15 * blocks + 4` pixels of the folded source.
    channels
        1 for luma, 3 for RGB.
    fold
        Factor of the pixel unshuffle; h and w must be multiples of it. 0 for Real-ESRGAN's: 1, 2 and 4 for scales 4, 2
        and 1.
    """

    def __init__(
        self, features: int = 64, growth: int = 32, blocks: int = 23, channels: int = 3, scale: int = 4, fold: int = 0
    ) -> None:
        super().__init__(channels, scale)
        self.fold = fold or _FOLD.get(scale, 1)
        self.doublings = (scale * self.fold).bit_length() - 1
        self.conv_first = conv3(channels * self.fold**2, features)
        self.body = nn.Sequential(*(ResidualDenseBlock(features, growth) for _ in range(blocks)))
        self.conv_body = conv3(features, features)
        for number in range(self.doublings):
            self.add_module(f"conv_up{number + 1}", conv3(features, features))
        self.conv_hr = conv3(features, features)
        self.conv_last = conv3(features, channels)
        self.initialise()

    def initialise(self) -> None:
        """Kaiming-normal, scaled by 0.1 in the dense blocks, as in ESRGAN; unscaled, 23 blocks start as noise."""
        for layer in self.body.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                layer.weight.data.mul_(0.1)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def enlarge(self, planes: Tensor) -> Tensor:
        """Under autocast only the body runs in lower precision.

        The other layers are a thirteenth of the arithmetic at 23 blocks. In bfloat16 they would cost 0.5 grey levels on
        average and 2.6 at most (6 blocks); with these layers in float32 the errors are 0.004 and 0.02.
        """
        with float32(planes):
            first = self.conv_first(F.pixel_unshuffle(planes.float(), self.fold))
        residual = self.conv_body(self.body(first))
        with float32(planes):
            out = first + residual.float()
            for number in range(self.doublings):
                out = _lrelu(self.get_submodule(f"conv_up{number + 1}")(_double(out)))
            image: Tensor = self.conv_last(_lrelu(self.conv_hr(out)))
        return image


def _lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2, inplace=True)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


_BSRGAN = {"trunk_conv.": "conv_body.", "HRconv.": "conv_hr."}
_BSRGAN_UP = re.compile(r"^upconv(\d+)\.")
_DENSE_CONVOLUTION = re.compile(r"(?:model\.1\.sub|RRDB_trunk)\.(\d+)\.RDB([123])\.conv([1-5])(?:\.0)?\.")
_OLD_TRUNK_END = re.compile(r"model\.1\.sub\.\d+\.(?=weight|bias)")
_NUMBERED = re.compile(r"^model\.(\d+)\.(?=weight|bias)")


def canonical(state: StateDict) -> dict[str, Tensor]:
    """Convert ESRGAN's and BSRGAN's keys to Real-ESRGAN's."""
    last = max((int(match[1]) for key in state if (match := _NUMBERED.match(key))), default=0)
    numbered = _numbered_layers(last)
    return {_canonical_key(key, numbered): value for key, value in state.items()}


def _numbered_layers(last: int) -> dict[str, str]:
    """Map ESRGAN's numbered layers; each doubling has three numbers, so `last` determines how many there are."""
    doublings = range(1, min((last - 4) // 3, 3) + 1)  # x8 at most; the number comes from an untrusted file
    layers = {f"model.{3 * number}.": f"conv_up{number}." for number in doublings}
    return layers | {"model.0.": "conv_first.", f"model.{last - 2}.": "conv_hr.", f"model.{last}.": "conv_last."}


def _canonical_key(key: str, numbered: Mapping[str, str]) -> str:
    for old, new in (*numbered.items(), *_BSRGAN.items()):
        if key.startswith(old):
            return new + key.removeprefix(old)
    key = _BSRGAN_UP.sub(r"conv_up\1.", key)
    key = _DENSE_CONVOLUTION.sub(r"body.\1.rdb\2.conv\3.", key)
    return _OLD_TRUNK_END.sub("conv_body.", key)


def recognise(state: StateDict) -> bool:
    """Recognise dense blocks with any of the three kinds of keys."""
    state = canonical(state)
    if not {"conv_first.weight", "body.0.rdb1.conv1.weight", "conv_last.weight"} <= state.keys():
        return False
    inputs, channels = state["conv_first.weight"].shape[1], state["conv_last.weight"].shape[0]
    return channels in (1, 3) and inputs in {channels * fold**2 for fold in _FOLD.values()}


def hyperparameters(state: StateDict) -> dict[str, int]:
    """Infer widths, depth and scale from shapes."""
    channels = state["conv_last.weight"].shape[0]
    fold = isqrt(state["conv_first.weight"].shape[1] // channels)
    doublings = next(i for i in count() if f"conv_up{i + 1}.weight" not in state)
    return {
        "features": state["conv_first.weight"].shape[0],
        "growth": state["body.0.rdb1.conv1.weight"].shape[0],
        "blocks": next(i for i in count() if f"body.{i}.rdb1.conv1.weight" not in state),
        "channels": channels,
        "scale": 2**doublings // fold,
        "fold": fold,
    }


def geometry(hyperparameters: Mapping[str, int]) -> Geometry:
    """Smaller halo than the receptive radius (349 at 23 blocks), so neighbours are cross-faded.

    The halo was measured by `python -m slidelift.service.tools.measure_halo`; the result is in the catalog under
    `realesrgan-x4`. Briefly trained networks need a halo of 8; 32 leaves a margin for long training with 23 blocks,
    for which users report 32 to 48 as needed.
    """
    scale = hyperparameters["scale"]
    fold = hyperparameters.get("fold") or _FOLD.get(scale, 1)
    return Geometry(scale, halo=32, exact=False, fade=16, size_multiple=fold)


SPEC = NetworkSpec(
    name="rrdbnet",
    recognise=recognise,
    canonical=canonical,
    hyperparameters=hyperparameters,
    build=RRDBNet,
    geometry=geometry,
    paper="Wang et al., ESRGAN, ECCVW 2018 (arXiv 1809.00219); Real-ESRGAN, ICCVW 2021 (arXiv 2107.10833)",
    scales=(1, 2, 4, 8),
)
