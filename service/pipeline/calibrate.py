"""The entropy threshold for one's own stain and scanner, found from images that are rich in tissue.

Sun, Khvostikov, Krylov, Krainiukov (GraphiCon 2023) chose 100 rich images, looked at the Shannon entropy of their grey
levels, and kept what has more than 7 bits. Here the threshold is the one that keeps a given share of the rich patches.
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
class Spread:
    """Entropies of some patches, in bits."""

    name: str
    bits: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """Least, 5th percentile, median and greatest, for JSON."""
        low, fifth, middle, high = np.percentile(self.bits, (0, 5, 50, 100)).tolist()
        return {"image": self.name, "patches": len(self.bits), "min": low, "p5": fifth, "median": middle, "max": high}


def entropies(image: Path, size: int, reduce: int = 1) -> Spread:
    """Entropy of every whole patch of an image or slide's level 0; an image smaller than a patch is one patch.

    Parameters
    ----------
    size
        Side of a patch in pixels, after the reduction.
    reduce
        Whole factor by which the image is made smaller first, antialiased.

    Raises
    ------
    WsiError
        The image can't be opened or a patch of it can't be decoded; it has not one pixel left after the reduction.
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
            return Spread(image.name, tuple(in_parallel(work, corners, pool)))
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


def calibration(spreads: list[Spread], keep: float) -> dict[str, Any]:
    """All spreads, what round thresholds keep, and the threshold that keeps the share `keep` of the patches or more."""
    bits = np.array([value for spread in spreads for value in spread.bits])
    return {
        "images": [spread.as_dict() for spread in spreads],
        "all": Spread("all", tuple(bits.tolist())).as_dict(),
        "kept": {f"{threshold:g}": float((bits >= threshold).mean()) for threshold in THRESHOLDS},
        "keep": keep,
        "threshold": float(np.percentile(bits, 100 * (1 - keep), method="lower")),
    }
