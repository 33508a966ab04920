"""A file of weights -> a checked network: recognised by its keys, loaded strictly, tried on a grey patch.

safetensors first; `.pth` and `.pt` only through torch's restricted unpickler, so that a file can't
run code. Nothing here trusts the file's name.
"""

import hashlib
import json
import pickle
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from models.errors import WeightsError
from models.networks.spec import Geometry, NetworkSpec, StateDict
from models.networks.table import NETWORKS
from models.zoo.catalog import ModelCard, ModelKind

MAX_BYTES = 512 * 2**20
"""Eight times the largest network in the table; what is larger is something else."""
MAX_COLOUR_SHIFT = 12.0
"""Grey levels by which a uniformly grey patch may change. Measured: compact after 2,000 iterations 0.3, a six-block
RRDBNet after 150 1.0 and, from undamped random weights, after 300 9.6; untrained RRDBNets 132 to 145."""
_WRAPPERS = ("params_ema", "params-ema", "params", "state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "netG.", "_orig_mod.")
_UNREADABLE = (
    OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError, AssertionError,
    pickle.UnpicklingError, struct.error, SafetensorError,
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
        sha256 of architecture, hyperparameters and tensors: the same for the same weights in any file format.
    """

    spec: NetworkSpec
    hyperparameters: Mapping[str, int]
    network: nn.Module
    fingerprint: str

    @property
    def geometry(self) -> Geometry:
        """How to cut patches for this network."""
        return self.spec.geometry(self.hyperparameters)

    @property
    def name(self) -> str:
        """Architecture, scale and content; never the file's name, which must not reach an image."""
        return f"{self.spec.name}-x{self.geometry.scale}-{self.fingerprint[:8]}"

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
            citation=self.spec.paper,
        )


def load_weights(path: Path, sha256: str | None = None) -> Weights:
    """Read, recognise, build and try a file of weights.

    Parameters
    ----------
    path
        `.safetensors`, or a checkpoint that `torch.save` wrote; float16 is widened to float32.
    sha256
        The hash that the file must have, where its card gives one.

    Raises
    ------
    WeightsError
        If the file is absent, too large, damaged, not the one its card describes, of no known architecture, or fails
        the self-test.
    """
    _check_file(path, sha256)
    state = _tensors(path, _read(path))
    spec = next((spec for spec in NETWORKS.values() if spec.recognise(state)), None)
    if spec is None:
        known, keys = ", ".join(NETWORKS), ", ".join(list(state)[:4])
        raise WeightsError(f"{path}: not the weights of a known RGB network ({known}); its keys: {keys} …")
    try:
        state = spec.canonical(state)
        hyperparameters = spec.hyperparameters(state)
        network = spec.build(**hyperparameters)
        network.load_state_dict(state, strict=True)
    except _UNREADABLE as error:
        raise WeightsError(f"{path}: looks like {spec.name}, but does not fit it: {error}") from error
    weights = Weights(spec, hyperparameters, network.eval(), _fingerprint(spec, hyperparameters, state))
    _self_test(path, weights)
    return weights


def _check_file(path: Path, sha256: str | None) -> None:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise WeightsError(f"{path}: {size} bytes, more than the {MAX_BYTES} that weights may have")
    if sha256 is not None:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise WeightsError(f"{path}: its sha256 is {found}, its card says {sha256}; reinstall slidelift")


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


def _tensors(path: Path, content: object) -> dict[str, Tensor]:
    """The state dict inside the wrappers that trainers put around it, its keys without theirs, as float32."""
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path}: holds no state dict of tensors; save the network's state_dict() instead")
    if sum(value.numel() for value in content.values()) > MAX_BYTES // 2:
        raise WeightsError(f"{path}: its tensors are larger than its file can honestly hold")
    return {_bare(str(key)): value.detach().float() for key, value in content.items()}


def _bare(key: str) -> str:
    while prefix := next((prefix for prefix in _PREFIXES if key.startswith(prefix)), None):
        key = key.removeprefix(prefix)
    return key


def _fingerprint(spec: NetworkSpec, hyperparameters: Mapping[str, int], state: StateDict) -> str:
    digest = hashlib.sha256(json.dumps([spec.name, sorted(hyperparameters.items())]).encode())
    for key in sorted(state):
        digest.update(json.dumps([key, list(state[key].shape)]).encode())
        digest.update(state[key].contiguous().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


@torch.inference_mode()
def _self_test(path: Path, weights: Weights) -> None:
    """A ramp must come out finite; a grey patch must stay grey in the middle, where padding does not reach far."""
    side = 32
    ramp = torch.linspace(0, 1, side).expand(1, 3, side, side)
    grey = torch.full((1, 3, side, side), 128 / 255)
    out = weights.network(torch.cat((ramp, grey)))
    if not torch.isfinite(out).all():
        raise WeightsError(f"{path}: answers NaN or infinity to a grey ramp; the weights are damaged")
    margin = out.shape[-1] // 4
    middle = out[1, :, margin:-margin, margin:-margin].mean((1, 2)) * 255
    shift = float((middle - 128).abs().max())
    if shift > MAX_COLOUR_SHIFT:
        advice = "untrained, or made for another range of values"
        raise WeightsError(f"{path}: changes a grey patch by {shift:.0f} of 255 levels; {advice}")
