"""Catalog of shipped and imported models. Does not import torch.

To add a model, add a table to `catalog.toml` and, for a network, its files to `weights/`. Imported models
(`models.zoo.imports`) are in a folder of the user's, with a JSON card for each file of weights.
"""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import MappingProxyType

from slidelift.models.errors import UnknownModelError, WeightsError

DEFAULT_MODEL = "compact-x4"
CARD_SUFFIX = ".json"
WARN_COLOUR_SHIFT = 2.0
"""Models that change plain colours by this many levels of 255 or more are used with a warning. Shipped models stay
below; the public Real-ESRGAN files have 3.0 and 4.2."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Valid names of imported models, which are used as file names and command-line arguments."""
_HERE = Path(__file__).parent
METRICS = _HERE / "metrics.json"
"""Measurements of each model, written by `python -m slidelift.service.tools.model_table`: `metrics`, `gains`,
`precision_loss` and `computed_on` of its card."""
_MAX_CARD_BYTES = 2**17
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ModelKind(StrEnum):
    """Kind of a model."""

    NETWORK = "network"
    INTERPOLATION = "interpolation"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Properties, training and measurements of a model.

    Attributes
    ----------
    architecture
        Name in `models.networks.table.NETWORKS`; None for interpolation.
    scales, default_scale
        Supported enlargements, and the default.
    weights, sha256
        Files that hold the tensors together (several if file sizes are limited), and the hash of their concatenated
        bytes.
    source_mpp
        Least and greatest µm per pixel of the source that the model was trained for.
    brightfield_only
        True if the model was trained on brightfield images only.
    halo, exact, fade
        As `models.networks.spec.Geometry`: source pixels of context, whether tiles join exactly, source pixels of
        cross-fade.
    back_projection
        True if a back-projection step follows the network, as in its training.
    effort
        "fast", "balanced" or "best" for a network that may be recommended (`service.pipeline.recommendation`).
    imported
        True for imported models, whose files are in `models_folder()`.
    recipe, iterations, degradation, commit
        Training: a name of `models.training.recipe.names()`, and the software's commit.
    metrics
        Evaluation set -> measure -> value, by `slidelift evaluate`, for uncompressed sources.
    gains
        Evaluation set -> source ("none" or "Q" and the JPEG quality) -> gain of PSNR-Y in dB over bicubic.
    precision_loss
        Precision -> loss of PSNR-Y against fp32 in dB (`models.inference.choose_precision`).
    computed_on
        Sentence about the processor and precision of these measurements.
    seam
        For inexact models: disagreement of neighbouring tiles, and how it was measured.
    colour_shift
        Greatest change of a plain colour in the self-test of a user's file, in levels of 255; None without a test.
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
    weights: tuple[str, ...] | None = None
    sha256: str | None = None
    parameters: int | None = None
    source_mpp: tuple[float, float] | None = None
    brightfield_only: bool = False
    back_projection: bool = False
    effort: str | None = None
    imported: bool = False
    recipe: str | None = None
    iterations: int | None = None
    degradation: str | None = None
    commit: str | None = None
    trained_on: str | None = None
    licence: str | None = None
    citation: str | None = None
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    gains: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    precision_loss: Mapping[str, float] = field(default_factory=dict)
    computed_on: str | None = None
    seam: str | None = None
    notes: str | None = None
    colour_shift: float | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for users of this model."""
        if self.colour_shift is None or self.colour_shift < WARN_COLOUR_SHIFT:
            return ()
        return (
            f"{self.name} changes colours: in its self-test a plain colour shifted by {self.colour_shift:g} of 255 "
            "levels, so the result's colours differ from the slide's",
        )


@dataclass(frozen=True, slots=True)
class ModelCatalog:
    """Cards by name, and errors of damaged cards by name."""

    cards: Mapping[str, ModelCard]
    damaged: Mapping[str, str]


def catalog() -> Mapping[str, ModelCard]:
    """Return all cards by name: the default model, the other shipped models, then imported ones."""
    return model_catalog().cards


def damaged_cards() -> Mapping[str, str]:
    """Return errors of imported models with damaged cards, by name."""
    return model_catalog().damaged


@cache
def model_catalog() -> ModelCatalog:
    """Read the catalog, once per process; call `model_catalog.cache_clear()` after a change."""
    tables = tomllib.loads((_HERE / "catalog.toml").read_text(encoding="utf-8"))
    for name, measured in json.loads(METRICS.read_text(encoding="utf-8")).items():
        if name in tables:
            tables[name] |= measured
    cards = {name: _card(name, table) for name, table in tables.items()}
    damaged = {}
    for path in sorted(models_folder().glob("*" + CARD_SUFFIX)):
        name = path.name.removesuffix(CARD_SUFFIX)
        try:
            if name in tables:
                raise ValueError(f"{name} is the name of a shipped model; rename the files")
            cards[name] = _imported(name, path)
        except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
            damaged[name] = f"{path}: not a valid model card ({error}); import the model again, or delete the file"
    return ModelCatalog(MappingProxyType(cards), MappingProxyType(damaged))


def models_folder() -> Path:
    """Return the folder of imported models: SLIDELIFT_MODELS_DIR, else slidelift/models in XDG's data folder."""
    if chosen := os.environ.get("SLIDELIFT_MODELS_DIR"):
        return Path(chosen)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "slidelift" / "models"


