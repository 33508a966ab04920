"""Hardware and precision on which a measurement was computed."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from slidelift.models.upscaler import UpscalerFacts

_CPUINFO = Path("/proc/cpuinfo")


def processor() -> str:
    """Return the processor's name from /proc/cpuinfo, else its architecture."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def computed_on(upscalers: Mapping[str, UpscalerFacts]) -> dict[str, Any]:
    """Return values for JSON: {processor, cores, torch, models: name -> {device, precision}}."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "torch": version("torch"),
        "models": {name: {"device": one.device, "precision": one.precision} for name, one in upscalers.items()},
    }


def describe_hardware(upscalers: Mapping[str, UpscalerFacts]) -> str:
    """Return `computed_on` as a sentence."""
    facts = computed_on(upscalers)
    kinds = dict.fromkeys(f"{one['precision']} on {one['device']}" for one in facts["models"].values())
    return f"Computed in {', '.join(kinds)}: {facts['processor']}, {facts['cores']} cores, torch {facts['torch']}."
