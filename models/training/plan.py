"""Phases of a recipe, built one at a time.

All of a recipe's errors are reported here, before the first iteration.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from slidelift.models.data.corrupt import corrupt
from slidelift.models.data.degrade import DEGRADATIONS
from slidelift.models.data.images import ImageSet
from slidelift.models.errors import RecipeError
from slidelift.models.losses.table import LOSSES
from slidelift.models.losses.weighted import WeightedSum
from slidelift.models.networks.autoencoder import Autoencoder
from slidelift.models.networks.discriminators import DISCRIMINATORS
from slidelift.models.networks.spec import NetworkSpec
from slidelift.models.networks.table import NETWORKS
from slidelift.models.training.batches import crop_side
from slidelift.models.training.execution import Execution
from slidelift.models.training.optimisers import learning_rate
from slidelift.models.training.phases import MANIFOLD, ManifoldPhase, Phase, StagePhase
from slidelift.models.training.recipe import Recipe, Stage
from slidelift.models.zoo.weights import Weights, load_weights


class Plan:
    """Phases of a recipe: the manifold first, if a loss needs it, then the stages.

    Memory: the recipe's initial weights, if it has any.

    Attributes
    ----------
    phases
        Names of the phases in order.
    init
        Initial weights, or None.
    files
        All files that the recipe names.
    vgg_missing
        Whether the manifold loss replaces the perceptual loss.

    Raises
    ------
    RecipeError
        If the recipe has an unknown network, scale, loss, degradation, discriminator or parameter, or initial weights
        of another network.
    WeightsError
        If the initial weights can't be used.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.spec: NetworkSpec = _look_up(NETWORKS, recipe.network, "network")
        _look_up(DEGRADATIONS, recipe.data.degradation, "degradation")
        for stage in recipe.stages:
            for loss in stage.losses:
                _look_up(LOSSES, loss, "loss")
            if stage.discriminator is not None:
                _look_up(DISCRIMINATORS, stage.discriminator.network, "discriminator")
        if recipe.scale not in self.spec.scales:
            scales = ", ".join(map(str, self.spec.scales))
            raise RecipeError(f"scale: {recipe.network} enlarges by {scales}, not by {recipe.scale}")
        _check_data(recipe)
        discriminators = [stage.discriminator.init for stage in recipe.stages if stage.discriminator is not None]
        self.files = [path for path in (recipe.init, recipe.vgg, *discriminators) if path is not None]
        for path in self.files:
            if not path.is_file():
                raise RecipeError(f"{path}: no such file")
        self.init = self._load_init()
        self.vgg_missing = recipe.vgg is None and any("vgg" in stage.losses for stage in recipe.stages)
        self._learns_manifold = self.vgg_missing or any(MANIFOLD in stage.losses for stage in recipe.stages)
        self.phases = [MANIFOLD] * self._learns_manifold + [stage.name for stage in recipe.stages]

    def _load_init(self) -> Weights | None:
        recipe = self.recipe
        if recipe.init is None:
            return None
        weights = load_weights(recipe.init, scale=recipe.scale)
        if weights.spec is not self.spec or weights.geometry.scale != recipe.scale:
            raise RecipeError(
                f"init: {recipe.init.name} is {weights.name}, the recipe trains {recipe.network} x{recipe.scale}"
            )
        return weights

    def loss_names(self) -> list[str]:
        """Return the names of all phases' losses, as columns of the log."""
        names = {"autoencoder": None} if self._learns_manifold else {}
        for stage in self.recipe.stages:
            names |= dict.fromkeys(self._losses_of(stage))
            if stage.discriminator is not None:
                names |= {"adversarial": None, "discriminator": None}
        return [*names, "total"]

    def _losses_of(self, stage: Stage) -> list[str]:
        return [MANIFOLD if name == "vgg" and self.vgg_missing else name for name in stage.losses]

    def iterations_before(self, number: int) -> int:
        """Return the iterations of all phases before the one with this number."""
        counts = [self.recipe.autoencoder.iterations] * self._learns_manifold + [
            stage.iterations for stage in self.recipe.stages
        ]
        return sum(counts[:number])

    def _stage(self, number: int) -> Stage | None:
        first = int(self._learns_manifold)
        return None if number < first else self.recipe.stages[number - first]

    def rate(self, number: int, iteration: int) -> float:
        """Return the learning rate in an iteration of a phase."""
        stage = self._stage(number)
        return self.recipe.autoencoder.learning_rate if stage is None else learning_rate(stage, iteration)

    def build(self, number: int, carried: Mapping[str, Any], images: ImageSet, execution: Execution) -> Phase:
        """Build a phase at its start.

        Parameters
        ----------
        carried
            Results of earlier phases: the state dicts `network` and `autoencoder`.
        """
        stage = self._stage(number)
        with torch.random.fork_rng(devices=[]):  # modules are initialised from the global generator
            torch.manual_seed(self.recipe.seed + number)
            if stage is None:
                return ManifoldPhase(self.recipe, images, execution)
            network = self._network(carried)
            losses = self._weighted_losses(stage, carried, execution.device)
            try:
                return StagePhase(self.recipe, stage, network, losses, images, execution)
            except (TypeError, ValueError) as error:
                raise RecipeError(f"stage {stage.name}: {error}") from error

    def _network(self, carried: Mapping[str, Any]) -> nn.Module:
        given = {**self.recipe.hyperparameters, "scale": self.recipe.scale}
        try:
            network: nn.Module = self.spec.build(**(self.init.hyperparameters if self.init else given))
        except (TypeError, ValueError, KeyError) as error:
            raise RecipeError(f"hyperparameters: {self.recipe.network} can't be built: {error}") from error
        if "network" in carried:
            network.load_state_dict(carried["network"])
        elif self.init is not None:
            network.load_state_dict(self.init.network.state_dict())
        return network

    def _weighted_losses(self, stage: Stage, carried: Mapping[str, Any], device: torch.device) -> WeightedSum:
        terms = {}
        for name, term in stage.losses.items():
            parameters = term.parameters
            if name == "vgg" and self.vgg_missing:
                name, parameters = MANIFOLD, {}
            elif name == "vgg":
                parameters["weights"] = self.recipe.vgg
            if name == MANIFOLD:
                autoencoder = Autoencoder(features=self.recipe.autoencoder.features)
                autoencoder.load_state_dict(carried["autoencoder"])
                parameters["encoder"] = autoencoder.encoder.to(device)
            try:
                terms[name] = (term.weight, LOSSES[name](**parameters))
            except (TypeError, ValueError) as error:
                raise RecipeError(f"stage {stage.name}: loss {name}: {error}") from error
        return WeightedSum(terms)


def _look_up(table: Mapping[str, Any], name: str, kind: str) -> Any:
    try:
        return table[name]
    except KeyError:
        raise RecipeError(f"{name}: no such {kind}; available: {', '.join(table)}") from None


def _check_data(recipe: Recipe) -> None:
    """Degrade one black crop, to report unknown parameters before the first iteration."""
    data, rng = recipe.data, torch.Generator()
    for stage in recipe.stages:
        side = crop_side(stage, recipe.scale)
        try:
            pair = DEGRADATIONS[data.degradation](torch.zeros(1, 3, side, side), recipe.scale, rng, **data.parameters)
            corrupt(pair.high, data.corruption, rng, kinds=data.corruption_kinds)
        except (TypeError, ValueError, KeyError, RuntimeError) as error:
            raise RecipeError(f"data: {data.degradation} at {side} px: {error}") from error
        if data.pool and data.pool < stage.batch:
            raise RecipeError(f"data.pool: {data.pool} pairs are fewer than the batch of {stage.batch}")
