"""The models on offer and the facts of each: those that are shipped, and those that the user imported. No torch.

Adding a model is adding a table to `catalog.toml` and, for a network, its files to `weights/`. What a user imports
(`models.zoo.imports`) lies in a folder of the user's, a card in JSON beside each file of weights.
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
"""Levels of 255; a model that changes plain colours by this or more is used with a warning. Shipped ones stay below;
the public Real-ESRGAN files have 3.0 and 4.2."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What an imported model may be called: it becomes a file's name, and a word of the command line."""
_HERE = Path(__file__).parent
METRICS = _HERE / "metrics.json"
"""Measured figures of each model, written by `python -m slidelift.service.tools.model_table`:
`metrics`, `gains`, `precision_loss` and `computed_on` of its card."""
_MAX_CARD_BYTES = 2**17
_SHA256 = re.compile(r"[0-9a-f]{64}")


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
        Files that hold the tensors together (more than one where a repository bears no large files), and the hash of
        their bytes one after the other. A network without any is an architecture for the user's own file.
    source_mpp
        Least and greatest µm per pixel of the source that the model was trained for.
    brightfield_only
        True where the model has seen nothing but transmitted light.
    halo, exact, fade
        As `models.networks.spec.Geometry`: source pixels of context, whether tiles join exactly,
        source pixels of cross-fade.
    back_projection
        True where one step of back-projection follows the network, as in its training.
    effort
        "fast", "balanced" or "best" for a network that may be recommended (`service.pipeline.recommendation`).
    imported
        True for a model of the user's, whose files lie in `models_folder()`.
    recipe, iterations, degradation, commit
        How it was trained: a name of `models.training.recipe.names()`, and the software's commit.
    metrics
        Evaluation set -> measure -> value, by `slidelift evaluate`, of sources that are not compressed.
    gains
        Evaluation set -> source ("none" or "Q" and the JPEG quality) -> PSNR-Y in dB above bicubic of that source.
    precision_loss
        Precision -> dB of PSNR-Y below fp32 (`models.inference.choose_precision`).
    computed_on
        Processor and precision of these measurements, a sentence.
    seam
        For inexact models: how far neighbouring tiles disagree, and how that was measured.
    colour_shift
        Greatest change of a plain colour, in levels of 255, that the self-test of a user's file measured; None where
        the card comes from no such test.
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
        """What a user has to know before trusting this model's results."""
        if self.colour_shift is None or self.colour_shift < WARN_COLOUR_SHIFT:
            return ()
        return (
            f"{self.name} changes colours: in its self-test a plain patch came out {self.colour_shift:g} of 255 levels "
            "off, so the result's colours differ from the slide's",
        )


@dataclass(frozen=True, slots=True)
class ModelCatalog:
    """All cards that could be read, and what is wrong with the others."""

    cards: Mapping[str, ModelCard]
    damaged: Mapping[str, str]


def catalog() -> Mapping[str, ModelCard]:
    """Every card by name: the default model first, then the others that are shipped, then the user's."""
    return model_catalog().cards


def damaged_cards() -> Mapping[str, str]:
    """Names of the user's models whose cards can't be used -> what is wrong, with the file's name."""
    return model_catalog().damaged


@cache
def model_catalog() -> ModelCatalog:
    """Both, read once a process; `model_catalog.cache_clear()` after a change."""
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
                raise ValueError(f"{name} is the name of a shipped model; give the files another")
            cards[name] = _imported(name, path)
        except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
            damaged[name] = f"{path}: not a model's card ({error}); import the model again, or delete the file"
    return ModelCatalog(MappingProxyType(cards), MappingProxyType(damaged))


def models_folder() -> Path:
    """Where the user's models lie: SLIDELIFT_MODELS_DIR, else slidelift/models among the user's data (XDG)."""
    if chosen := os.environ.get("SLIDELIFT_MODELS_DIR"):
        return Path(chosen)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "slidelift" / "models"


def find(name: str) -> ModelCard:
    """The card of a name.

    Raises
    ------
    UnknownModelError
        If the catalog has no such name.
    WeightsError
        If it is the name of a user's model whose card is damaged.
    """
    if (card := catalog().get(name)) is not None:
        return card
    if name in damaged_cards():
        raise WeightsError(damaged_cards()[name])
    offer = ", ".join(catalog())
    message = f"{name}: no such model. On offer: {offer}; or a file of weights (.safetensors, .pth, .pt)"
    raise UnknownModelError(message)


def weights_paths(card: ModelCard) -> tuple[Path, ...]:
    """Where a catalog network's weights lie, in the order of its card.

    Raises
    ------
    WeightsError
        If the model is an interpolation, or a file is not there.
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
    """A card that anyone may have edited.

    Raises
    ------
    OSError, ValueError, TypeError, LookupError
        If it can't be read, or says what can't be.
    """
    if path.stat().st_size > _MAX_CARD_BYTES:
        raise ValueError(f"larger than {_MAX_CARD_BYTES} bytes")
    table = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(table, dict):
        raise TypeError("no object")
    if unknown := table.keys() - {field.name for field in fields(ModelCard)}:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
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
    sound = {
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
    if wrong := [name for name, holds in sound.items() if not holds]:
        raise ValueError(f"not sound: {'; '.join(wrong)}")
