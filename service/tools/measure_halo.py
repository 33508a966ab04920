"""Measure the disagreement of neighbouring tiles of an inexact network in their cross-fade.

    python -m slidelift.service.tools.measure_halo --model FILE --images DIR [--halos 8,16,32,48] [--fade N] [--count N]

Each image is reduced by the network's scale and cut by a vertical line. The strip of `fade` source pixels left of the
line is computed by the left tile, with `halo` pixels of context beyond the line, by the right tile, with `halo` pixels
beyond the strip, and from the whole width, which is the truth. Figures are absolute differences in grey levels of 255.
"""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidelift.models.evaluate import reference
from slidelift.models.image_files import image_files
from slidelift.models.upscaler import PatchUpscaler, load_upscaler

_ROWS = 96
"""Source rows of the measured band; a compromise of precision and time on a CPU."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Absolute differences in grey levels."""

    mean: float
    percentile_99_9: float
    greatest: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "Difference":
        """Summarise an array of absolute differences."""
        return cls(float(values.mean()), float(np.percentile(values, 99.9)), float(values.max()))

    def __str__(self) -> str:
        return f"{self.mean:.3f} | {self.percentile_99_9:.2f} | {self.greatest:.2f}"


@dataclass(frozen=True, slots=True)
class Seam:
    """Differences of the tiles to each other, and of their cross-fade to the truth."""

    disagreement: Difference
    faded_error: Difference


def measure_seam(upscaler: PatchUpscaler, images: Iterable[NDArray[np.uint8]], halo: int, fade: int) -> Seam:
    """Measure the seam along a vertical cut through the middle of each source image (h, w, 3).

    Raises
    ------
    ValueError
        If an image is too narrow for the halo and fade, if they are not multiples of the network's size multiple, or if
        an exact model would get less than its halo, which it may not compute.
    """
    if upscaler.exact and halo < upscaler.halo:
        raise ValueError(f"{upscaler.name} is exact and needs a halo of {upscaler.halo}, with which it has no seam")
    if halo % upscaler.size_multiple or fade % upscaler.size_multiple:
        raise ValueError(f"halo {halo} and fade {fade} must be multiples of {upscaler.size_multiple}")
    disagreements, errors = [], []
    for image in images:
        top = max(0, image.shape[0] - _ROWS) // 2
        left, right, truth = _strips(upscaler, image[top : top + _ROWS], halo, fade)
        weight = (np.arange(truth.shape[1]) + 0.5)[:, None] / truth.shape[1]
        disagreements.append(np.abs(left - right).ravel())
        errors.append(np.abs((1 - weight) * left + weight * right - truth).ravel())
    return Seam(Difference.of(np.concatenate(disagreements)), Difference.of(np.concatenate(errors)))


def _strips(
    upscaler: PatchUpscaler, band: NDArray[np.uint8], halo: int, fade: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Compute the strip left of the cut by the left tile, the right tile and the whole band."""
    multiple = upscaler.size_multiple
    width = band.shape[1] // multiple * multiple
    cut = width // 2 // multiple * multiple
    if cut <= halo + fade:
        raise ValueError(f"an image {width} pixels wide is too narrow for a halo of {halo} and a fade of {fade}")

    def strip(first: int, last: int) -> NDArray[np.float64]:
        out: NDArray[np.float64] = upscaler(band[None, :, first:last])[0].astype(np.float64)
        return out[:, (cut - fade - first) * upscaler.scale : (cut - first) * upscaler.scale]

    return strip(0, cut + halo), strip(cut - fade - halo, width), strip(0, width)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="catalog name or file of weights")
    parser.add_argument("--images", type=Path, required=True, help="folder of sharp images")
    parser.add_argument("--halos", default="8,16,32,48", help="source pixels, separated by commas")
    parser.add_argument("--fade", type=int, help="source pixels (default: the model's)")
    parser.add_argument("--count", type=int, help="number of images (default: all)")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    upscaler = load_upscaler(options.model, device=options.device)
    fade = upscaler.fade if options.fade is None else options.fade
    files = image_files(options.images, options.count)
    images = [reference(path, upscaler.scale).source for path in files]
    sys.stdout.write(f"{upscaler.name}, {upscaler.precision}, {len(images)} images, fade {fade}; grey levels\n\n")
    sys.stdout.write("| halo | tile difference: mean | p99.9 | max | cross-fade error: mean | p99.9 | max |\n")
    sys.stdout.write("|---|---|---|---|---|---|---|\n")
    for halo in map(int, options.halos.split(",")):
        try:
            seam = measure_seam(upscaler, images, halo, fade)
        except ValueError as error:
            parser.error(str(error))
        sys.stdout.write(f"| {halo} | {seam.disagreement} | {seam.faded_error} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
