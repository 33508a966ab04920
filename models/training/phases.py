"""Phases of a training run: the autoencoder of the manifold loss if needed, then the recipe's stages."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from slidelift.models.data.images import ImageSet
from slidelift.models.data.pair import Pair
from slidelift.models.losses.weighted import WeightedSum
from slidelift.models.networks.autoencoder import Autoencoder
from slidelift.models.networks.back_projection import BackProjected
from slidelift.models.training.batches import Batches
from slidelift.models.training.captured_step import CapturedStep, Losses, Number
from slidelift.models.training.discriminator import DiscriminatorTrainer
from slidelift.models.training.execution import Execution
from slidelift.models.training.optimisers import learning_rate, optimisers, restore_optimiser, set_rate
from slidelift.models.training.recipe import Recipe, Stage

MANIFOLD = "manifold"


class Phase(Protocol):
    """Part of a run; `result` passes what it learned to later phases."""

    name: str
    iterations: int

    def step(self, iteration: int, rng: torch.Generator) -> Losses:
        """Run one iteration; returns losses as tensors, valid until the next, so that the host need not wait."""
        ...

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on besides the generator."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a state returned by `state`."""
        ...

    def result(self) -> dict[str, Any]:
        """Return what later phases and the weights file use."""
        ...


class ManifoldPhase:
    """Trains the autoencoder of the manifold loss by reconstruction of sharp crops."""

    name = MANIFOLD

    def __init__(self, recipe: Recipe, images: ImageSet, execution: Execution) -> None:
        self._settings, self._data, self._images = recipe.autoencoder, recipe.data, images
        self.iterations = self._settings.iterations
        self._execution = execution
        self._autoencoder = Autoencoder(features=self._settings.features)
        self._autoencoder.to(execution.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimiser = torch.optim.Adam(self._autoencoder.parameters(), self._settings.learning_rate)

    def step(self, iteration: int, rng: torch.Generator) -> Losses:  # noqa: ARG002 - signature of `Phase`
        crops = self._images.crops(self._settings.batch, self._settings.crop, rng, larger_share=self._data.larger_share)
        with self._execution.autocast():
            reconstruction = self._autoencoder(crops)
        loss = (reconstruction.float() - crops).square().mean()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()
        return {"autoencoder": loss, "total": loss}

    def state(self) -> dict[str, Any]:
        return {"autoencoder": self._autoencoder.state_dict(), "optimiser": self._optimiser.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._autoencoder.load_state_dict(state["autoencoder"])
        self._optimiser.load_state_dict(state["optimiser"])

    def result(self) -> dict[str, Any]:
        """Return the autoencoder's weights, on the CPU."""
        return {"autoencoder": _cpu_copy(self._autoencoder.state_dict())}


class StagePhase:
    """One stage of a recipe: generator, its EMA, and a discriminator if the stage has one.

    Without a discriminator the step is captured as a graph on devices that support it.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: Stage,
        network: nn.Module,
        losses: WeightedSum,
        images: ImageSet,
        execution: Execution,
    ) -> None:
        self.name, self.iterations = stage.name, stage.iterations
        self._stage, self._execution = stage, execution
        self._network, self._losses = network.train(), losses
        generator = BackProjected(network, recipe.scale) if recipe.back_projection else network
        self._generator = generator.to(execution.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._averaged = {key: value.detach().clone() for key, value in network.state_dict().items()}
        self._batches = Batches(recipe, stage, images, execution.batches_at_once)
        graphs = execution.graphs if _can_be_captured(stage) else None
        self._captured = CapturedStep(graphs) if graphs is not None else None
        self._optimisers = optimisers(stage, network, capturable=graphs is not None)
        self._adversarial_weight = stage.discriminator.weight if stage.discriminator else 0.0
        self._discriminator: DiscriminatorTrainer | None = None
        if stage.discriminator is not None:
            self._discriminator = DiscriminatorTrainer(stage.discriminator, stage.betas, execution)

    def step(self, iteration: int, rng: torch.Generator) -> Losses:
        """Run one step of the generator, then one of the discriminator."""
        rate = learning_rate(self._stage, iteration)
        decay = min(self._stage.ema, (iteration + 1) / (iteration + 10))
        pair = self._batches.next(rng)
        if self._captured is not None:
            return self._captured(self._train_step, pair, rate, decay)
        return self._train_step(pair, rate, decay)

    def _train_step(self, pair: Pair, rate: Number, decay: Number) -> Losses:
        with self._execution.autocast():
            prediction = self._generator(pair.low.contiguous(memory_format=torch.channels_last))
        prediction = prediction.float()
        total, parts = self._losses(prediction, pair.target, pair.low)
        if self._discriminator is not None:
            adversarial = self._discriminator.generator_loss(prediction, pair.high)
            total = total + self._adversarial_weight * adversarial
            parts["adversarial"] = adversarial.detach()
        self._optimise(total, rate)
        self._update_ema(decay)
        if self._discriminator is not None:
            parts["discriminator"] = self._discriminator.step(pair.high, prediction.detach())
        return {**parts, "total": total.detach()}

    def _optimise(self, total: Tensor, rate: Number) -> None:
        """Run the backward pass and one step of the generator's optimisers."""
        for optimiser in self._optimisers:
            set_rate(optimiser, rate)
            optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        if self._stage.clip:
            nn.utils.clip_grad_norm_(self._network.parameters(), self._stage.clip)
        for optimiser in self._optimisers:
            optimiser.step()

    @torch.no_grad()
    def _update_ema(self, decay: Number) -> None:
        """Update the EMA weights; not by `_foreach_lerp_`, which reads a tensor weight back to the host."""
        averages, weights = [], []
        for key, value in self._network.state_dict().items():
            if value.is_floating_point():
                averages.append(self._averaged[key])
                weights.append(value)
            else:
                self._averaged[key].copy_(value)
        updates = torch._foreach_sub(weights, averages)
        torch._foreach_mul_(updates, 1 - decay)
        torch._foreach_add_(averages, updates)

    def state(self) -> dict[str, Any]:
        state = {
            "network": self._network.state_dict(),
            "averaged": self._averaged,
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
            **self._batches.state(),
        }
        if self._discriminator is not None:
            state |= self._discriminator.state()
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        self._network.load_state_dict(state["network"])
        for key, value in state["averaged"].items():
            self._averaged[key].copy_(value)
        for optimiser, saved in zip(self._optimisers, state["optimisers"], strict=True):
            restore_optimiser(optimiser, saved)
        self._batches.restore(state)
        if self._discriminator is not None:
            self._discriminator.restore(state)

    def result(self) -> dict[str, Any]:
        """Return the EMA weights, on the CPU."""
        return {"network": _cpu_copy(self._averaged)}


def _can_be_captured(stage: Stage) -> bool:
    """Not with a discriminator, whose step is separate, nor with SGD: torch's reads its rate on the host."""
    return stage.discriminator is None and stage.optimiser != "sgd"


def _cpu_copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone().cpu() for key, value in state.items()}
