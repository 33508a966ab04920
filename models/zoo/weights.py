"""Load files of weights into checked networks, and save them.

A network is recognised by its keys, loaded strictly and tested on plain colours. Neither the file's name nor its
metadata are trusted.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from slidelift.durable import atomic_file
from slidelift.models.errors import WeightsError
from slidelift.models.networks.back_projection import REACH, SCALES, BackProjected
from slidelift.models.networks.spec import Geometry, NetworkSpec, StateDict
from slidelift.models.zoo.catalog import ModelCard, ModelKind
from slidelift.models.zoo.self_test import measure_colour_shift
from slidelift.models.zoo.state_dict import DAMAGED_FILE_ERRORS, MAX_BYTES, find_network, read_content

FACTS = (
    "architecture", "hyperparameters", "scale", "back_projection", "recipe", "recipe_json", "iterations",
    "degradation", "trained_on", "licence", "citation", "notes", "source_mpp", "commit", "software", "origin_sha256",
)  # fmt: skip
"""Metadata keys of a .safetensors file; others are not read."""
_MAX_FACT_CHARACTERS = 2**14


@dataclass(frozen=True, slots=True)
class Weights:
    """A loaded file of weights.

    Attributes
    ----------
    network
        The module with the weights in it, on the CPU, float32.
    fingerprint
        sha256 of architecture, hyperparameters, back-projection and tensors: the same in any file format.
    facts
        Metadata of a .safetensors file, keys of `FACTS`; untrusted text.
    colour_shift
        Greatest change of a plain colour in the self-test, in levels of 255; None if the test was skipped.
    """

    spec: NetworkSpec
    hyperparameters: Mapping[str, int]
    network: nn.Module
    fingerprint: str
    facts: Mapping[str, str] = field(default_factory=dict)
    colour_shift: float | None = None

    @property
    def geometry(self) -> Geometry:
        """How to cut patches for this network, including its back-projection step if it has one."""
        geometry = self.spec.geometry(self.hyperparameters)
        return replace(geometry, halo=geometry.halo + REACH) if self.back_projection else geometry

    def assembled(self) -> nn.Module:
        """Return the network for inference, with its back-projection step if it has one."""
        return BackProjected(self.network, self.geometry.scale).eval() if self.back_projection else self.network

    @property
    def name(self) -> str:
        """Architecture, scale and fingerprint; never the file's name, which must not be written into images."""
        return f"{self.spec.name}-x{self.geometry.scale}-{self.fingerprint[:8]}"

    @property
    def back_projection(self) -> bool:
        """Whether the network was trained with one step of back-projection after it."""
        return self.facts.get("back_projection") == "1"

    def card(self) -> ModelCard:
        """Return a card made from the weights and their metadata."""
        geometry = self.geometry
        return ModelCard(
            name=self.name,
            kind=ModelKind.NETWORK,
            description=f"{self.spec.name} from a file of the user's.",
            architecture=self.spec.name,
            scales=(geometry.scale,),
            default_scale=geometry.scale,
            parameters=sum(tensor.numel() for tensor in self.network.parameters()),
            halo=geometry.halo,
            exact=geometry.exact,
            fade=geometry.fade,
            back_projection=self.back_projection,
            source_mpp=_mpp_range(self.facts.get("source_mpp", "")),
            recipe=self.facts.get("recipe"),
            iterations=int(count) if (count := self.facts.get("iterations", "")).isdecimal() else None,
            degradation=self.facts.get("degradation"),
            commit=self.facts.get("commit"),
            trained_on=self.facts.get("trained_on"),
            licence=self.facts.get("licence"),
            citation=self.facts.get("citation", self.spec.paper),
            notes=self.facts.get("notes"),
            colour_shift=self.colour_shift,
        )


def load_weights(
    path: Path | Sequence[Path], sha256: str | None = None, *, scale: int | None = None, self_test: bool = True
) -> Weights:
    """Load a file of weights and test the network.

    Parameters
    ----------
    path
        `.safetensors`, or a checkpoint written by `torch.save`; float16 is widened to float32. Several files hold
        the tensors together. The network may be nested in the dicts, and its keys have the prefixes, that training
        code adds (`params_ema`, `state_dict`, `module.` and others); EMA weights are preferred, and everything else
        in the file is ignored.
    sha256
        Expected hash of the files' concatenated bytes, from their card.
    scale
        Enlargement of a network whose weights and file do not state it (SRCNN, FSRCNN, VDSR).
    self_test
        False to load weights that fail the self-test, such as those trained on corrupted images.

    Raises
    ------
    WeightsError
        If a file is missing, too large, damaged, not the one its card describes, of no supported architecture, or
        fails the self-test; if the scale is unknown or contradicts the weights.
    UntrainedWeightsError
        If the self-test measures a colour shift of `MAX_COLOUR_SHIFT` or more.
    """
    paths = (path,) if isinstance(path, Path) else tuple(path)
    _check_files(paths, sha256)
    content = {key: value for one in paths for key, value in read_content(one).items()}
    path, facts = paths[0], _read_facts(paths[0])
    spec, stored = find_network(path, content)
    try:
        state = spec.canonical({key: value.detach().float() for key, value in stored.items()})
        hyperparameters = _with_scale(path, spec, spec.hyperparameters(state), scale, facts.get("scale"))
        _check_shapes(spec, hyperparameters, state)
        network = spec.build(**hyperparameters)
        network.load_state_dict(state, strict=True)
    except DAMAGED_FILE_ERRORS as error:
        raise WeightsError(f"{path}: looks like {spec.name}, but does not fit it: {error}") from error
    weights = Weights(spec, hyperparameters, network.eval(), _fingerprint(spec, hyperparameters, state, facts), facts)
    if weights.back_projection and weights.geometry.scale not in SCALES:
        raise WeightsError(
            f"{path}: its metadata say that it was trained with back-projection, but x{weights.geometry.scale} has none"
        )
    return replace(weights, colour_shift=measure_colour_shift(path, weights.assembled())) if self_test else weights


