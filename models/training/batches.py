"""Training pairs of one stage: crops of sharp images and what their degradation leaves of them.

Four batches take about as many operations as one, only larger ones. On a GPU, whose time goes by their number, several
are therefore drawn in one go.
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
    """A stage's batches, one after another.

    Memory: `at_once` batches and the recipe's pool, on the device of the images.

    Batches that are drawn and not yet used are not kept in a checkpoint. It keeps the generator's state from before
    they were drawn, and they are drawn again from it. Only the pool depends on earlier batches, so a batch is exchanged
    with it when it is handed out.

    Parameters
    ----------
    at_once
        Batches drawn in one go. What a degradation draws once a call, such as a resize factor, they have in common.
    """

    def __init__(self, recipe: Recipe, stage: Stage, images: ImageSet, at_once: int = 1) -> None:
        self._recipe, self._stage, self._images = recipe, stage, images
        self._at_once = at_once
        self._drawn_from: dict[str, Any] = {}
        self._left: list[Pair] = []
        self._pool = PairPool(recipe.data.pool) if recipe.data.pool else None

    def next(self, rng: torch.Generator) -> Pair:
        """The next batch; `rng` lives on the CPU."""
        if not self._left:
            self._draw({"generator": rng.get_state(), "batches": self._at_once}, rng)
        pair = self._left.pop(0)
        return pair if self._pool is None else self._pool.exchange(pair, rng)

    def _draw(self, drawn_from: Mapping[str, Any], rng: torch.Generator) -> None:
        self._drawn_from = dict(drawn_from)
        pairs = draw_pairs(self._recipe, self._stage, self._images, drawn_from["batches"] * self._stage.batch, rng)
        self._left = _split(pairs, self._stage.batch)

    def state(self) -> dict[str, Any]:
        """All that the next batch depends on besides the generator."""
        state: dict[str, Any] = {}
        if self._left:
            state["drawn"] = self._drawn_from | {"left": len(self._left)}
        if self._pool is not None:
            state["pool"] = self._pool.state_dict()
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        self._left = []
        if "drawn" in state:
            drawn = dict(state["drawn"])
            left, rng = drawn.pop("left"), torch.Generator()
            rng.set_state(drawn["generator"])
            self._draw(drawn, rng)
            self._left = self._left[-left:]
        if self._pool is not None:
            device = self._images.pixels.device
            kept = {name: None if one is None else one.to(device) for name, one in state["pool"].items()}
            self._pool.load_state_dict(kept)


def draw_pairs(recipe: Recipe, stage: Stage, images: ImageSet, count: int, rng: torch.Generator) -> Pair:
    """That many pairs, drawn in one go."""
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
        spoilt = corrupt(pair.high, data.corruption, rng, kinds=data.corruption_kinds)
        pair = Pair(pair.low, spoilt, spoilt)
    return pair


def crop_side(stage: Stage, scale: int) -> int:
    """The stage's crop rounded down to whole source pixels, and to what critics halve four times where there is one."""
    whole = math.lcm(scale, 16) if stage.critic is not None else scale
    return max(whole, stage.crop - stage.crop % whole)


def _split(pairs: Pair, batch: int) -> list[Pair]:
    lows, highs = pairs.low.split(batch), pairs.high.split(batch)  # type: ignore[no-untyped-call]
    targets = highs if pairs.target is pairs.high else pairs.target.split(batch)  # type: ignore[no-untyped-call]
    return [Pair(*three) for three in zip(lows, highs, targets, strict=True)]
