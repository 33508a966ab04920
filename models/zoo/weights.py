"""A file of weights -> a checked network: recognised by its keys, loaded strictly, tried on plain colours; and back.

safetensors first; `.pth` and `.pt` only through torch's restricted unpickler, so that a file can't
run code. Nothing here trusts the file's name, nor what its metadata say of it.
"""

import hashlib
import json
import pickle
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from slidelift.durable import atomic_file
from slidelift.models.errors import UntrainedWeightsError, WeightsError
from slidelift.models.networks.back_projection import REACH, SCALES, BackProjected
from slidelift.models.networks.spec import Geometry, NetworkSpec, StateDict
from slidelift.models.networks.table import NETWORKS
from slidelift.models.zoo.catalog import ModelCard, ModelKind

MAX_BYTES = 512 * 2**20
"""Eight times the largest network in the table; what is larger is something else."""
MAX_COLOUR_SHIFT = 16.0
"""Levels of 255; weights that change a patch of one colour by this or more are refused. From
`models.zoo.catalog.WARN_COLOUR_SHIFT` on they are used with a warning. Measured: compact-x4 0.07; the public
RealESRGAN_x4plus 4.2 and its anime_6B 3.0; untrained RRDBNets 132 to 145; a compact network trained with
back-projection 4.9 without it, so the step is part of the test."""
COLOURS = {"grey": (128, 128, 128), "eosin pink": (226, 160, 196)}
"""What the self-test paints its patches with."""
FACTS = (
    "architecture", "hyperparameters", "scale", "back_projection", "recipe", "recipe_json", "iterations",
    "degradation", "trained_on", "licence", "citation", "notes", "source_mpp", "commit", "software", "origin_sha256",
)  # fmt: skip
"""What may stand in a file's metadata; anything else there is not read."""
_MAX_FACT_CHARACTERS = 2**14
_HOLDERS = (
    "params_ema", "params-ema", "generator_ema", "ema", "params", "state_dict", "model_state_dict", "model", "net",
    "module", "generator", "netG", "_orig_mod",
)  # fmt: skip
"""Names that trainers put around a network's tensors: as the key of a dict that holds them, or before each tensor's key
with a dot. Averaged weights come first."""
_MAX_HOLDERS = 5
"""Names around one network; training code puts three at most."""
_NO_STATE = "holds no state dict of tensors; save the network's state_dict() instead"
_UNREADABLE = (
    OSError, RuntimeError, ValueError, LookupError, ArithmeticError, TypeError, AttributeError, EOFError,
    AssertionError, pickle.UnpicklingError, struct.error, SafetensorError,
)  # fmt: skip
"""What torch and safetensors raise on damaged files."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A file of weights that was understood.

    Attributes
    ----------
    network
        The module with the weights in it, on the CPU, float32.
    fingerprint
        sha256 of architecture, hyperparameters, back-projection and tensors: the same in any file format.
    facts
        What a .safetensors file says of itself, of `FACTS`: texts of a stranger's.
    colour_shift
        Greatest change of a plain colour that the self-test measured, in levels of 255; None where it was left out.
    """

    spec: NetworkSpec
    hyperparameters: Mapping[str, int]
    network: nn.Module
    fingerprint: str
    facts: Mapping[str, str] = field(default_factory=dict)
    colour_shift: float | None = None

    @property
    def geometry(self) -> Geometry:
        """How to cut patches for this network, and the step of back-projection where one follows it."""
        geometry = self.spec.geometry(self.hyperparameters)
        return replace(geometry, halo=geometry.halo + REACH) if self.back_projection else geometry

    def assembled(self) -> nn.Module:
        """The network with what follows it in use; for inference."""
        return BackProjected(self.network, self.geometry.scale).eval() if self.back_projection else self.network

    @property
    def name(self) -> str:
        """Architecture, scale and content; never the file's name, which must not reach an image."""
        return f"{self.spec.name}-x{self.geometry.scale}-{self.fingerprint[:8]}"

    @property
    def back_projection(self) -> bool:
        """Whether the network was trained with one step of back-projection after it."""
        return self.facts.get("back_projection") == "1"

    def card(self) -> ModelCard:
        """What can be said of a file that no catalog knows."""
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
    """Read, recognise, build and try a file of weights.

    Parameters
    ----------
    path
        `.safetensors`, or a checkpoint that `torch.save` wrote; float16 is widened to float32. Several files hold
        the tensors together. The network may lie inside the dicts, and its keys behind the prefixes, that trainers
        put around it (`params_ema`, `state_dict`, `module.` and others); averaged weights are preferred, and what
        lies beside the network is left out.
    sha256
        The hash that the files' bytes must have, one after the other, where their card gives one.
    scale
        Enlargement of a network whose weights do not tell it (SRCNN, FSRCNN, VDSR) and whose file does not say it.
    self_test
        False to measure weights that would be refused in use, such as those of spoilt training images.

    Raises
    ------
    WeightsError
        If a file is absent, too large, damaged, not the one its card describes, of no known architecture, or fails
        the self-test; if nothing tells the scale, or the weights tell another.
    UntrainedWeightsError
        If the self-test finds a plain colour changed by `MAX_COLOUR_SHIFT` or more.
    """
    paths = (path,) if isinstance(path, Path) else tuple(path)
    _check_files(paths, sha256)
    content = {key: value for one in paths for key, value in _content(one).items()}
    path, facts = paths[0], _facts(paths[0])
    spec, found = _network(path, content)
    try:
        state = spec.canonical({key: value.detach().float() for key, value in found.items()})
        hyperparameters = _with_scale(path, spec, spec.hyperparameters(state), scale, facts.get("scale"))
        _check_shapes(spec, hyperparameters, state)
        network = spec.build(**hyperparameters)
        network.load_state_dict(state, strict=True)
    except _UNREADABLE as error:
        raise WeightsError(f"{path}: looks like {spec.name}, but does not fit it: {error}") from error
    weights = Weights(spec, hyperparameters, network.eval(), _fingerprint(spec, hyperparameters, state, facts), facts)
    if weights.back_projection and weights.geometry.scale not in SCALES:
        raise WeightsError(f"{path}: trained with back-projection, it says, but x{weights.geometry.scale} has none")
    return replace(weights, colour_shift=_self_test(path, weights)) if self_test else weights


