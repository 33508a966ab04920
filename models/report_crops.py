"""Example crops of a report: the squares where the models gain most and least over bicubic."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidelift.models.metrics.fidelity import luma
from slidelift.models.metrics.measures import Reference

SIDE = 96
"""Side of a crop in pixels of the truth, rounded down to a multiple of the scale: large enough for some nuclei, small
enough to show pixels."""

_OVERVIEW = 300
_ROUNDING = 0.5
"""Squared grey levels added to both errors, so that flat windows, whose errors are only rounding, show no gain."""


@dataclass(frozen=True, slots=True)
class Crop:
    """Square crop of an image.

    Attributes
    ----------
    label
        Folder and name of the image.
    x, y
        Upper left corner in the image, in pixels of the truth.
    gain
        PSNR-Y over bicubic in dB, mean over the models.
    overview
        Thumbnail of the image with the crop framed.
    truth, source, enlarged
        uint8 (side, side, 3); of the source (side / scale, side / scale, 3).
    """

    label: str
    x: int
    y: int
    gain: float
    overview: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    source: NDArray[np.uint8]
    enlarged: Mapping[str, NDArray[np.uint8]]

    @property
    def errors(self) -> dict[str, NDArray[np.float64]]:
        """Absolute differences of luma in grey levels, by model."""
        return {name: np.abs(luma(pixels) - luma(self.truth)) for name, pixels in self.enlarged.items()}


class CropPicker:
    """Keeps the grid squares with the largest and smallest gain over all evaluated images."""

    def __init__(self, baseline: str) -> None:
        self._baseline = baseline
        self._best: Crop | None = None
        self._worst: Crop | None = None

    def add(self, path: Path, reference: Reference, enlarged: Mapping[str, NDArray[np.uint8]]) -> None:
        """Consider an evaluated image; see `models.evaluate.ImageCallback`."""
        scale = reference.truth.shape[0] // reference.source.shape[0]
        side = min(SIDE, *reference.truth.shape[:2]) // scale * scale
        errors = {name: _grid_mse(pixels, reference.truth, side) for name, pixels in enlarged.items()}
        others = [errors[name] for name in errors if name != self._baseline] or [errors[self._baseline]]
        ratios = [(errors[self._baseline] + _ROUNDING) / (one + _ROUNDING) for one in others]
        gains = np.mean([10 * np.log10(ratio) for ratio in ratios], axis=0)

        def crop(spot: int) -> Crop:
            row, column = divmod(spot, gains.shape[1])
            return _crop(path, reference, enlarged, column * side, row * side, side, float(gains[row, column]))

        if self._best is None or gains.max() > self._best.gain:
            self._best = crop(int(gains.argmax()))
        if self._worst is None or gains.min() < self._worst.gain:
            self._worst = crop(int(gains.argmin()))

    @property
    def crops(self) -> tuple[Crop, ...]:
        """The crop with the largest gain, then the one with the smallest; a single crop if they are the same."""
        both = [crop for crop in (self._best, self._worst) if crop is not None]
        same = len(both) == 2 and (both[0].label, both[0].x, both[0].y) == (both[1].label, both[1].x, both[1].y)
        return tuple(both[:1] if same else both)


def _grid_mse(image: NDArray[np.uint8], truth: NDArray[np.uint8], side: int) -> NDArray[np.float64]:
    rows, columns = truth.shape[0] // side, truth.shape[1] // side
    error = np.square(luma(image) - luma(truth))[: rows * side, : columns * side]
    means: NDArray[np.float64] = error.reshape(rows, side, columns, side).mean(axis=(1, 3))
    return means


def _crop(
    path: Path,
    reference: Reference,
    enlarged: Mapping[str, NDArray[np.uint8]],
    x: int,
    y: int,
    side: int,
    gain: float,
) -> Crop:
    scale = reference.truth.shape[0] // reference.source.shape[0]
    square = np.s_[y : y + side, x : x + side]
    return Crop(
        label=f"{path.parent.name}/{path.name}",
        x=x,
        y=y,
        gain=gain,
        overview=_overview(reference.truth, x, y, side),
        truth=reference.truth[square].copy(),
        source=reference.source[y // scale : (y + side) // scale, x // scale : (x + side) // scale].copy(),
        enlarged={name: pixels[square].copy() for name, pixels in enlarged.items()},
    )


def _overview(truth: NDArray[np.uint8], x: int, y: int, side: int) -> NDArray[np.uint8]:
    """Return a thumbnail of at most 300 pixels a side, the crop framed in black and white."""
    thumbnail = Image.fromarray(truth)
    thumbnail.thumbnail((_OVERVIEW, _OVERVIEW), Image.Resampling.BICUBIC)
    small = np.array(thumbnail)
    ratio = small.shape[1] / truth.shape[1]
    for inset, colour in ((0, 0), (1, 255)):
        left, top = (round(start * ratio) + inset for start in (x, y))
        right = min(round((x + side) * ratio), small.shape[1]) - 1 - inset
        bottom = min(round((y + side) * ratio), small.shape[0]) - 1 - inset
        small[[top, bottom], left : right + 1] = colour
        small[top : bottom + 1, [left, right]] = colour
    return small
