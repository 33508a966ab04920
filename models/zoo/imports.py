"""Import of users' files of weights into the catalog.

The file is checked and converted to safetensors with metadata. The card is written last and removed first, so that a
model is listed only while its weights exist.
"""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

from slidelift.durable import atomic_file
from slidelift.models.errors import UnknownModelError, WeightsError
from slidelift.models.zoo.catalog import (
    CARD_SUFFIX,
    NAME,
    ModelCard,
    catalog,
    damaged_cards,
    model_catalog,
    models_folder,
)


def import_model(
    path: Path,
    *,
    name: str | None = None,
    scale: int | None = None,
    licence: str | None = None,
    source_mpp: tuple[float, float] | None = None,
) -> ModelCard:
    """Check a file of weights and add it to the catalog.

    Parameters
    ----------
    path
        `.safetensors`, `.pth` or `.pt`; it is not changed.
    name
        Name of the model; None for architecture, scale and fingerprint. The file's name is never used, because a
        model's name is written into images.
    scale
        Enlargement, if the weights do not determine it.
    licence, source_mpp
        For the card: terms of use, and least and greatest µm per pixel of the source that the model was trained for.

    Raises
    ------
    WeightsError
        If the weights can't be used, or the name is taken or invalid.
    """
    from slidelift.models.zoo.weights import load_weights, save_weights

    if name is not None:
        _check_free(name)
    weights = load_weights(path, scale=scale)
    if name is None:
        _check_free(name := weights.name)
    facts = {"citation": weights.spec.paper, **weights.facts, "origin_sha256": _sha256(path)}
    if licence is not None:
        facts["licence"] = licence
    if source_mpp is not None:
        facts["source_mpp"] = f"{source_mpp[0]:g},{source_mpp[1]:g}"
    folder = models_folder()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}.safetensors"
    save_weights(target, weights.spec, weights.hyperparameters, weights.network.state_dict(), facts, half=False)
    sha256 = _sha256(target)
    card = load_weights(target, sha256).card()  # verifies the converted file
    card = replace(
        card,
        name=name,
        description=f"{weights.spec.name}, imported.",
        weights=(target.name,),
        sha256=sha256,
        imported=True,
    )
    with atomic_file(folder / f"{name}{CARD_SUFFIX}") as file:
        file.write(_as_json(card))
    model_catalog.cache_clear()
    return card


def remove_model(name: str) -> None:
    """Remove an imported model, also one with a damaged card, and delete its files.

    Raises
    ------
    UnknownModelError
        If there is no imported model of this name; shipped models can't be removed.
    """
    card = catalog().get(name)
    if name not in damaged_cards() and (card is None or not card.imported):
        imported = ", ".join(card.name for card in catalog().values() if card.imported) or "none"
        raise UnknownModelError(f"{name}: no imported model of this name; imported models: {imported}")
    folder = models_folder()
    (folder / f"{name}{CARD_SUFFIX}").unlink(missing_ok=True)
    for file in (card.weights if card else None) or (f"{name}.safetensors",):
        (folder / file).unlink(missing_ok=True)
    model_catalog.cache_clear()


def _check_free(name: str) -> None:
    if not NAME.fullmatch(name) or len(name) > 64:
        raise WeightsError(f"{name!r} is not a valid model name: up to 64 letters, digits, dots, dashes, underscores")
    if name.lower().endswith((".safetensors", ".pth", ".pt", CARD_SUFFIX)):
        raise WeightsError(f"{name} looks like a file name; omit the suffix")
    if name in damaged_cards():
        raise WeightsError(f"{name} is taken by a damaged card: {damaged_cards()[name]}")
    if (card := catalog().get(name)) is not None:
        advice = f"remove it first: slidelift models remove {name}" if card.imported else "choose another name"
        raise WeightsError(f"{name} is taken; {advice}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _as_json(card: ModelCard) -> bytes:
    facts = {key: value for key, value in asdict(card).items() if value not in (None, {}) and key not in _IMPLIED}
    return json.dumps(facts, indent=2, ensure_ascii=False).encode()


_IMPLIED = ("name", "imported")
