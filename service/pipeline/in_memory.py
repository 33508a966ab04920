"""Upscale an image that is held in memory, tile by tile."""

from contextlib import closing
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from slidelift.models.upscaler import PatchUpscaler
from slidelift.wsi.blending import blender_for
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.slide import Level, Pixels, SlideInfo
from slidelift.wsi.tiler import Tiler
from slidelift.wsi.tiling import CORE, TilePlan

_WINDOW = 1
"""Reading from memory takes no time: one window of patches is enough."""


def upscale_in_memory(rgb: NDArray[np.uint8], upscaler: PatchUpscaler) -> NDArray[np.uint8]:
    """Upscale every tile of an image with one model.

    Memory: the result, and for a model whose tiles are cross-faded one float32 strip of them.

    Parameters
    ----------
    rgb
        uint8 (height, width, 3).

    Returns
    -------
    ndarray
        uint8 (scale * height, scale * width, 3): the pixels that a job writes for a slide of these pixels whose tiles
        are all tissue.

    Raises
    ------
    ValueError
        The image has another type or shape, or no pixels.
    ModelError
        The model fails.
    """
    pixels = np.asarray(rgb)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"expected uint8 (height, width, 3), got {pixels.dtype} {pixels.shape}")
    plan = _plan(pixels.shape[1], pixels.shape[0], upscaler)
    result = np.empty((plan.output.height, plan.output.width, 3), np.uint8)
    [stripe] = plan.stripes()
    blender = blender_for(plan, stripe)
    with closing(Tiler(_ArrayReader(pixels), plan, mark_bad=False, window=_WINDOW)) as tiler:
        for run in tiler.rows(0, plan.rows):
            for first in range(0, len(run.tiles), plan.batch):
                batch = slice(first, first + plan.batch)
                for tile, upscaled in zip(run.tiles[batch], upscaler(run.pixels[batch]), strict=True):
                    for block in blender.add(tile, upscaled):
                        height, width = block.pixels.shape[:2]
                        result[block.y : block.y + height, block.x : block.x + width] = block.pixels
    return result


def _plan(width: int, height: int, upscaler: PatchUpscaler) -> TilePlan:
    """A plan of one stripe in which every tile is tissue."""
    plan = TilePlan(
        level=0,
        source=Region(0, 0, width, height),
        scale=upscaler.scale,
        halo=upscaler.halo,
        fade=upscaler.fade,
        batch=upscaler.batch,
        entropy=0.0,
        mask=(),
        core=min(CORE, max(width, height)),
    )
    return replace(plan, mask=("1" * plan.columns,) * plan.rows, rows_per_stripe=plan.rows)


class _ArrayReader:
    """An array as a slide of one level."""

    def __init__(self, pixels: Pixels) -> None:
        self._pixels = pixels
        size = Size(pixels.shape[1], pixels.shape[0])
        self.info = SlideInfo("array", "array", (Level(size, 1.0),), mpp=None, objective=None, vendor=None)

    def read_region(self, level: int, region: Region) -> Pixels:  # noqa: ARG002 - there is one level
        return self._pixels[region.y : region.bottom, region.x : region.right]

    def close(self) -> None:
        """Do nothing; no file is held open."""