def save_weights(
    path: Path,
    spec: NetworkSpec,
    hyperparameters: Mapping[str, int],
    state: StateDict,
    facts: Mapping[str, str],
    half: bool = True,
) -> None:
    """Write a file that `load_weights` reads, whole or not at all.

    Parameters
    ----------
    path
        Ends in `.safetensors`.
    hyperparameters
        All that `spec.build` needs, `scale` included.
    state
        The network's state dict.
    facts
        To stand in the file's metadata; keys are those of `FACTS`.
    half
        Kernels in float16. Vectors (biases, normalisation) stay as they are: they cost nothing, and EDSR's mean in
        levels of 255 would lose a thirtieth of a level.

    Raises
    ------
    ValueError
        If a fact's key is unknown, and would not be read back.
    """
    if unknown := facts.keys() - set(FACTS):
        raise ValueError(f"facts that no reader knows: {', '.join(sorted(unknown))}")
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
    """Before memory is taken for widths that a small file may claim.

    Raises
    ------
    RuntimeError
        If a tensor is missing or has another shape.
    """
    with torch.device("meta"), _NothingDrawn():
        wanted = {key: value.shape for key, value in spec.build(**hyperparameters).state_dict().items()}
    wrong = [key for key in wanted if key not in state or state[key].shape != wanted[key]]
    if wrong:
        raise RuntimeError(f"{len(wrong)} tensors are missing or of another shape, such as {wrong[0]}")


class _NothingDrawn(TorchFunctionMode):
    """Leaves tensors without values undrawn, for which torch would import its compiler: two seconds of every start."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return args[0] if func in (Tensor.normal_, Tensor.uniform_) else func(*args, **(kwargs or {}))


def _recognises(spec: NetworkSpec, state: StateDict) -> bool:
    try:
        return spec.recognise(state)
    except _UNREADABLE:  # tensors of a shape that its own never have
        return False


def _with_scale(
    path: Path, spec: NetworkSpec, found: dict[str, int], asked: int | None, stated: str | None
) -> dict[str, int]:
    """The hyperparameters with a scale: the weights' own, else the one asked for, else the one the file states."""
    if "scale" in found:
        if asked not in (None, found["scale"]):
            raise WeightsError(f"{path}: enlarges by {found['scale']}, not by {asked}")
        return found
    if asked is None and stated is None:
        raise WeightsError(
            f"{path}: {spec.name}'s weights do not tell their scale; say it once: "
            f"slidelift models import {path.name} --scale N"
        )
    scale = int(stated or 0) if asked is None else asked
    if scale not in spec.scales:
        raise WeightsError(f"{path}: {spec.name} enlarges by {', '.join(map(str, spec.scales))}, not by {scale}")
    return found | {"scale": scale}


def _facts(path: Path) -> dict[str, str]:
    """The known keys of a .safetensors file's metadata, without control characters and not without end."""
    if path.suffix.lower() != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    return {key: _clean(metadata[key]) for key in FACTS if key in metadata}


def _clean(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text[:_MAX_FACT_CHARACTERS])


