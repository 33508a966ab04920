"""Self-test of loaded weights on plain colours and a grey ramp."""

from pathlib import Path

import torch
from torch import nn

from slidelift.models.errors import UntrainedWeightsError, WeightsError

MAX_COLOUR_SHIFT = 16.0
"""Weights that change a plain patch by this many levels of 255 or more are refused; from
`models.zoo.catalog.WARN_COLOUR_SHIFT` on they are used with a warning. Measured: compact-x4 0.07; the public
RealESRGAN_x4plus 4.2 and its anime_6B 3.0; untrained RRDBNets 132 to 145; a compact network trained with
back-projection 4.9 without it, so the test includes that step."""
COLOURS = {"grey": (128, 128, 128), "eosin pink": (226, 160, 196)}
"""Colours of the plain patches."""


@torch.inference_mode()
def measure_colour_shift(path: Path, network: nn.Module) -> float:
    """Return the greatest change of a plain colour in levels of 255.

    It is the mean over the middle of the result, which padding hardly affects, rounded to hundredths, so that the last
    bit of a sum does not decide at a limit.

    Parameters
    ----------
    path
        File of the weights, for messages.

    Raises
    ------
    WeightsError
        If the output for the ramp or a plain colour is not finite.
    UntrainedWeightsError
        If a colour is changed by `MAX_COLOUR_SHIFT` or more.
    """
    ramp = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)
    painted = torch.tensor(list(COLOURS.values())).reshape(-1, 3, 1, 1) / 255
    side = 48
    out = [network(image) for image in (ramp, painted.expand(-1, 3, side, side))]
    if not all(torch.isfinite(image).all() for image in out):
        raise WeightsError(f"{path}: the output for a grey ramp is NaN or infinity; the weights are damaged")
    third = out[1].shape[-1] // 3
    middle = out[1][:, :, third:-third, third:-third].mean((2, 3), keepdim=True)
    measured: list[float] = (middle - painted).abs().amax((1, 2, 3)).tolist()
    shifts = [round(255 * shift, 2) for shift in measured]
    for colour, shift in zip(COLOURS, shifts, strict=True):
        if shift >= MAX_COLOUR_SHIFT:
            raise UntrainedWeightsError(
                f"{path}: changes a patch of {colour} by {shift:.2f} of 255 levels, {MAX_COLOUR_SHIFT:g} or more; "
                "the weights are untrained or expect another range of values"
            )
    return max(shifts)
