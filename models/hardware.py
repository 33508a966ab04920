"""What a measurement was computed on: processor, cores, and each model's device and precision."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from slidelift.models.upscaler import UpscalerFacts

_CPUINFO = Path("/proc/cpuinfo")


def processor() -> str:
    """The processor's name as Linux tells it, else its architecture."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def computed_on(upscalers: Mapping[str, UpscalerFacts]) -> dict[str, Any]:
    """Plain values for JSON: {processor, cores, torch, models: name -> {device, precision}}."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "torch": version("torch"),
        "models": {name: {"device": one.device, "precision": one.precision} for name, one in upscalers.items()},
    }


def describe_hardware(upscalers: Mapping[str, UpscalerFacts]) -> str:
    """The same as one sentence for a table's foot."""
    found = computed_on(upscalers)
    kinds = dict.fromkeys(f"{one['precision']} on {one['device']}" for one in found["models"].values())
    return f"Computed in {', '.join(kinds)}: {found['processor']}, {found['cores']} cores, torch {found['torch']}."
