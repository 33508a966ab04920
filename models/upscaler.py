"""Common interface of all models: a callable that enlarges a batch of uint8 patches.

`load_upscaler` imports torch only for networks.
"""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from slidelift.models.errors import UnsupportedScaleError
from slidelift.models.interpolate import Interpolator
from slidelift.models.zoo.catalog import ModelCard, ModelKind, catalog, find, weights_paths

if TYPE_CHECKING:
    from slidelift.models.zoo.weights import Weights

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


class OpenedModel:
    """A model by its name or file; its weights are loaded and self-tested once, at their first use.

    Parameters
    ----------
    model
        A name of the catalog, or a file of weights (.safetensors, .pth, .pt).

    Attributes
    ----------
    card
        The catalog's card, or one made from the metadata of a file of weights.

    Raises
    ------
    UnknownModelError, WeightsError
        If there is no such model, or its file can't be used.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self._catalog_card = None if _is_file(model) else find(model)
        self.card: ModelCard = self._catalog_card or self._weights.card()

    @cached_property
    def _weights(self) -> "Weights":
        from slidelift.models.zoo.weights import load_weights

        card = self._catalog_card
        paths = (Path(self.model),) if card is None else weights_paths(card)
        return load_weights(paths, sha256=card.sha256 if card else None)

    def upscaler(self, *, scale: int | None = None, device: str = "auto", precision: str = "auto") -> PatchUpscaler:
        """Make it ready to compute; see `load_upscaler`. The upscalers of one model share its network."""
        card = self._catalog_card
        if card is not None and card.kind is ModelKind.INTERPOLATION:
            return Interpolator(self.model, card.default_scale if scale is None else scale)
        from slidelift.models.inference import NetworkUpscaler

        weights = self._weights
        if scale not in (None, weights.geometry.scale):
            raise UnsupportedScaleError(f"{self.model} enlarges by {weights.geometry.scale}, not by {scale}")
        name = card.name if card else weights.name
        loss = card.precision_loss if card else {}
        return NetworkUpscaler.from_weights(weights, name=name, device=device, precision=precision, precision_loss=loss)


def load_upscaler(
    model: str | Path, *, scale: int | None = None, device: str = "auto", precision: str = "auto"
) -> PatchUpscaler:
    """Load a model and make it ready to compute.

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
    return OpenedModel(str(model)).upscaler(scale=scale, device=device, precision=precision)


def _is_file(model: str) -> bool:
    return model not in catalog() and (Path(model).suffix.lower() in WEIGHT_SUFFIXES or Path(model).is_file())
