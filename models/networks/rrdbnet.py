"""RRDBNet: the generator of ESRGAN and Real-ESRGAN, 23 residual-in-residual dense blocks.

The network itself always enlarges by four; scales 2 and 1 fold the source into a quarter or a
sixteenth of its pixels first. Keys are those of Real-ESRGAN's checkpoints; the two older dialects
(ESRGAN's numbered `model.N`, and BSRGAN's `RRDB_trunk`) are rewritten to them.

Sources: Wang et al., "ESRGAN", ECCVW 2018; Wang, Xie, Dong, Shan, "Real-ESRGAN", ICCVW 2021.
"""

import re
from collections.abc import Mapping
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.spec import Geometry, NetworkSpec, StateDict

_FOLD = {4: 1, 2: 2, 1: 4}
"""Scale -> side of the source square that is folded into channels."""


class DenseBlock(nn.Module):
    """Five convolutions, each seeing the outputs of all before it; residual, damped by 0.2."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, growth, 3, padding=1)
        self.conv2 = nn.Conv2d(features + growth, growth, 3, padding=1)
        self.conv3 = nn.Conv2d(features + 2 * growth, growth, 3, padding=1)
        self.conv4 = nn.Conv2d(features + 3 * growth, growth, 3, padding=1)
        self.conv5 = nn.Conv2d(features + 4 * growth, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """One growing tensor; the name is bound anew, so that without gradients each shorter one is freed at once."""
        dense = x
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            grown = _lrelu(convolution(dense))
            dense = torch.cat((dense.to(grown.dtype), grown), 1)
        out: Tensor = self.conv5(dense)
        return out * 0.2 + x


class ResidualDenseBlock(nn.Module):
    """Three dense blocks; residual, damped by 0.2."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(features, growth)
        self.rdb2 = DenseBlock(features, growth)
        self.rdb3 = DenseBlock(features, growth)

    def forward(self, x: Tensor) -> Tensor:
        """(N, features, h, w) -> the same shape."""
        out: Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return out * 0.2 + x


class RRDBNet(nn.Module):
    """(N, 3, h, w) RGB in [0, 1] -> (N, 3, scale*h, scale*w).

    Parameters
    ----------
    features, growth
        Channels of the trunk, and those that each dense convolution adds.
    blocks
        Residual-in-residual dense blocks; the receptive radius is `15 * blocks + 4` pixels of the folded source.
    scale
        4, 2 or 1; h and w must be multiples of 1, 2 or 4.
    """

    def __init__(self, features: int = 64, growth: int = 32, blocks: int = 23, scale: int = 4) -> None:
        super().__init__()
        self.fold = _FOLD[scale]
        self.conv_first = nn.Conv2d(3 * self.fold**2, features, 3, padding=1)
        self.body = nn.Sequential(*(ResidualDenseBlock(features, growth) for _ in range(blocks)))
        self.conv_body = nn.Conv2d(features, features, 3, padding=1)
        self.conv_up1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv_up2 = nn.Conv2d(features, features, 3, padding=1)
        self.conv_hr = nn.Conv2d(features, features, 3, padding=1)
        self.conv_last = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """The body may run in bfloat16 (autocast); what carries the image from end to end stays in float32.

        That is the first convolution and all after the body, a thirteenth of the arithmetic at 23 blocks. In bfloat16
        they cost 0.5 grey levels in the mean and 2.6 at worst (6 blocks); in float32 0.004 and 0.02 remain.
        """
        with torch.autocast(x.device.type, enabled=False):
            first = self.conv_first(F.pixel_unshuffle(x.float(), self.fold))
        residual = self.conv_body(self.body(first))
        with torch.autocast(x.device.type, enabled=False):
            out = first + residual.float()
            out = _lrelu(self.conv_up1(_double(out)))
            out = _lrelu(self.conv_up2(_double(out)))
            image: Tensor = self.conv_last(_lrelu(self.conv_hr(out)))
        return image


def _lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2, inplace=True)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


_OLD_ESRGAN = {
    "model.0.": "conv_first.",
    "model.3.": "conv_up1.",
    "model.6.": "conv_up2.",
    "model.8.": "conv_hr.",
    "model.10.": "conv_last.",
}
_BSRGAN = {"trunk_conv.": "conv_body.", "upconv1.": "conv_up1.", "upconv2.": "conv_up2.", "HRconv.": "conv_hr."}
_DENSE_CONVOLUTION = re.compile(r"(?:model\.1\.sub|RRDB_trunk)\.(\d+)\.RDB([123])\.conv([1-5])(?:\.0)?\.")
_OLD_TRUNK_END = re.compile(r"model\.1\.sub\.\d+\.(?=weight|bias)")


def canonical(state: StateDict) -> dict[str, Tensor]:
    """The keys of all three dialects as Real-ESRGAN writes them."""
    return {_canonical_key(key): value for key, value in state.items()}


def _canonical_key(key: str) -> str:
    for old, new in (_OLD_ESRGAN | _BSRGAN).items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    key = _DENSE_CONVOLUTION.sub(r"body.\1.rdb\2.conv\3.", key)
    return _OLD_TRUNK_END.sub("conv_body.", key)


def recognise(state: StateDict) -> bool:
    """Dense blocks in any dialect, RGB in and out."""
    state = canonical(state)
    if not {"conv_first.weight", "body.0.rdb1.conv1.weight", "conv_last.weight"} <= state.keys():
        return False
    folded = {3 * fold**2 for fold in _FOLD.values()}
    return state["conv_first.weight"].shape[1] in folded and state["conv_last.weight"].shape[0] == 3


def hyperparameters(state: StateDict) -> dict[str, int]:
    """Widths, depth and scale of a checkpoint, from its shapes."""
    fold = round((state["conv_first.weight"].shape[1] / 3) ** 0.5)
    return {
        "features": state["conv_first.weight"].shape[0],
        "growth": state["body.0.rdb1.conv1.weight"].shape[0],
        "blocks": next(i for i in count() if f"body.{i}.rdb1.conv1.weight" not in state),
        "scale": 4 // fold,
    }


def geometry(hyperparameters: Mapping[str, int]) -> Geometry:
    """The receptive radius (349 at 23 blocks) is too wide to read for each tile, so neighbours are cross-faded.

    What `python -m models.seam` found stands in the catalog under `realesrgan-x4`. Briefly trained networks need a
    halo of 8; 32 leaves room for 23 blocks trained for long, where users have found 32 to 48 necessary.
    """
    scale = hyperparameters["scale"]
    return Geometry(scale, halo=32, exact=False, fade=16, size_multiple=_FOLD[scale])


SPEC = NetworkSpec(
    name="rrdbnet",
    recognise=recognise,
    canonical=canonical,
    hyperparameters=hyperparameters,
    build=RRDBNet,
    geometry=geometry,
    paper="Wang et al., ESRGAN, ECCVW 2018 (arXiv 1809.00219); Real-ESRGAN, ICCVW 2021 (arXiv 2107.10833)",
)
