"""The stretches of a run: first the manifold where a loss needs it, then the recipe's stages."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from slidelift.models.data.images import ImageSet
from slidelift.models.data.pair import Pair
from slidelift.models.errors import RecipeError
from slidelift.models.losses.adversarial import critic_loss, generator_loss
from slidelift.models.losses.weighted import WeightedSum
from slidelift.models.networks.autoencoder import Autoencoder
from slidelift.models.networks.back_projection import BackProjected
from slidelift.models.networks.critics import CRITICS
from slidelift.models.training.batches import Batches
from slidelift.models.training.captured_step import CapturedStep, Losses, Number
from slidelift.models.training.execution import Execution
from slidelift.models.training.optimisers import learning_rate, optimisers, restore_optimiser, set_rate
from slidelift.models.training.recipe import Recipe, Stage

MANIFOLD = "manifold"


class Phase(Protocol):
    """A stretch of iterations; what it learns is handed on by `result`."""

    name: str
    iterations: int

    def step(self, iteration: int, rng: torch.Generator) -> Losses:
        """One iteration; the losses as tensors that hold until the next, so that a GPU need not wait for them."""
        ...

    def state(self) -> dict[str, Any]:
        """All that the next step depends on besides the generator."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        ...

    def result(self) -> dict[str, Any]:
        """What later phases and the weights file take from this one."""
        ...


