"""Training pairs of one stage: crops of sharp images and their degraded versions.

On a GPU several batches are drawn together: four take about as many kernel launches as one, and launches dominate the
time.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

from slidelift.models.data.corrupt import corrupt
from slidelift.models.data.degrade import DEGRADATIONS
from slidelift.models.data.images import ImageSet
from slidelift.models.data.pair import Pair, crop_pair
from slidelift.models.data.pool import PairPool
from slidelift.models.data.stain import odd_colours, stain_jitter
from slidelift.models.training.recipe import Recipe, Stage


class Batches:
    """Batches of one stage.

    Memory: `at_once` batches and the recipe's pool, on the device of the images.

    A checkpoint does not hold batches that were drawn and not yet used. It holds the generator's state from before the
    draw, from which they are drawn again. Only the pool depends on earlier batches, so a batch is exchanged with it
    when `next` returns it.

    Parameters
    ----------
    at_once
        Batches drawn together. They share what a degradation draws once per call, such as a resize factor.
    """

    def __init__(self, recipe: Recipe, stage: Stage, images: ImageSet, at_once: int = 1) -> None:
        self._recipe, self._stage, self._images = recipe, stage, images
        self._at_once = at_once
        self._draw_state: dict[str, Any] = {}
        self._remaining: list[Pair] = []
        self._pool = PairPool(recipe.data.pool) if recipe.data.pool else None

    def next(self, rng: torch.Generator) -> Pair:
        """Return the next batch; `rng` is a generator on the CPU."""
        if not self._remaining:
            self._draw({"generator": rng.get_state(), "batches": self._at_once}, rng)
        pair = self._remaining.pop(0)
        return pair if self._pool is None else self._pool.exchange(pair, rng)

    def _draw(self, draw_state: Mapping[str, Any], rng: torch.Generator) -> None:
        self._draw_state = dict(draw_state)
        pairs = draw_pairs(self._recipe, self._stage, self._images, draw_state["batches"] * self._stage.batch, rng)
        self._remaining = _split(pairs, self._stage.batch)

    def state(self) -> dict[str, Any]:
        """Return everything that the next batch depends on besides the generator."""
        state: dict[str, Any] = {}
        if self._remaining:
            state["drawn"] = self._draw_state | {"left": len(self._remaining)}
        if self._pool is not None:
            state["pool"] = self._pool.state_dict()
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a state returned by `state`."""
        self._remaining = []
        if "drawn" in state:
            drawn = dict(state["drawn"])
            left, rng = drawn.pop("left"), torch.Generator()
            rng.set_state(drawn["generator"])
            self._draw(drawn, rng)
            self._remaining = self._remaining[-left:]
        if self._pool is not None:
            device = self._images.pixels.device
            tensors = {name: None if one is None else one.to(device) for name, one in state["pool"].items()}
            self._pool.load_state_dict(tensors)


def draw_pairs(recipe: Recipe, stage: Stage, images: ImageSet, count: int, rng: torch.Generator) -> Pair:
    """Draw `count` pairs together."""
    data, side = recipe.data, crop_side(stage, recipe.scale)
    whole = side + data.margin * recipe.scale
    high = images.crops(count, whole, rng, entropy=data.entropy, larger_share=data.larger_share)
    if data.stain:
        high = stain_jitter(high, rng, share=data.stain)
    if data.odd_colours:
        high = odd_colours(high, rng, share=data.odd_colours)
    pair: Pair = DEGRADATIONS[data.degradation](high, recipe.scale, rng, **data.parameters)
    if data.margin:
        pair = crop_pair(pair, side, rng)
    if data.corruption:
        corrupted = corrupt(pair.high, data.corruption, rng, kinds=data.corruption_kinds)
        pair = Pair(pair.low, corrupted, corrupted)
    return pair


def crop_side(stage: Stage, scale: int) -> int:
    """Return the stage's crop rounded down to a multiple of the scale; with a discriminator, of 16 as well."""
    whole = math.lcm(scale, 16) if stage.discriminator is not None else scale
    return max(whole, stage.crop - stage.crop % whole)


def _split(pairs: Pair, batch: int) -> list[Pair]:
    lows, highs = pairs.low.split(batch), pairs.high.split(batch)  # type: ignore[no-untyped-call]
    targets = highs if pairs.target is pairs.high else pairs.target.split(batch)  # type: ignore[no-untyped-call]
    return [Pair(*three) for three in zip(lows, highs, targets, strict=True)]
