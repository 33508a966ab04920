"""Nearest, bilinear, bicubic and Lanczos interpolation as upscalers.

Uses Pillow, whose bicubic filter is the baseline of all measurements and which releases the GIL. Does not import torch.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidelift.models.errors import UnknownModelError, UnsupportedScaleError
from slidelift.models.zoo.catalog import catalog

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Interpolator:
    """Interpolation filter at one scale; implements `models.upscaler.PatchUpscaler`.

    Parameters
    ----------
    method
        Name of an interpolation in the catalog.
    scale
        Output pixels per source pixel along each axis; 1 returns the patches unchanged.

    Raises
    ------
    UnknownModelError, UnsupportedScaleError
        If the catalog has no such filter, or not at this scale.
    """

    exact = True
    fade = 0
    size_multiple = 1
    precision = "uint8"
    device = "cpu"
    batch = 1

    def __init__(self, method: str, scale: int) -> None:
        if method not in _FILTERS:
            raise UnknownModelError(f"{method}: no such filter; available: {', '.join(_FILTERS)}")
        card = catalog()[method]
        if scale not in card.scales:
            scales = ", ".join(map(str, card.scales))
            raise UnsupportedScaleError(f"{method} enlarges by {scales}, not by {scale}")
        self.name = method
        self.scale = scale
        self.halo = card.halo
        self.fingerprint = f"{method}-pillow"
        self.incidents: list[str] = []

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Enlarge uint8 (N, h, w, 3) to uint8 (N, scale*h, scale*w, 3)."""
        if self.scale == 1:
            return batch
        count, height, width, _ = batch.shape
        out = np.empty((count, self.scale * height, self.scale * width, 3), np.uint8)
        for patch, enlarged in zip(batch, out, strict=True):
            enlarged[:] = self._enlarge(patch)
        return out

    def _enlarge(self, patch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width, _ = patch.shape
        size = (self.scale * width, self.scale * height)
        return np.asarray(Image.fromarray(patch).resize(size, _FILTERS[self.name]))
