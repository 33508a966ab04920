"""Calibration of the entropy threshold to a stain and scanner, from images that are rich in tissue.

Sun, Khvostikov, Krylov, Krainiukov (GraphiCon 2023) chose 100 images rich in tissue, measured the Shannon entropy of
their grey levels, and kept patches of more than 7 bits. Here the threshold keeps a given share of the patches.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slidelift.service.pipeline.patches import in_parallel, read_resampled
from slidelift.wsi.errors import PlanError
from slidelift.wsi.geometry import Size
from slidelift.wsi.readers.open_slide import open_slide
from slidelift.wsi.slide import SlideReader
from slidelift.wsi.tissue import grey_levels, shannon_entropy

THRESHOLDS = tuple(half / 2 for half in range(2, 16))


@dataclass(frozen=True, slots=True)
class Entropies:
    """Entropies of some patches, in bits."""

    name: str
    bits: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """Minimum, 5th percentile, median and maximum, for JSON."""
        low, fifth, middle, high = np.percentile(self.bits, (0, 5, 50, 100)).tolist()
        return {"image": self.name, "patches": len(self.bits), "min": low, "p5": fifth, "median": middle, "max": high}


def measure_entropies(image: Path, size: int, reduce: int = 1) -> Entropies:
    """Measure every whole patch of an image or of a slide's level 0; an image smaller than a patch is one patch.

    Parameters
    ----------
    size
        Side of a patch in pixels, after the reduction.
    reduce
        Whole factor by which the image is reduced first, antialiased.

    Raises
    ------
    WsiError
        The image can't be opened, a patch can't be decoded, or no pixel is left after the reduction.
    """
    reader = open_slide(image)
    try:
        whole = reader.info.size
        reduced = Size(whole.width // reduce, whole.height // reduce)
        if not (reduced.width and reduced.height):
            raise PlanError(f"{image.name}: nothing is left of {whole.width}x{whole.height} px reduced by {reduce}")
        patch = Size(min(size, reduced.width), min(size, reduced.height))
        corners = [
            (x * reduce, y * reduce)
            for y in range(0, reduced.height - patch.height + 1, size)
            for x in range(0, reduced.width - patch.width + 1, size)
        ]
        work = _Measure(reader, patch, reduce)
        with ThreadPoolExecutor(os.cpu_count() or 1, "entropy") as pool:
            return Entropies(image.name, tuple(in_parallel(work, corners, pool)))
    finally:
        reader.close()


@dataclass(frozen=True, slots=True)
class _Measure:
    reader: SlideReader
    patch: Size
    reduce: int

    def __call__(self, corner: tuple[int, int]) -> float:
        side = self.patch.width * self.reduce, self.patch.height * self.reduce
        return shannon_entropy(grey_levels(read_resampled(self.reader, 0, corner, side, self.patch)))


def calibration(images: list[Entropies], keep: float) -> dict[str, Any]:
    """Return all entropies, the shares that round thresholds keep, and the threshold that keeps the share `keep`."""
    bits = np.array([value for image in images for value in image.bits])
    return {
        "images": [image.as_dict() for image in images],
        "all": Entropies("all", tuple(bits.tolist())).as_dict(),
        "kept": {f"{threshold:g}": float((bits >= threshold).mean()) for threshold in THRESHOLDS},
        "keep": keep,
        "threshold": float(np.percentile(bits, 100 * (1 - keep), method="lower")),
    }
