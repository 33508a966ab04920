"""Nearest, bilinear, bicubic and Lanczos enlargement with the face of a network.

Pillow's filters, so that `bicubic` is the baseline of the measuring convention; it releases the
interpreter lock while it works. No torch is needed.
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
    """One filter at one scale; implements `models.upscaler.PatchUpscaler`.

    Parameters
    ----------
    method
        One of the catalog's interpolations.
    scale
        Output pixels per source pixel along each axis; 1 returns the patches as they are.

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
            raise UnknownModelError(f"{method}: no such filter. On offer: {', '.join(_FILTERS)}")
        card = catalog()[method]
        if scale not in card.scales:
            offer = ", ".join(map(str, card.scales))
            raise UnsupportedScaleError(f"{method} enlarges by {offer}, not by {scale}")
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