class ManifoldPhase:
    """The autoencoder whose encoder measures distances between textures; plain reconstruction of sharp crops."""

    name = MANIFOLD

    def __init__(self, recipe: Recipe, images: ImageSet, execution: Execution) -> None:
        self._stated, self._data, self._images = recipe.autoencoder, recipe.data, images
        self.iterations = self._stated.iterations
        self._execution = execution
        self._autoencoder = Autoencoder(features=self._stated.features)
        self._autoencoder.to(execution.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimiser = torch.optim.Adam(self._autoencoder.parameters(), self._stated.learning_rate)

    def step(self, iteration: int, rng: torch.Generator) -> Losses:  # noqa: ARG002 - the face of all phases
        """One batch there and back."""
        crops = self._images.crops(self._stated.batch, self._stated.crop, rng, larger_share=self._data.larger_share)
        with self._execution.autocast():
            again = self._autoencoder(crops)
        loss = (again.float() - crops).square().mean()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()
        return {"autoencoder": loss, "total": loss}

    def state(self) -> dict[str, Any]:
        """See `Phase`."""
        return {"autoencoder": self._autoencoder.state_dict(), "optimiser": self._optimiser.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Phase`."""
        self._autoencoder.load_state_dict(state["autoencoder"])
        self._optimiser.load_state_dict(state["optimiser"])

    def result(self) -> dict[str, Any]:
        """The autoencoder's weights, on the CPU."""
        return {"autoencoder": _copied(self._autoencoder.state_dict())}


class StagePhase:
    """One stage of a recipe: generator, its average, and the critic where it has one.

    Without a critic the step is captured where the device has graphs.
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
        self._critic: nn.Module | None = None
        if stage.critic is not None:
            self._critic = CRITICS[stage.critic.network](**stage.critic.parameters).to(execution.device)
            if stage.critic.init is not None:
                _load_critic(self._critic, stage.critic.init)
            self._critic_optimiser = torch.optim.Adam(
                self._critic.parameters(), stage.critic.learning_rate, betas=stage.betas
            )

    def step(self, iteration: int, rng: torch.Generator) -> Losses:
        """One step of the generator, then one of the critic."""
        rate = learning_rate(self._stage, iteration)
        decay = min(self._stage.ema, (iteration + 1) / (iteration + 10))
        pair = self._batches.next(rng)
        if self._captured is not None:
            return self._captured(self._learn, pair, rate, decay)
        return self._learn(pair, rate, decay)

    def _learn(self, pair: Pair, rate: Number, decay: Number) -> Losses:
        with self._execution.autocast():
            drawn = self._generator(pair.low.contiguous(memory_format=torch.channels_last))
        drawn = drawn.float()
        total, parts = self._losses(drawn, pair.target, pair.low)
        if self._critic is not None and self._stage.critic is not None:
            adversarial = self._adversarial_loss(drawn, pair.high)
            total = total + self._stage.critic.weight * adversarial
            parts["adversarial"] = adversarial.detach()
        self._move(total, rate)
        self._average(decay)
        if self._critic is not None:
            parts["critic"] = self._teach_critic(pair.high, drawn.detach())
        return {**parts, "total": total.detach()}

    def _move(self, total: Tensor, rate: Number) -> None:
        """Backward, and one step of the generator's optimisers."""
        for optimiser in self._optimisers:
            set_rate(optimiser, rate)
            optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        if self._stage.clip:
            nn.utils.clip_grad_norm_(self._network.parameters(), self._stage.clip)
        for optimiser in self._optimisers:
            optimiser.step()

    @torch.no_grad()
    def _average(self, decay: Number) -> None:
        """Move the averaged weights; `_foreach_lerp_` would read a weight that is a tensor back to the host."""
        averages, weights = [], []
        for key, value in self._network.state_dict().items():
            if value.is_floating_point():
                averages.append(self._averaged[key])
                weights.append(value)
            else:
                self._averaged[key].copy_(value)
        way = torch._foreach_sub(weights, averages)
        torch._foreach_mul_(way, 1 - decay)
        torch._foreach_add_(averages, way)

    def _adversarial_loss(self, drawn: Tensor, high: Tensor) -> Tensor:
        assert self._critic is not None and self._stage.critic is not None  # noqa: S101, PT018 - asked with a critic alone
        self._critic.requires_grad_(False)
        real = self._judge(high) if self._stage.critic.loss == "relativistic" else None
        return generator_loss(self._stage.critic.loss, self._judge(drawn), real)

    def _judge(self, image: Tensor) -> Tensor:
        assert self._critic is not None  # noqa: S101 - as above
        with self._execution.autocast():
            verdict: Tensor = self._critic(image)
        return verdict.float()

    def _teach_critic(self, real: Tensor, drawn: Tensor) -> Tensor:
        assert self._critic is not None and self._stage.critic is not None  # noqa: S101, PT018 - as above
        self._critic.requires_grad_(True)
        loss = critic_loss(self._stage.critic.loss, self._judge(real), self._judge(drawn))
        self._critic_optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._critic_optimiser.step()
        return loss

    def state(self) -> dict[str, Any]:
        """See `Phase`."""
        state = {
            "network": self._network.state_dict(),
            "averaged": self._averaged,
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
            **self._batches.state(),
        }
        if self._critic is not None:
            state["critic"] = self._critic.state_dict()
            state["critic_optimiser"] = self._critic_optimiser.state_dict()
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Phase`."""
        self._network.load_state_dict(state["network"])
        for key, value in state["averaged"].items():
            self._averaged[key].copy_(value)
        for optimiser, saved in zip(self._optimisers, state["optimisers"], strict=True):
            restore_optimiser(optimiser, saved)
        self._batches.restore(state)
        if self._critic is not None:
            self._critic.load_state_dict(state["critic"])
            self._critic_optimiser.load_state_dict(state["critic_optimiser"])

    def result(self) -> dict[str, Any]:
        """The averaged weights, on the CPU."""
        return {"network": _copied(self._averaged)}


def _can_be_captured(stage: Stage) -> bool:
    """Without a critic, whose turn is not part of the step, and without SGD: torch's reads its rate on the host."""
    return stage.critic is None and stage.optimiser != "sgd"


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone().cpu() for key, value in state.items()}


def _load_critic(critic: nn.Module, path: Path) -> None:
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        critic.load_state_dict(content.get("params", content))
    except (OSError, RuntimeError, AttributeError, EOFError, LookupError, pickle.UnpicklingError) as error:
        raise RecipeError(f"critic.init: {path.name} does not fit the critic: {error}") from error