def _mpp_range(text: str) -> tuple[float, float] | None:
    """Two numbers with a comma between them, in rising order and above zero; anything else says nothing."""
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
            raise WeightsError(f"{path}: {size} bytes, more than the {MAX_BYTES} that weights may have")
        if sha256 is not None:
            digest.update(path.read_bytes())
    if sha256 not in (None, found := digest.hexdigest()):
        names = ", ".join(map(str, paths))
        raise WeightsError(f"{names}: sha256 {found}, its card says {sha256}; reinstall slidelift, or import it again")


def _read(path: Path) -> object:
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # of pickle protocols, which are refused anyway
            return torch.load(path, weights_only=True, map_location="cpu")
    except _UNREADABLE as error:
        # torch's own text may advise to unpickle without protection
        advice = "use a .safetensors file, or a .pth that holds nothing but tensors"
        raise WeightsError(f"{path}: can't be read as weights ({type(error).__name__}); {advice}") from error


def _content(path: Path) -> Mapping[Any, Any]:
    content = _read(path)
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: {_NO_STATE}")
    return content


def _network(path: Path, content: Mapping[Any, Any]) -> tuple[NetworkSpec, StateDict]:
    """The first state dict in a file's content that is a known network's, as it is stored."""
    states: list[dict[str, Tensor]] = []
    for state in _states(content, _MAX_HOLDERS, set()):
        if sum(value.numel() for value in state.values()) > MAX_BYTES // 2:
            raise WeightsError(f"{path}: its tensors are larger than its file can honestly hold")
        spec = next((spec for spec in NETWORKS.values() if _recognises(spec, state)), None)
        if spec is not None:
            return spec, state
        states.append(state)
    if not states:
        raise WeightsError(f"{path}: {_NO_STATE}")
    largest = max(states, key=len)
    known, keys = ", ".join(NETWORKS), ", ".join(list(largest)[:4])
    raise WeightsError(f"{path}: not the weights of a known network ({known}); its keys: {keys} …")


def _states(content: Mapping[Any, Any], deeper: int, seen: set[int]) -> Iterator[dict[str, Tensor]]:
    """The tensors of a dict under their keys as they are, then those that each holder's name leads to.

    The keys as they are come first, because `model.` begins each key of ESRGAN's first release and is no prefix there.

    Parameters
    ----------
    deeper
        Holders that may still be opened.
    seen
        Identities of the dicts that were opened; a pickle may hold one dict in many places, or in itself.
    """
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    if tensors := {key: value for key, value in named.items() if isinstance(value, Tensor)}:
        yield tensors
    for holder in _HOLDERS if deeper else ():
        held = named.get(holder)
        if isinstance(held, Mapping) and id(held) not in seen:
            seen.add(id(held))
            yield from _states(held, deeper - 1, seen)
        prefix = f"{holder}."
        if prefixed := {key.removeprefix(prefix): value for key, value in named.items() if key.startswith(prefix)}:
            yield from _states(prefixed, deeper - 1, seen)


def _fingerprint(
    spec: NetworkSpec, hyperparameters: Mapping[str, int], state: StateDict, facts: Mapping[str, str]
) -> str:
    follows = ["back-projection"] if facts.get("back_projection") == "1" else []
    digest = hashlib.sha256(json.dumps([spec.name, sorted(hyperparameters.items()), *follows]).encode())
    for key in sorted(state):
        digest.update(json.dumps([key, list(state[key].shape)]).encode())
        digest.update(state[key].contiguous().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


@torch.inference_mode()
def _self_test(path: Path, weights: Weights) -> float:
    """The greatest change of a plain colour, measured in the middle, where padding reaches little; in levels of 255.

    Rounded to hundredths, so that a sum's last bit decides nothing at a limit.

    Raises
    ------
    WeightsError
        If a ramp or a plain colour does not come out finite, or a colour is changed too much.
    """
    network = weights.assembled()
    ramp = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)
    painted = torch.tensor(list(COLOURS.values())).reshape(-1, 3, 1, 1) / 255
    side = 48
    out = [network(image) for image in (ramp, painted.expand(-1, 3, side, side))]
    if not all(torch.isfinite(image).all() for image in out):
        raise WeightsError(f"{path}: answers NaN or infinity to a grey ramp; the weights are damaged")
    third = out[1].shape[-1] // 3
    middle = out[1][:, :, third:-third, third:-third].mean((2, 3), keepdim=True)
    measured: list[float] = (middle - painted).abs().amax((1, 2, 3)).tolist()
    shifts = [round(255 * shift, 2) for shift in measured]
    for colour, shift in zip(COLOURS, shifts, strict=True):
        if shift >= MAX_COLOUR_SHIFT:
            raise UntrainedWeightsError(
                f"{path}: changes a patch of {colour} by {shift:.2f} of 255 levels, {MAX_COLOUR_SHIFT:g} or more; "
                "untrained, or made for another range of values"
            )
    return max(shifts)
