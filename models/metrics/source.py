"""Model of a scanner's source image made from a sharp one: defocus, reduction, noise, JPEG.

The measuring convention is `SourceModel()`, which is Pillow's antialiased bicubic only. For compressed sources it is
`SourceModel(quality=Q)`: the reduced image encoded and decoded by Pillow at libjpeg's quality Q with 4:2:0 chroma.
"""

import io
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from slidelift.models.metrics.reduction import REDUCTIONS, Reduction

Sampling = Literal["4:4:4", "4:2:2", "4:2:0", "RGB"]
SAMPLINGS: tuple[Sampling, ...] = ("4:2:0", "4:2:2", "4:4:4", "RGB")
"""Chroma samplings; "RGB" stores the channels without a colour transform, as many Aperio files do."""
_NOISE_SEED = 0
"""All images of a size get the same noise, so that measurements are repeatable."""


@dataclass(frozen=True, slots=True)
class SourceModel:
    """Parameters of the source model; call it to make a source.

    Attributes
    ----------
    reduction
        A name of `models.metrics.reduction.REDUCTIONS`.
    defocus
        Standard deviation in source pixels of a Gaussian blur of the sharp image; 0 for none.
    noise
        Standard deviation in grey levels of Gaussian noise on the source; 0 for none.
    quality
        libjpeg's quality, 1 to 100; None for an uncompressed source.
    sampling
        Chroma sampling of the JPEG.
    tables
        Quantisation tables instead of those of `quality`, each 64 steps in row order, luma first.
    """

    reduction: str = "bicubic"
    defocus: float = 0.0
    noise: float = 0.0
    quality: int | None = None
    sampling: Sampling = "4:2:0"
    tables: tuple[tuple[int, ...], ...] | None = None

    @property
    def reduce(self) -> Reduction:
        """The reduction without the other steps."""
        return REDUCTIONS[self.reduction]

    @property
    def label(self) -> str:
        """Short label of the compression: "none" or "Q" and the quality."""
        if self.tables is not None:
            return "own tables"
        return "none" if self.quality is None else f"Q{self.quality}"

    @property
    def description(self) -> str:
        """Sentence for reports."""
        parts = [f"reduced by {self.reduction}"]
        if self.defocus:
            parts.append(f"blurred by {self.defocus:g} source pixels")
        if self.noise:
            parts.append(f"noise of {self.noise:g} grey levels")
        if self.tables is not None or self.quality is not None:
            by = "the slide's own tables" if self.tables is not None else f"quality {self.quality}"
            parts.append(f"JPEG by {by}, {self.sampling}")
        else:
            parts.append("not compressed")
        return f"Sources: {'; '.join(parts)}."

    def __call__(self, image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
        """uint8 (scale*h, scale*w, 3) -> (h, w, 3)."""
        if self.defocus:
            sigma = self.defocus * scale
            blurred = gaussian_filter(image.astype(np.float32), (sigma, sigma, 0), mode="mirror")
            image = np.rint(blurred).clip(0, 255).astype(np.uint8)
        source = self.reduce(image, scale)
        if self.noise:
            field = np.random.default_rng(_NOISE_SEED).normal(0, self.noise, source.shape)
            source = np.rint(source + field).clip(0, 255).astype(np.uint8)
        return self.compress(source)

    def compress(self, source: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Encode and decode the source as JPEG; unchanged if this model has no compression."""
        if self.quality is None and self.tables is None:
            return source
        options: dict[str, Any] = {"keep_rgb": True} if self.sampling == "RGB" else {"subsampling": self.sampling}
        if self.tables is not None:
            options["qtables"] = [list(table) for table in self.tables]
        else:
            options["quality"] = self.quality
        stream = io.BytesIO()
        Image.fromarray(source).save(stream, "JPEG", **options)
        return np.asarray(Image.open(stream))

    def as_dict(self) -> dict[str, Any]:
        """Return values for JSON."""
        return asdict(self)