def find(name: str) -> ModelCard:
    """Return the card of a name.

    Raises
    ------
    UnknownModelError
        If the catalog has no such name.
    WeightsError
        If the card of this imported model is damaged.
    """
    if (card := catalog().get(name)) is not None:
        return card
    if name in damaged_cards():
        raise WeightsError(damaged_cards()[name])
    raise UnknownModelError(
        f"{name}: no such model; available: {', '.join(catalog())}; or a file of weights (.safetensors, .pth, .pt)"
    )


def weights_paths(card: ModelCard) -> tuple[Path, ...]:
    """Return the files of a network's weights, in the order of its card.

    Raises
    ------
    WeightsError
        If the model is an interpolation, or a file is missing.
    """
    if not card.weights:
        raise WeightsError(f"{card.name} has no weights")
    folder = models_folder() if card.imported else _HERE / "weights"
    paths = tuple(folder / name for name in card.weights)
    for path in paths:
        if not path.is_file():
            advice = "import the model again" if card.imported else "reinstall slidelift"
            raise WeightsError(f"{path}: weights of {card.name} are missing; {advice}")
    return paths


def _card(name: str, table: dict[str, object]) -> ModelCard:
    table["kind"] = ModelKind(str(table["kind"]))
    if isinstance(weights := table.get("weights"), str):
        table["weights"] = [weights]
    for key in ("scales", "source_mpp", "weights"):
        if isinstance(values := table.get(key), list):
            table[key] = tuple(values)
    return ModelCard(name=name, **table)  # type: ignore[arg-type]


def _imported(name: str, path: Path) -> ModelCard:
    """Read an untrusted card.

    Raises
    ------
    OSError, ValueError, TypeError, LookupError
        If it can't be read, or is invalid.
    """
    if path.stat().st_size > _MAX_CARD_BYTES:
        raise ValueError(f"larger than {_MAX_CARD_BYTES} bytes")
    table = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(table, dict):
        raise TypeError("not a JSON object")
    if unknown := table.keys() - {field.name for field in fields(ModelCard)}:
        raise ValueError(f"unknown fields: {', '.join(sorted(unknown))}")
    card = _card(
        name, {key: value for key, value in table.items() if key not in ("name", "imported")} | {"imported": True}
    )
    _check(card)
    return card


def _check(card: ModelCard) -> None:
    numbers = (*card.scales, card.default_scale, card.halo, card.fade)
    texts = (
        card.description,
        card.architecture,
        card.licence,
        card.citation,
        card.recipe,
        card.degradation,
        card.commit,
        card.trained_on,
        card.notes,
        card.seam,
    )
    valid = {
        "name": NAME.fullmatch(card.name),
        "kind": card.kind is ModelKind.NETWORK,
        "scales, default_scale, halo, fade": all(type(number) is int and 0 <= number <= 1024 for number in numbers),
        "default_scale": card.default_scale in card.scales,
        "exact": isinstance(card.exact, bool),
        "back_projection": isinstance(card.back_projection, bool),
        "brightfield_only": isinstance(card.brightfield_only, bool),
        "description": isinstance(card.description, str),
        "text": all(text is None or isinstance(text, str) for text in texts),
        "parameters": card.parameters is None or type(card.parameters) is int,
        "iterations": card.iterations is None or type(card.iterations) is int,
        "effort": card.effort is None,
        "measurements": not (card.metrics or card.gains or card.precision_loss or card.computed_on),
        "weights": card.weights and all(NAME.fullmatch(name) for name in card.weights),
        "sha256": card.sha256 is not None and _SHA256.fullmatch(card.sha256),
        "colour_shift": card.colour_shift is None
        or (type(card.colour_shift) in (int, float) and 0 <= card.colour_shift <= 255),
        "source_mpp": card.source_mpp is None or 0 < card.source_mpp[0] <= card.source_mpp[1] < float("inf"),
    }
    if invalid := [name for name, is_valid in valid.items() if not is_valid]:
        raise ValueError(f"invalid: {'; '.join(invalid)}")
