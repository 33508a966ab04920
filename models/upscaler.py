"""Common interface of all models: a callable that enlarges a batch of uint8 patches.

`load_upscaler` imports torch only for networks.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from slidelift.models.errors import UnsupportedScaleError
from slidelift.models.interpolate import Interpolator
from slidelift.models.zoo.catalog import ModelCard, ModelKind, catalog, find, weights_paths

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt")


class UpscalerFacts(Protocol):
    """Properties of a model that a tile plan depends on.

    Attributes
    ----------
    name
        Catalog name, or architecture, scale and fingerprint of a user's file; never a path.
    scale
        Output pixels per source pixel along each axis.
    halo, exact, fade
        Source pixels of context around each tile; whether tiles with that halo join exactly; source pixels of
        cross-fade.
    size_multiple
        Required divisor of the network's input sides. Patches of any size are accepted and padded by mirroring, but
        tiles that must join have to begin at multiples of it, halo included, since the network folds squares of that
        side.
    precision
        "fp32", "bf16", "fp16" or "uint8"; the output depends on it.
    batch
        Patches computed together; larger batches are split.
    fingerprint
        Hash of the weights' content, independent of the file format.
    """

    name: str
    scale: int
    halo: int
    exact: bool
    fade: int
    size_multiple: int
    precision: str
    device: str
    batch: int
    fingerprint: str


class PatchUpscaler(UpscalerFacts, Protocol):
    """Model that enlarges patches.

    Attributes
    ----------
    incidents
        Messages about fallbacks, such as a halved batch; the caller may clear it.
    """

    incidents: list[str]

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.uint8] | NDArray[np.float32]:
        """Enlarge uint8 (N, h, w, 3) to (N, scale*h, scale*w, 3), halo included; the caller crops it.

        Of an exact model, pixels within `halo` source pixels of the edge are undefined.

        Exact models return uint8; others return float32 in 0..255, to be cross-faded before rounding.

        Raises
        ------
        OutOfMemoryError
            If a single patch does not fit.
        NonFiniteOutputError
            If the output has NaN or infinity even in float32.
        """
        ...


def load_upscaler(
    model: str, *, scale: int | None = None, device: str = "auto", precision: str = "auto"
) -> PatchUpscaler:
    """Load a model.

    Parameters
    ----------
    model
        Name in the catalog, or a file of weights (.safetensors, .pth, .pt).
    scale
        None for the model's default.
    device
        "auto" (CUDA if available), "cpu", "cuda" or "cuda:N". Interpolation always runs on the CPU.
    precision
        "auto", "fp32", "bf16" or "fp16". "auto" is fp16 on CUDA, bf16 on CPUs with bf16 arithmetic, and fp32 where the
        card's measurement shows a loss of more than 0.02 dB.

    Raises
    ------
    UnknownModelError, WeightsError, UnsupportedScaleError, DeviceError
        If there is no such model, file, scale or device.
    """
    card = None if _is_file(model) else find(model)
    if card is not None and card.kind is ModelKind.INTERPOLATION:
        return Interpolator(model, card.default_scale if scale is None else scale)
    paths = (Path(model),) if card is None else weights_paths(card)
    from slidelift.models.inference import NetworkUpscaler
    from slidelift.models.zoo.weights import load_weights

    weights = load_weights(paths, sha256=card.sha256 if card else None)
    if scale not in (None, weights.geometry.scale):
        raise UnsupportedScaleError(f"{model} enlarges by {weights.geometry.scale}, not by {scale}")
    name = card.name if card else weights.name
    loss = card.precision_loss if card else {}
    return NetworkUpscaler.from_weights(weights, name=name, device=device, precision=precision, precision_loss=loss)


def model_card(model: str) -> ModelCard:
    """Return the card of a catalog name, or one made from a file of weights.

    Raises
    ------
    UnknownModelError, WeightsError
        If there is no such model, or its file can't be used.
    """
    if not _is_file(model):
        return find(model)
    from slidelift.models.zoo.weights import load_weights

    return load_weights(Path(model)).card()


def _is_file(model: str) -> bool:
    return model not in catalog() and (Path(model).suffix.lower() in WEIGHT_SUFFIXES or Path(model).is_file())
