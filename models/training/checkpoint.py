"""Everything a training run is in the middle of, in one file that is whole or not there."""

import pickle
from pathlib import Path
from typing import Any

import torch

from slidelift.durable import atomic_file
from slidelift.models.errors import TrainingError


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, on the disk before it takes its name."""
    with atomic_file(path) as file:
        torch.save(state, file)


def load(path: Path, identity: str) -> dict[str, Any] | None:
    """The checkpoint of a run, None where it has none yet.

    Parameters
    ----------
    identity
        Of recipe and images; a checkpoint of another is refused, since going on from it would make neither.

    Raises
    ------
    TrainingError
        If it can't be read, or is another run's.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        found = state["identity"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise TrainingError(f"{path}: can't be read ({type(error).__name__}); delete it to start again") from error
    if found != identity:
        raise TrainingError(f"{path}: of another recipe or other images; choose another folder, or delete it")
    return state
