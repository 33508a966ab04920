"""Device, precision and batching of a training run."""

from dataclasses import dataclass

import torch

from slidelift.models.inference import computes_in_bf16
from slidelift.models.training.captured_step import CudaGraphs, Graphs

_CUDA_BATCHES = 4
"""Four batches drawn together need a quarter of the kernel launches per step; eight would save an eighth more and hold
twice the pixels."""


@dataclass(frozen=True, slots=True)
class Execution:
    """Settings that may differ between machines that follow one recipe.

    Attributes
    ----------
    bf16
        Whether networks compute in bfloat16; weights stay in float32.
    batches_at_once
        Batches drawn together; see `models.training.batches.Batches`.
    graphs
        Graph capture of steps; None for none.
    """

    device: torch.device
    bf16: bool = False
    batches_at_once: int = 1
    graphs: Graphs | None = None

    def autocast(self) -> torch.autocast:
        """Return the autocast context for this precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def execution_on(device: torch.device, precision: str, batches_at_once: int | None = None) -> Execution:
    """Return the fastest settings for a device: on CUDA, four batches drawn together and captured steps.

    Parameters
    ----------
    precision
        "fp32", "bf16", or "auto" for bf16 where the hardware has it.
    batches_at_once
        None for the device's default.

    Raises
    ------
    ValueError
        If the precision is unknown.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise ValueError(f"{precision}: not a training precision; use auto, fp32 or bf16")
    on_cuda = device.type == "cuda"
    return Execution(
        device,
        precision == "bf16" or (precision == "auto" and computes_in_bf16(device)),
        batches_at_once or (_CUDA_BATCHES if on_cuda else 1),
        CudaGraphs(device) if on_cuda else None,
    )
