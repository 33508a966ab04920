"""Training checkpoints, written atomically."""

import pickle
from pathlib import Path
from typing import Any

import torch

from slidelift.durable import atomic_file
from slidelift.models.errors import TrainingError


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint."""
    with atomic_file(path) as file:
        torch.save(state, file)


def load(path: Path, identity: str) -> dict[str, Any] | None:
    """Load the checkpoint of a run; None if there is none yet.

    Parameters
    ----------
    identity
        Hash of recipe and images; a checkpoint with another one is refused.

    Raises
    ------
    TrainingError
        If it can't be read, or belongs to another run.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        stored = state["identity"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise TrainingError(f"{path}: can't be read ({type(error).__name__}); delete it to start again") from error
    if stored != identity:
        raise TrainingError(f"{path}: belongs to another recipe or other images; choose another folder, or delete it")
    return state
