"""The stretches of a run: first the manifold where a loss needs it, then the recipe's stages."""

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from models.data.corrupt import corrupt
from models.data.degrade import DEGRADATIONS
from models.data.images import ImageSet
from models.data.pair import Pair
from models.data.pool import PairPool
from models.data.stain import odd_colours, stain_jitter
from models.errors import RecipeError
from models.losses.adversarial import critic_loss, generator_loss
from models.losses.weighted import WeightedSum
from models.networks.autoencoder import Autoencoder
from models.networks.back_projection import BackProjected
from models.networks.critics import CRITICS
from models.training.optimisers import learning_rate, optimisers
from models.training.recipe import Recipe, Stage

MANIFOLD = "manifold"
Losses = dict[str, Tensor]


class Phase(Protocol):
    """A stretch of iterations; what it learns is handed on by `result`."""

    name: str
    iterations: int

    def step(self, iteration: int, rng: torch.Generator) -> Losses:
        """One iteration; the losses as tensors, so that a GPU need not wait for them."""
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

    def __init__(self, recipe: Recipe, images: ImageSet, device: torch.device, bf16: bool) -> None:
        self._stated, self._data, self._images = recipe.autoencoder, recipe.data, images
        self.iterations = self._stated.iterations
        self._device, self._bf16 = device, bf16
        self._autoencoder = Autoencoder(features=self._stated.features)
        self._autoencoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimiser = torch.optim.Adam(self._autoencoder.parameters(), self._stated.learning_rate)

    def step(self, iteration: int, rng: torch.Generator) -> Losses:  # noqa: ARG002 - the face of all phases
        """One batch there and back."""
        crops = self._images.crops(self._stated.batch, self._stated.crop, rng, larger_share=self._data.larger_share)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
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
    """One stage of a recipe: generator, its average, and the critic where it has one."""

    def __init__(
        self,
        recipe: Recipe,
        stage: Stage,
        network: nn.Module,
        losses: WeightedSum,
        images: ImageSet,
        device: torch.device,
        bf16: bool,
    ) -> None:
        self.name, self.iterations = stage.name, stage.iterations
        self._recipe, self._stage, self._images = recipe, stage, images
        self._device, self._bf16 = device, bf16
        self._network = network.train()
        generator = BackProjected(network, recipe.scale) if recipe.back_projection else network
        self._generator = generator.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._averaged = {key: value.detach().clone() for key, value in network.state_dict().items()}
        self._optimisers = optimisers(stage, network)
        self._losses = losses
        self._pool = PairPool(recipe.data.pool) if recipe.data.pool else None
        self._critic: nn.Module | None = None
        if stage.critic is not None:
            self._critic = CRITICS[stage.critic.network](**stage.critic.parameters).to(device)
            if stage.critic.init is not None:
                _load_critic(self._critic, stage.critic.init)
            self._critic_optimiser = torch.optim.Adam(
                self._critic.parameters(), stage.critic.learning_rate, betas=stage.betas
            )

    def step(self, iteration: int, rng: torch.Generator) -> Losses:
        """One step of the generator, then one of the critic."""
        rate = learning_rate(self._stage, iteration)
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
        pair = self._pair(rng)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            drawn = self._generator(pair.low.contiguous(memory_format=torch.channels_last))
        drawn = drawn.float()
        total, parts = self._losses(drawn, pair.target, pair.low)
        if self._critic is not None and self._stage.critic is not None:
            self._critic.requires_grad_(False)
            real = self._judge(pair.high) if self._stage.critic.loss == "relativistic" else None
            parts["adversarial"] = generator_loss(self._stage.critic.loss, self._judge(drawn), real)
            total = total + self._stage.critic.weight * parts["adversarial"]
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        if self._stage.clip:
            nn.utils.clip_grad_norm_(self._network.parameters(), self._stage.clip)
        for optimiser in self._optimisers:
            optimiser.step()
        self._average(iteration)
        if self._critic is not None:
            parts["critic"] = self._teach_critic(pair.high, drawn.detach())
        return {**parts, "total": total}

    def _pair(self, rng: torch.Generator) -> Pair:
        data, stage = self._recipe.data, self._stage
        side = crop_side(stage, self._recipe.scale)
        high = self._images.crops(stage.batch, side, rng, entropy=data.entropy, larger_share=data.larger_share)
        if data.stain:
            high = stain_jitter(high, rng, share=data.stain)
        if data.odd_colours:
            high = odd_colours(high, rng, share=data.odd_colours)
        pair: Pair = DEGRADATIONS[data.degradation](high, self._recipe.scale, rng, **data.parameters)
        if data.corruption:
            spoilt = corrupt(pair.high, data.corruption, rng, kinds=data.corruption_kinds)
            pair = Pair(pair.low, spoilt, spoilt)
        return pair if self._pool is None else self._pool.exchange(pair, rng)

    def _judge(self, image: Tensor) -> Tensor:
        assert self._critic is not None  # noqa: S101 - asked in stages with a critic alone
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
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

    @torch.no_grad()
    def _average(self, iteration: int) -> None:
        decay = min(self._stage.ema, (iteration + 1) / (iteration + 10))
        for key, value in self._network.state_dict().items():
            if value.is_floating_point():
                self._averaged[key].lerp_(value, 1 - decay)
            else:
                self._averaged[key].copy_(value)

    def state(self) -> dict[str, Any]:
        """See `Phase`."""
        state = {
            "network": self._network.state_dict(),
            "averaged": self._averaged,
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
        }
        if self._pool is not None:
            state["pool"] = self._pool.state_dict()
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
            optimiser.load_state_dict(saved)
        if self._pool is not None:
            tensors = {
                key: value.to(self._device) if isinstance(value, Tensor) else value
                for key, value in state["pool"].items()
            }
            self._pool.load_state_dict(tensors)
        if self._critic is not None:
            self._critic.load_state_dict(state["critic"])
            self._critic_optimiser.load_state_dict(state["critic_optimiser"])

    def result(self) -> dict[str, Any]:
        """The averaged weights, on the CPU."""
        return {"network": _copied(self._averaged)}


def crop_side(stage: Stage, scale: int) -> int:
    """The stage's crop rounded down to whole source pixels, and to what critics halve four times where there is one."""
    whole = math.lcm(scale, 16) if stage.critic is not None else scale
    return max(whole, stage.crop - stage.crop % whole)


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone().cpu() for key, value in state.items()}


def _load_critic(critic: nn.Module, path: Path) -> None:
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        critic.load_state_dict(content.get("params", content))
    except (OSError, RuntimeError, AttributeError, EOFError, LookupError, pickle.UnpicklingError) as error:
        raise RecipeError(f"critic.init: {path.name} does not fit the critic: {error}") from error
