"""Where and how a run's steps are computed."""

from dataclasses import dataclass

import torch

from slidelift.models.inference import computes_in_bf16
from slidelift.models.training.captured_step import CudaGraphs, Graphs

_CUDA_BATCHES = 4
"""A quarter of the operations a step; eight would spare an eighth more, and hold twice the pixels."""


@dataclass(frozen=True, slots=True)
class Execution:
    """What may differ between machines that follow one recipe.

    Attributes
    ----------
    bf16
        Whether networks compute in bfloat16, beside weights in float32.
    batches_at_once
        Batches drawn in one go: see `models.training.batches.Batches`.
    graphs
        Captures steps; None where they are computed plainly.
    """

    device: torch.device
    bf16: bool = False
    batches_at_once: int = 1
    graphs: Graphs | None = None

    def autocast(self) -> torch.autocast:
        """Within it networks compute in this precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def execution_on(device: torch.device, precision: str, batches_at_once: int | None = None) -> Execution:
    """As is fastest there: on CUDA four batches in one go and captured steps.

    Parameters
    ----------
    precision
        "fp32", "bf16", or "auto": bf16 where the hardware computes in it.
    batches_at_once
        None for the device's own.

    Raises
    ------
    ValueError
        If the precision is none of the three.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise ValueError(f"{precision}: no precision to train in; use auto, fp32 or bf16")
    on_cuda = device.type == "cuda"
    return Execution(
        device,
        precision == "bf16" or (precision == "auto" and computes_in_bf16(device)),
        batches_at_once or (_CUDA_BATCHES if on_cuda else 1),
        CudaGraphs(device) if on_cuda else None,
    )
