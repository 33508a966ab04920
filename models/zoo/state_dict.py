"""Find a supported network's tensors in a file of weights.

safetensors files are preferred; `.pth` and `.pt` are read by torch's restricted unpickler, so that a file can't run
code.
"""

import pickle
import struct
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from slidelift.models.errors import WeightsError
from slidelift.models.networks.spec import NetworkSpec, StateDict
from slidelift.models.networks.table import NETWORKS

MAX_BYTES = 512 * 2**20
"""Limit on the size of a file: eight times the largest network in the table."""
DAMAGED_FILE_ERRORS = (
    OSError, RuntimeError, ValueError, LookupError, ArithmeticError, TypeError, AttributeError, EOFError,
    AssertionError, pickle.UnpicklingError, struct.error, SafetensorError,
)  # fmt: skip
"""What torch and safetensors raise on damaged files."""
_WRAPPERS = (
    "params_ema", "params-ema", "generator_ema", "ema", "params", "state_dict", "model_state_dict", "model", "net",
    "module", "generator", "netG", "_orig_mod",
)  # fmt: skip
"""Keys of the dicts in which training code nests a network's tensors, and prefixes (with a dot) of the tensors' keys.
EMA weights come first."""
_MAX_WRAPPERS = 5
"""Depth of nesting; training code nests three times at most."""
_NO_STATE_DICT = "holds no state dict of tensors; save the network's state_dict() instead"


def read_content(path: Path) -> Mapping[Any, Any]:
    """Read a file that holds a dict.

    Raises
    ------
    WeightsError
        If the file is damaged or holds something else.
    """
    content = _read(path)
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: {_NO_STATE_DICT}")
    return content


def find_network(path: Path, content: Mapping[Any, Any]) -> tuple[NetworkSpec, StateDict]:
    """Return the first state dict of a supported network, with its keys as stored.

    Raises
    ------
    WeightsError
        If there is none.
    """
    candidates: list[dict[str, Tensor]] = []
    for state in _state_dicts(content, _MAX_WRAPPERS, set()):
        if sum(value.numel() for value in state.values()) > MAX_BYTES // 2:
            raise WeightsError(f"{path}: its tensors are larger than its file")
        spec = next((spec for spec in NETWORKS.values() if _recognises(spec, state)), None)
        if spec is not None:
            return spec, state
        candidates.append(state)
    if not candidates:
        raise WeightsError(f"{path}: {_NO_STATE_DICT}")
    largest = max(candidates, key=len)
    supported, keys = ", ".join(NETWORKS), ", ".join(list(largest)[:4])
    raise WeightsError(f"{path}: not the weights of a supported network ({supported}); its keys: {keys} …")


def _read(path: Path) -> object:
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols, which are refused anyway
            return torch.load(path, weights_only=True, map_location="cpu")
    except DAMAGED_FILE_ERRORS as error:
        # torch's own message may advise loading without protection, so it is not shown
        advice = "use a .safetensors file, or a .pth that holds nothing but tensors"
        raise WeightsError(f"{path}: can't be read as weights ({type(error).__name__}); {advice}") from error


def _state_dicts(content: Mapping[Any, Any], max_depth: int, visited: set[int]) -> Iterator[dict[str, Tensor]]:
    """Yield the tensors of a dict, then those nested in or prefixed by each wrapper.

    The keys as they are come first: `model.` begins each key of ESRGAN's first release and is no prefix there.

    Parameters
    ----------
    visited
        Identities of the dicts that were opened; a pickle may hold one dict in many places, or in itself.
    """
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    if tensors := {key: value for key, value in named.items() if isinstance(value, Tensor)}:
        yield tensors
    for wrapper in _WRAPPERS if max_depth else ():
        nested = named.get(wrapper)
        if isinstance(nested, Mapping) and id(nested) not in visited:
            visited.add(id(nested))
            yield from _state_dicts(nested, max_depth - 1, visited)
        prefix = f"{wrapper}."
        if prefixed := {key.removeprefix(prefix): value for key, value in named.items() if key.startswith(prefix)}:
            yield from _state_dicts(prefixed, max_depth - 1, visited)


def _recognises(spec: NetworkSpec, state: StateDict) -> bool:
    try:
        return spec.recognise(state)
    except DAMAGED_FILE_ERRORS:  # tensors with shapes that the architecture never has
        return False
