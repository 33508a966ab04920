"""EDSR: residual blocks without normalisation, in levels of 255 around DIV2K's mean.

Keys are those of sanghyun-son's EDSR-PyTorch; BasicSR's keys are converted. The baseline has 16 blocks of 64 features,
the full network 32 blocks of 256 features with a residual scaling of 0.1.

Source: Lim, Son, Kim, Nah, Lee, "Enhanced Deep Residual Networks for Single Image Super-Resolution", CVPRW 2017.
"""

import re
from collections.abc import Mapping
from itertools import count
from math import ceil

from torch import Tensor

from slidelift.models.networks.blocks import (
    ResidualBlock,
    ShiftedNetwork,
    mean_shift_state,
    tail_radius,
    tail_scale,
)
from slidelift.models.networks.spec import Geometry, NetworkSpec, StateDict

_DAMPED_FEATURES = 256
"""Published networks of this width have residual scaling, which is not part of the weights."""


class EDSR(ShiftedNetwork):
    """(N, 3, h, w) RGB in [0, 1] -> (N, 3, scale*h, scale*w).

    Uses PyTorch's default initialisation, as the paper's code: it keeps the residuals small.

    Parameters
    ----------
    features, blocks
        Channels of the body, and its residual blocks.
    """

    def __init__(self, features: int = 64, blocks: int = 16, scale: int = 4) -> None:
        damping = 0.1 if features == _DAMPED_FEATURES else 1.0
        super().__init__(features, scale, (ResidualBlock(features, damping) for _ in range(blocks)))


_RENAMED = (
    (re.compile(r"^conv_first\."), "head.0."),
    (re.compile(r"^body\.(\d+)\.conv1\."), r"body.\1.body.0."),
    (re.compile(r"^body\.(\d+)\.conv2\."), r"body.\1.body.2."),
    (re.compile(r"^upsample\."), "tail.0."),
    (re.compile(r"^conv_last\."), "tail.1."),
)


def canonical(state: StateDict) -> dict[str, Tensor]:
    """Convert BasicSR's keys to EDSR-PyTorch's, and add the mean shifts, which BasicSR keeps in code."""
    if "conv_after_body.weight" not in state:
        return dict(state)
    blocks = next(index for index in count() if f"body.{index}.conv1.weight" not in state)
    renamed = mean_shift_state()
    for key, value in state.items():
        new = key.replace("conv_after_body.", f"body.{blocks}.")
        for pattern, replacement in _RENAMED:
            new = pattern.sub(replacement, new)
        renamed[new] = value
    return renamed


def recognise(state: StateDict) -> bool:
    """Recognise residual blocks of two convolutions without attention, with RGB input and output."""
    state = canonical(state)
    keys = {"head.0.weight", "body.0.body.0.weight", "body.0.body.2.weight", "tail.1.weight"}
    if not keys <= state.keys() or state["body.0.body.0.weight"].ndim != 4:
        return False
    return state["head.0.weight"].shape[1] == 3 and state["tail.1.weight"].shape[0] == 3


def hyperparameters(state: StateDict) -> dict[str, int]:
    """Infer width, depth and scale from shapes."""
    blocks = next(index for index in count() if f"body.{index}.body.0.weight" not in state)
    return {
        "features": state["head.0.weight"].shape[0],
        "blocks": blocks,
        "scale": tail_scale(state, "tail.0.0", "tail.0.2"),
    }


def geometry(hyperparameters: Mapping[str, int]) -> Geometry:
    """Halo of the receptive radius: 36 for the baseline, 68 for the full network (x4)."""
    scale = hyperparameters["scale"]
    radius = 1 + 2 * hyperparameters["blocks"] + 1 + tail_radius(scale, 1)
    return Geometry(scale, halo=ceil(radius), exact=True, fade=0)


SPEC = NetworkSpec(
    name="edsr",
    recognise=recognise,
    canonical=canonical,
    hyperparameters=hyperparameters,
    build=EDSR,
    geometry=geometry,
    paper="Lim et al., Enhanced Deep Residual Networks for Single Image Super-Resolution, CVPRW 2017 "
    "(arXiv 1707.02921)",
)