def save_weights(
    path: Path,
    spec: NetworkSpec,
    hyperparameters: Mapping[str, int],
    state: StateDict,
    facts: Mapping[str, str],
    half: bool = True,
) -> None:
    """Write a file for `load_weights` atomically.

    Parameters
    ----------
    path
        Ends in `.safetensors`.
    hyperparameters
        All arguments of `spec.build`, `scale` included.
    state
        The network's state dict.
    facts
        Metadata of the file; keys are those of `FACTS`.
    half
        Store kernels in float16. Vectors (biases, normalisation) keep their precision: they take little space, and
        EDSR's mean in levels of 255 would lose a thirtieth of a level.

    Raises
    ------
    ValueError
        If a key of `facts` is unknown, and would not be read back.
    """
    if unknown := facts.keys() - set(FACTS):
        raise ValueError(f"unknown keys in facts: {', '.join(sorted(unknown))}")
    own = {
        "architecture": spec.name,
        "hyperparameters": json.dumps(dict(hyperparameters)),
        "scale": str(hyperparameters["scale"]),
    }
    tensors = {key: _stored(value, half) for key, value in state.items()}
    with atomic_file(path) as file:
        file.write(save(tensors, metadata={**facts, **own}))


def _stored(value: Tensor, half: bool) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.half() if half and value.is_floating_point() and value.ndim > 1 else value


def _check_shapes(spec: NetworkSpec, hyperparameters: Mapping[str, int], state: StateDict) -> None:
    """Compare shapes before memory is allocated: a small file may claim large widths.

    Raises
    ------
    RuntimeError
        If a tensor is missing or has another shape.
    """
    with torch.device("meta"), _SkipRandomInit():
        expected = {key: value.shape for key, value in spec.build(**hyperparameters).state_dict().items()}
    wrong = [key for key in expected if key not in state or state[key].shape != expected[key]]
    if wrong:
        raise RuntimeError(f"{len(wrong)} tensors are missing or of another shape, such as {wrong[0]}")


class _SkipRandomInit(TorchFunctionMode):
    """Skips random initialisation of meta tensors, for which torch would import its compiler (two seconds)."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return args[0] if func in (Tensor.normal_, Tensor.uniform_) else func(*args, **(kwargs or {}))


def _with_scale(
    path: Path, spec: NetworkSpec, from_weights: dict[str, int], requested: int | None, stated: str | None
) -> dict[str, int]:
    """Add the scale to the hyperparameters: the weights' own, else the requested one, else the file's metadata."""
    if "scale" in from_weights:
        if requested not in (None, from_weights["scale"]):
            raise WeightsError(f"{path}: enlarges by {from_weights['scale']}, not by {requested}")
        return from_weights
    if requested is None and stated is None:
        raise WeightsError(
            f"{path}: {spec.name}'s weights do not tell their scale; give it at import: "
            f"slidelift models import {path.name} --scale N"
        )
    scale = int(stated or 0) if requested is None else requested
    if scale not in spec.scales:
        raise WeightsError(f"{path}: {spec.name} enlarges by {', '.join(map(str, spec.scales))}, not by {scale}")
    return from_weights | {"scale": scale}


def _read_facts(path: Path) -> dict[str, str]:
    """Read the keys of `FACTS` from a .safetensors file, without control characters and limited in length."""
    if path.suffix.lower() != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    return {key: _clean(metadata[key]) for key in FACTS if key in metadata}


def _clean(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text[:_MAX_FACT_CHARACTERS])


def _mpp_range(text: str) -> tuple[float, float] | None:
    """Parse "LOW,HIGH" with 0 < LOW <= HIGH; None for anything else."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        return None
    return (low, high) if 0 < low <= high < float("inf") else None


def _check_files(paths: Sequence[Path], sha256: str | None) -> None:
    digest = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            raise WeightsError(f"{path}: no such file")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise WeightsError(f"{path}: {size} bytes, more than the {MAX_BYTES} allowed for weights")
        if sha256 is not None:
            digest.update(path.read_bytes())
    if sha256 not in (None, actual := digest.hexdigest()):
        names = ", ".join(map(str, paths))
        raise WeightsError(f"{names}: sha256 {actual}, its card says {sha256}; reinstall slidelift, or import it again")


def _fingerprint(
    spec: NetworkSpec, hyperparameters: Mapping[str, int], state: StateDict, facts: Mapping[str, str]
) -> str:
    follows = ["back-projection"] if facts.get("back_projection") == "1" else []
    digest = hashlib.sha256(json.dumps([spec.name, sorted(hyperparameters.items()), *follows]).encode())
    for key in sorted(state):
        digest.update(json.dumps([key, list(state[key].shape)]).encode())
        digest.update(state[key].contiguous().numpy().astype("<f4").tobytes())
    return digest.hexdigest()
