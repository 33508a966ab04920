"""The discriminator's side of adversarial training."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slidelift.models.errors import RecipeError
from slidelift.models.losses.adversarial import discriminator_loss, generator_loss
from slidelift.models.networks.discriminators import DISCRIMINATORS
from slidelift.models.training.execution import Execution
from slidelift.models.training.recipe import Discriminator


class DiscriminatorTrainer:
    """A stage's discriminator and its optimiser.

    Raises
    ------
    RecipeError
        If the file of initial weights does not fit the network.
    """

    def __init__(self, settings: Discriminator, betas: tuple[float, float], execution: Execution) -> None:
        self._settings, self._execution = settings, execution
        self._network = DISCRIMINATORS[settings.network](**settings.parameters).to(execution.device)
        if settings.init is not None:
            _load(self._network, settings.init)
        self._optimiser = torch.optim.Adam(self._network.parameters(), settings.learning_rate, betas=betas)

    def generator_loss(self, prediction: Tensor, high: Tensor) -> Tensor:
        """Return the generator's adversarial loss."""
        self._network.requires_grad_(False)
        real = self._logits(high) if self._settings.loss == "relativistic" else None
        return generator_loss(self._settings.loss, self._logits(prediction), real)

    def step(self, real: Tensor, fake: Tensor) -> Tensor:
        """Train the discriminator once and return its loss."""
        self._network.requires_grad_(True)
        loss = discriminator_loss(self._settings.loss, self._logits(real), self._logits(fake))
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        return loss

    def state(self) -> dict[str, Any]:
        """Return the state dicts of network and optimiser."""
        return {
            "discriminator": self._network.state_dict(),
            "discriminator_optimiser": self._optimiser.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a state returned by `state`."""
        self._network.load_state_dict(state["discriminator"])
        self._optimiser.load_state_dict(state["discriminator_optimiser"])

    def _logits(self, image: Tensor) -> Tensor:
        with self._execution.autocast():
            logits: Tensor = self._network(image)
        return logits.float()


def _load(network: nn.Module, path: Path) -> None:
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        network.load_state_dict(content.get("params", content))
    except (OSError, RuntimeError, AttributeError, EOFError, LookupError, pickle.UnpicklingError) as error:
        raise RecipeError(f"discriminator.init: {path.name} does not fit the discriminator: {error}") from error
