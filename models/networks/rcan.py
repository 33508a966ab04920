"""RCAN: residual groups of residual blocks with channel attention.

Keys are those of yulunzhang's RCAN; BasicSR's keys are converted. Because of global pooling every pixel depends on the
whole patch, so tiles never join exactly.

Source: Zhang et al., "Image Super-Resolution Using Very Deep Residual Channel Attention Networks", ECCV 2018.
"""

import re
from collections.abc import Mapping
from itertools import count

from torch import Tensor, nn

from slidelift.models.networks.blocks import (
    ShiftedNetwork,
    conv3,
    mean_shift_state,
    tail_scale,
)
from slidelift.models.networks.spec import Geometry, NetworkSpec, StateDict


class ChannelAttention(nn.Module):
    """Multiplies each channel by a weight in (0, 1) computed from the means of all channels."""

    def __init__(self, features: int, reduction: int) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.conv_du = nn.Sequential(
            nn.Conv2d(features, features // reduction, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(features // reduction, features, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.conv_du(self.avg_pool(x))
        return x * weights


class AttentiveBlock(nn.Module):
    """Residual block of two convolutions and channel attention."""

    def __init__(self, features: int, reduction: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv3(features, features),
            nn.ReLU(inplace=True),
            conv3(features, features),
            ChannelAttention(features, reduction),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out + x


class ResidualGroup(nn.Module):
    """Residual group of attentive blocks and a convolution."""

    def __init__(self, features: int, blocks: int, reduction: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(AttentiveBlock(features, reduction) for _ in range(blocks)), conv3(features, features)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out + x


class RCAN(ShiftedNetwork):
    """(N, 3, h, w) RGB in [0, 1] -> (N, 3, scale*h, scale*w).

    Uses PyTorch's default initialisation, as the paper's code: it keeps the residuals small.

    Parameters
    ----------
    features, groups, blocks
        Channels of the body, residual groups, and blocks per group.
    reduction
        Factor by which the attention reduces the channels.
    """

    def __init__(
        self, features: int = 64, groups: int = 10, blocks: int = 20, reduction: int = 16, scale: int = 4
    ) -> None:
        super().__init__(features, scale, (ResidualGroup(features, blocks, reduction) for _ in range(groups)))


_RENAMED = (
    (re.compile(r"^conv_first\."), "head.0."),
    (re.compile(r"^body\.(\d+)\.residual_group\.(\d+)\.rcab\.([02])\."), r"body.\1.body.\2.body.\3."),
    (re.compile(r"^body\.(\d+)\.residual_group\.(\d+)\.rcab\.3\.attention\.1\."), r"body.\1.body.\2.body.3.conv_du.0."),
    (re.compile(r"^body\.(\d+)\.residual_group\.(\d+)\.rcab\.3\.attention\.3\."), r"body.\1.body.\2.body.3.conv_du.2."),
    (re.compile(r"^upsample\."), "tail.0."),
    (re.compile(r"^conv_last\."), "tail.1."),
)


def canonical(state: StateDict) -> dict[str, Tensor]:
    """Convert BasicSR's keys to the paper's code's, and add the mean shifts, which BasicSR keeps in code."""
    if "body.0.residual_group.0.rcab.0.weight" not in state:
        return dict(state)
    groups = next(index for index in count() if f"body.{index}.conv.weight" not in state)
    blocks = next(index for index in count() if f"body.0.residual_group.{index}.rcab.0.weight" not in state)
    renamed = mean_shift_state()
    for key, value in state.items():
        new = re.sub(r"^conv_after_body\.", f"body.{groups}.", key)
        new = re.sub(r"^body\.(\d+)\.conv\.", rf"body.\1.body.{blocks}.", new)
        for pattern, replacement in _RENAMED:
            new = pattern.sub(replacement, new)
        renamed[new] = value
    return renamed


def recognise(state: StateDict) -> bool:
    """Recognise channel attention inside residual groups, with RGB input and output."""
    state = canonical(state)
    keys = {"head.0.weight", "body.0.body.0.body.3.conv_du.0.weight", "tail.1.weight"}
    if not keys <= state.keys():
        return False
    return state["head.0.weight"].shape[1] == 3 and state["tail.1.weight"].shape[0] == 3


def hyperparameters(state: StateDict) -> dict[str, int]:
    """Infer width, depths, reduction and scale from shapes."""
    squeezed, features, *_ = state["body.0.body.0.body.3.conv_du.0.weight"].shape
    return {
        "features": features,
        "groups": next(index for index in count() if f"body.{index}.body.0.body.0.weight" not in state),
        "blocks": next(index for index in count() if f"body.0.body.{index}.body.0.weight" not in state),
        "reduction": features // squeezed,
        "scale": tail_scale(state, "tail.0.0", "tail.0.2"),
    }


def geometry(hyperparameters: Mapping[str, int]) -> Geometry:
    """No halo makes tiles join exactly, so neighbours are cross-faded, with RRDBNet's halo and fade.

    `python -m slidelift.service.tools.measure_halo` measures the remaining seam for a model's card.
    """
    return Geometry(hyperparameters["scale"], halo=32, exact=False, fade=16)


SPEC = NetworkSpec(
    name="rcan",
    recognise=recognise,
    canonical=canonical,
    hyperparameters=hyperparameters,
    build=RCAN,
    geometry=geometry,
    paper="Zhang et al., Very Deep Residual Channel Attention Networks, ECCV 2018 (arXiv 1807.02758)",
)
