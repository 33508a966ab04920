"""Combination of upscaled patches to finished blocks of the result, by cropping or cross-fading.

The halo of an exact network covers its receptive field, so its patches are cropped to the core. A patch of an inexact
network overlaps the tiles above and left of it by `fade` source pixels. There the weight of the earlier tile falls
linearly to 0 and that of the later one rises to 1, first along x, then along y, so that the weights at each pixel sum
to one. Each pixel is rounded to 8 bits once, at the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidelift.wsi.geometry import Region
from slidelift.wsi.slide import Pixels
from slidelift.wsi.tiling import Stripe, Tile, TilePlan

Values = NDArray[np.float32]
Upscaled = Pixels | Values


@dataclass(frozen=True, slots=True)
class Block:
    """Finished pixels, uint8 (H, W, 3), at (x, y) of the output."""

    x: int
    y: int
    pixels: Pixels


class CropBlender:
    """Blender for exact networks: crops each patch to its core, and keeps no state."""

    def __init__(self, plan: TilePlan) -> None:
        self._plan = plan

    @property
    def extra_rows(self) -> int:
        """Number of tile rows that are needed below the stripe."""
        return 0

    def add(self, tile: Tile, upscaled: Upscaled) -> Iterator[Block]:
        """Crop the upscaled patch of a tile, (H, W, 3); tiles may come in any order."""
        plan, scale = self._plan, self._plan.scale
        start = plan.halo * scale
        output = tile.core.moved(-plan.source.x, -plan.source.y).scaled(scale)
        kept = upscaled[start : start + output.height, start : start + output.width]
        yield Block(output.x, output.y, kept.astype(np.uint8, copy=False))


class FadeBlender:
    """Blender for inexact networks; tiles must come row by row, from left to right.

    Memory, as float32: ``fade * scale`` rows over the output's width, and as many columns over a tile's height.
    """

    def __init__(self, plan: TilePlan, stripe: Stripe) -> None:
        self._plan, self._stripe = plan, stripe
        self._width = plan.fade * plan.scale
        ramp = (np.arange(self._width, dtype=np.float32) + 0.5) / self._width
        self._rising = ramp[:, None]
        self._left: Values | None = None
        self._above = np.zeros((self._width, plan.output.width, 3), np.float32)

    @property
    def extra_rows(self) -> int:
        """Number of tile rows that are needed below the stripe: one for the last overlap, none at the slide's end."""
        return 1 if self._stripe.first_row + self._stripe.rows < self._plan.rows else 0

    def add(self, tile: Tile, upscaled: Upscaled) -> Iterator[Block]:
        """Blend the upscaled patch of a tile, (H, W, 3), 0 to 255; yields the pixels that no later tile changes."""
        plan, fade = self._plan, self._width
        core = tile.core.moved(-plan.source.x, -plan.source.y).scaled(plan.scale)
        start = plan.halo * plan.scale
        band = np.asarray(upscaled[start : start + fade + core.height, start : start + fade + core.width], np.float32)
        band = self._fade_left(tile, band)
        x = core.x if tile.column == 0 else core.x - fade
        if tile.row > self._stripe.first_row:
            above = self._above[:, x : x + band.shape[1]]
            band[:fade] = above + (band[:fade] - above) * self._rising[:, :, None]
            y = core.y - fade
        else:
            band = band[fade:]
            y = core.y
        finished = band
        if tile.row + 1 < plan.rows:
            finished = band[:-fade] if band.shape[0] > fade else band[:0]
            self._above[:, x : x + band.shape[1]] = band[-fade:]
        inside = Region(x, y, band.shape[1], finished.shape[0]).intersect(self._stripe.output)
        if not inside.is_empty:
            kept = finished[inside.y - y : inside.bottom - y]
            yield Block(inside.x, inside.y, np.clip(np.rint(kept), 0, 255).astype(np.uint8))

    def _fade_left(self, tile: Tile, band: Values) -> Values:
        """Cross-fade with the tile to the left; hold back the columns that overlap the next tile."""
        fade = self._width
        if tile.column == 0:
            band = band[:, fade:]
        else:
            assert self._left is not None  # noqa: S101 - tiles come left to right
            band = band.copy()
            band[:, :fade] = self._left + (band[:, :fade] - self._left) * self._rising[None]
        if tile.column + 1 < self._plan.columns:
            self._left = band[:, -fade:].copy()
            band = band[:, :-fade]
        return band.copy()


Blender = CropBlender | FadeBlender


def blender_for(plan: TilePlan, stripe: Stripe) -> Blender:
    """Return the blender for the plan: `FadeBlender` if it has a fade, else `CropBlender`."""
    return FadeBlender(plan, stripe) if plan.fade else CropBlender(plan)
