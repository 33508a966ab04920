"""`slidelift doctor`: what device, what decoders, what is missing."""

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from models.errors import ModelError
from models.zoo.catalog import catalog

_LIBRARIES = ("openslide-python", "openslide-bin", "tiffslide", "tifffile", "imagecodecs", "zarr", "dask", "torch")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    subject: str
    ok: bool
    word: str


def examine() -> list[Finding]:
    """Look at everything that upscaling and serving need."""
    cores = os.cpu_count()
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    return [
        Finding("machine", True, f"Python {platform.python_version()}, {cores} cores, {free:.0f} GB free here"),
        *(_library(name) for name in _LIBRARIES),
        _openslide(),
        _device(),
        *_weights(),
    ]


def _library(name: str) -> Finding:
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        return Finding(name, False, f"not installed: pip install {name}")


def _openslide() -> Finding:
    try:
        import openslide
    except (ImportError, OSError) as error:
        return Finding("OpenSlide library", False, f"can't be loaded ({error}): pip install openslide-bin")
    return Finding("OpenSlide library", True, openslide.__library_version__)


def _device() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("device", False, f"torch can't be loaded ({error})")
    if torch.cuda.is_available():
        return Finding("device", True, f"cuda: {torch.cuda.get_device_name()}, bf16")
    precision = "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"
    return Finding("device", True, f"cpu, {torch.get_num_threads()} threads, {precision}; no GPU found")


def _weights() -> list[Finding]:
    from models.upscaler import load_upscaler

    findings = []
    for card in catalog().values():
        if card.weights is None:
            continue
        try:
            load_upscaler(str(card.name))
            findings.append(Finding(card.name, True, f"{', '.join(card.weights)} loads and passes its self-test"))
        except ModelError as error:
            findings.append(Finding(card.name, False, str(error)))
    return findings
