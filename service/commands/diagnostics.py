"""Checks of `slidelift doctor`: libraries, device, weights and service."""

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from slidelift.models.errors import ModelError
from slidelift.models.zoo.catalog import catalog

_LIBRARIES = {
    "openslide-python": "openslide",
    "openslide-bin": "openslide_bin",
    "tiffslide": "tiffslide",
    "tifffile": "tifffile",
    "imagecodecs": "imagecodecs",
    "zarr": "zarr",
    "dask": "dask",
    "torch": "torch",
}
"""Name of the distribution -> module to import."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check."""

    subject: str
    ok: bool
    detail: str


def examine() -> list[Finding]:
    """Check everything that upscaling and serving need."""
    return [
        *_checked("machine", _machine),
        *(_library(name) for name in _LIBRARIES),
        *_checked("OpenSlide library", _openslide),
        *_checked("device", _device),
        *_checked("weights", _weights),
        *_checked("service", _service),
    ]


def _checked(subject: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """Run a check; an unexpected exception becomes its finding."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - a broken installation may raise anything, and this command reports it
        return [Finding(subject, False, f"can't be checked ({_message(error)})")]


def _message(error: Exception) -> str:
    return str(error) if isinstance(error, ModuleNotFoundError) else f"{type(error).__name__}: {error}"


def _machine() -> list[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    detail = f"Python {platform.python_version()}, {os.cpu_count()} cores, {free:.0f} GB free here"
    return [Finding("machine", True, detail)]


def _service() -> list[Finding]:
    """Check data folder, database and address by the settings, without creating anything."""
    from slidelift.service.errors import ServiceError
    from slidelift.service.jobs.errors import StoreError
    from slidelift.service.jobs.open_store import open_store
    from slidelift.service.settings import Settings

    settings = Settings()
    folder = settings.data_dir
    if not folder.exists() and settings.database_url is None:
        return [Finding("data folder", True, f"{folder} will be created by the first `slidelift serve`")]
    free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
    enough = free >= settings.disk_reserve_bytes and os.access(folder, os.W_OK)
    findings = [
        Finding(
            "data folder",
            enough,
            f"{folder}, {free / 1e9:.0f} GB free" + ("" if enough else ": not writable, or not enough free space"),
        )
    ]
    try:
        store = open_store(settings)
    except (ServiceError, StoreError) as error:
        return [*findings, Finding("database", False, str(error))]
    try:
        store.check()
        jobs, tokens = sum(store.counts().values()), len(store.tokens())
        findings.append(Finding("database", True, f"writable; {jobs} jobs, {tokens} tokens"))
        is_protected = not settings.asks_for_tokens or tokens > 0
        reach = "this machine only" if settings.is_private else "reachable from other machines with a token"
        findings.append(Finding("address", is_protected, f"{settings.host}:{settings.port}, {reach}"))
    except StoreError as error:
        findings.append(Finding("database", False, str(error)))
    finally:
        store.close()
    return findings


def _library(name: str) -> Finding:
    try:
        installed = version(name)
        import_module(_LIBRARIES[name])
    except PackageNotFoundError:
        return Finding(name, False, f"not installed: pip install {name}")
    except Exception as error:  # noqa: BLE001 - a broken library may raise anything
        return Finding(
            name, False, f"{installed} is installed but can't be imported ({_message(error)}): install it again"
        )
    return Finding(name, True, installed)


def _openslide() -> list[Finding]:
    try:
        import openslide
    except (ImportError, OSError) as error:
        detail = f"can't be loaded ({error}): pip install openslide-python openslide-bin"
        return [Finding("OpenSlide library", False, detail)]
    return [Finding("OpenSlide library", True, openslide.__library_version__)]


def _device() -> list[Finding]:
    try:
        import torch

        from slidelift.models.inference import computes_in_bf16
    except (ImportError, OSError) as error:
        return [Finding("device", False, f"torch can't be loaded ({error})")]
    if torch.cuda.is_available():
        return [Finding("device", True, f"cuda: {torch.cuda.get_device_name()}, fp16")]
    precision = "bf16 where it loses no quality" if computes_in_bf16(torch.device("cpu")) else "fp32"
    return [Finding("device", True, f"cpu, {torch.get_num_threads()} threads, {precision}; no GPU found")]


def _weights() -> list[Finding]:
    from slidelift.models.upscaler import load_upscaler

    findings = []
    for card in catalog().values():
        if card.weights is None:
            continue
        try:
            load_upscaler(str(card.name))
            findings.append(Finding(card.name, True, f"{', '.join(card.weights)} loads and passes its self-test"))
        except ModelError as error:
            findings.append(Finding(card.name, False, str(error)))
        except (ImportError, OSError) as error:
            return [*findings, Finding("weights", False, f"can't be tested without torch ({_message(error)})")]
    return findings
