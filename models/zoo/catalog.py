"""The models on offer and the facts of each; reads one TOML file and imports no torch.

Adding a model is adding a table to `catalog.toml` and, for a network, a file to `weights/`.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import MappingProxyType

from models.errors import UnknownModelError, WeightsError

DEFAULT_MODEL = "compact-x4"
_HERE = Path(__file__).parent


class ModelKind(StrEnum):
    """Whether a model has learned anything."""

    NETWORK = "network"
    INTERPOLATION = "interpolation"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a user and a pipeline must know of a model before they use it.

    Attributes
    ----------
    architecture
        Name in `models.networks.table.NETWORKS`; None for interpolation.
    scales, default_scale
        Enlargements on offer, and the one taken where none is asked for.
    weights, sha256
        File in `zoo/weights` and its hash. A network without one is an architecture for the user's own file.
    source_mpp
        Least and greatest µm per pixel of the source that the model was trained for.
    brightfield_only
        True where the model has seen nothing but transmitted light.
    halo, exact, fade
        As `models.networks.spec.Geometry`: source pixels of context, whether tiles join exactly,
        source pixels of cross-fade.
    metrics
        Evaluation set -> measure -> value, by `python -m models.evaluate`.
    seam
        For inexact models: how far neighbouring tiles disagree, and how that was measured.
    """

    name: str
    kind: ModelKind
    description: str
    scales: tuple[int, ...]
    default_scale: int
    halo: int
    exact: bool
    fade: int
    architecture: str | None = None
    weights: str | None = None
    sha256: str | None = None
    parameters: int | None = None
    source_mpp: tuple[float, float] | None = None
    brightfield_only: bool = False
    trained_on: str | None = None
    licence: str | None = None
    citation: str | None = None
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seam: str | None = None
    notes: str | None = None


@cache
def catalog() -> Mapping[str, ModelCard]:
    """Every card by name, in the order of the file; the default model first."""
    tables = tomllib.loads((_HERE / "catalog.toml").read_text(encoding="utf-8"))
    return MappingProxyType({name: _card(name, table) for name, table in tables.items()})


def find(name: str) -> ModelCard:
    """The card of a name.

    Raises
    ------
    UnknownModelError
        If the catalog has no such name.
    """
    try:
        return catalog()[name]
    except KeyError:
        offer = ", ".join(catalog())
        message = f"{name}: no such model. On offer: {offer}; or a file of weights (.safetensors, .pth, .pt)"
        raise UnknownModelError(message) from None


def weights_path(card: ModelCard) -> Path:
    """Where a catalog network's weights lie.

    Raises
    ------
    WeightsError
        If the model comes without weights, or the file is not there.
    """
    if card.weights is None:
        raise WeightsError(f"{card.name} comes without weights: pass your own file as the model. {card.notes or ''}")
    path = _HERE / "weights" / card.weights
    if not path.is_file():
        raise WeightsError(f"{path}: the weights of {card.name} are missing; reinstall slidelift")
    return path


def _card(name: str, table: dict[str, object]) -> ModelCard:
    table["kind"] = ModelKind(str(table["kind"]))
    for key in ("scales", "source_mpp"):
        if isinstance(values := table.get(key), list):
            table[key] = tuple(values)
    return ModelCard(name=name, **table)  # type: ignore[arg-type]
