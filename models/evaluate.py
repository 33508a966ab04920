"""Evaluation of models and bicubic on held-out images.

Each folder is a set. Its images are cropped from the top left to a multiple of the scale, reduced to sources
(`models.metrics.source`; the measuring convention is Pillow's antialiased bicubic), enlarged by every model, and
compared (`models.metrics.measures`). A set is measured once for each kind of source, such as a JPEG quality.

`as_json` returns, and `slidelift evaluate` writes:

    schema        "slidelift-evaluation/2"
    scale, mpp
    computed_on   {processor, cores, torch, models: name -> {device, precision}}
    measures      name -> {title, unit, higher_is_better, explanation}
    sets          name -> {source: {reduction, defocus, noise, quality, sampling, tables}, files: [name],
                    models: name -> {
                      values:  measure -> [value of each file; null if undefined or infinite],
                      summary: measure -> {images, mean, median, p5, p95},
                      gain:    measure -> the same for the differences to bicubic on the same image,
                      panel:   measure -> figure for a model's card}}

Statistics are over the `images` with a value; they are null if there are none. An infinite PSNR (equal images) is null,
with an `mse` of 0.
"""

import math
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidelift.models import hardware
from slidelift.models.errors import ImagesError
from slidelift.models.image_files import read_rgb
from slidelift.models.metrics.measures import MEASURES, Reference, measure
from slidelift.models.metrics.source import SourceModel
from slidelift.models.upscaler import PatchUpscaler

BASELINE = "bicubic"
DEFAULT_MPP = 0.25
"""µm per pixel of a 40x scan, as in the evaluation sets."""
CLEAN = SourceModel()
"""The measuring convention: reduced by Pillow's bicubic, uncompressed."""

Enlarged = Mapping[str, NDArray[np.uint8]]
ImageCallback = Callable[[Path, Reference, Enlarged], None]


@dataclass(frozen=True, slots=True)
class Summary:
    """Statistics over a set's images with a finite value; NaN if there are none."""

    images: int
    mean: float
    median: float
    p5: float
    p95: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Summary":
        """Summarise the finite values."""
        finite = [value for value in values if math.isfinite(value)]
        if not finite:
            return cls(0, *[math.nan] * 4)
        p5, median, p95 = np.percentile(finite, [5, 50, 95])
        return cls(len(finite), float(np.mean(finite)), float(median), float(p5), float(p95))


@dataclass(frozen=True)
class ModelScores:
    """Scores of a model on a set.

    Attributes
    ----------
    values, baseline
        Measure -> values of the images in the order of the files, for this model and for bicubic.
    """

    values: Mapping[str, tuple[float, ...]]
    baseline: Mapping[str, tuple[float, ...]]

    @cached_property
    def summary(self) -> dict[str, Summary]:
        """Measure -> statistics of `values`."""
        return {name: Summary.of(values) for name, values in self.values.items()}

    @cached_property
    def gains(self) -> dict[str, tuple[float, ...]]:
        """Measure -> differences to bicubic on the same image."""
        return {
            name: tuple(a - b for a, b in zip(values, self.baseline[name], strict=True))
            for name, values in self.values.items()
        }

    @cached_property
    def gain(self) -> dict[str, Summary]:
        """Measure -> statistics of `gains`."""
        return {name: Summary.of(values) for name, values in self.gains.items()}


@dataclass(frozen=True, slots=True)
class SetScores:
    """Scores of all models on a set with one kind of source; `files` are the images' names."""

    source: SourceModel
    files: tuple[str, ...]
    models: Mapping[str, ModelScores]


def read_mask(folder: Path, image: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Read the mask STEM.png of an image: bool (h, w), True where the file is not zero.

    Raises
    ------
    ImagesError
        If there is none, or its size differs from the image's.
    """
    path = folder / f"{image.stem}.png"
    mask = read_rgb(path).any(axis=2)
    if mask.shape != shape:
        raise ImagesError(f"{path}: {mask.shape[1]}x{mask.shape[0]} px; {image.name} has {shape[1]}x{shape[0]}")
    return mask


def upscale_image(upscaler: PatchUpscaler, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Enlarge a small image (h, w, 3) as one patch, its border mirrored as for slides."""
    halo, scale = upscaler.halo, upscaler.scale
    height, width, _ = image.shape
    padded = np.pad(image, ((halo, halo), (halo, halo), (0, 0)), mode="symmetric")
    top = halo * scale
    core = upscaler(padded[None])[0, top : top + height * scale, top : top + width * scale]
    return np.rint(core).clip(0, 255).astype(np.uint8)


def reference(
    path: Path, scale: int, *, source: SourceModel = CLEAN, masks: Path | None = None, mpp: float = DEFAULT_MPP
) -> Reference:
    """Read an image and make its source, for comparison with enlargements of that source.

    Raises
    ------
    ImagesError
        If the image or its mask can't be used.
    """
    whole = read_rgb(path)
    if min(whole.shape[:2]) < scale:
        raise ImagesError(f"{path}: {whole.shape[1]}x{whole.shape[0]} px are too few to be reduced by {scale}")
    mask = None if masks is None else read_mask(masks, path, whole.shape[:2])
    height, width = (side - side % scale for side in whole.shape[:2])
    truth = whole[:height, :width]
    if mask is not None:
        mask = mask[:height, :width]
    return Reference(truth, source(truth, scale), mask, mpp, source.reduce)


def evaluate(
    upscalers: Mapping[str, PatchUpscaler],
    files: Sequence[Path],
    scale: int,
    *,
    source: SourceModel = CLEAN,
    masks: Path | None = None,
    mpp: float = DEFAULT_MPP,
    measures: Container[str] | None = None,
    on_image: ImageCallback = lambda _path, _reference, _enlarged: None,
) -> SetScores:
    """Score every model on a set, with one image in memory at a time.

    Parameters
    ----------
    upscalers
        By the name to report; must include `BASELINE`.
    source
        Makes sources of the images.
    masks
        Folder with a PNG of each image's stem and size, nonzero inside.
    mpp
        µm per pixel of the images.
    measures
        Measures to compute besides the time; None for all.
    on_image
        Called with each image's path, its reference and all enlargements.

    Raises
    ------
    ImagesError
        If an image or its mask can't be used.
    """
    values: dict[str, dict[str, list[float]]] = {name: {} for name in upscalers}
    for path in files:
        compared = reference(path, scale, source=source, masks=masks, mpp=mpp)
        enlarged = {}
        for name, upscaler in upscalers.items():
            if path == files[0]:
                upscale_image(upscaler, compared.source[:64, :64])  # warm-up, not timed
            enlarged[name], figures = _measure_timed(upscaler, compared, measures)
            for figure, value in figures.items():
                values[name].setdefault(figure, []).append(value)
        on_image(path, compared, enlarged)
    frozen = {name: {figure: tuple(one) for figure, one in figures.items()} for name, figures in values.items()}
    models = {name: ModelScores(figures, frozen[BASELINE]) for name, figures in frozen.items()}
    return SetScores(source, tuple(path.name for path in files), models)


def _measure_timed(
    upscaler: PatchUpscaler, compared: Reference, measures: Container[str] | None
) -> tuple[NDArray[np.uint8], dict[str, float]]:
    started = time.perf_counter()
    enlarged = upscale_image(upscaler, compared.source)
    seconds = time.perf_counter() - started
    figures = measure(enlarged, compared, measures)
    figures["seconds_per_megapixel"] = seconds / (compared.truth[..., 0].size / 1e6)
    return enlarged, figures


def card_metrics(scores: ModelScores) -> dict[str, float]:
    """Return the figures of a set for a model's card, rounded.

    Means, except `consistency_p5` (5th percentile) and `stain_angle` (the greater of both means). A measure without
    values is left out.
    """
    digits = {one.name: one.digits for one in MEASURES}
    summary, gain = scores.summary, scores.gain
    by_mean = ("psnr_y", "ssim_y", "psnr_rgb", "ms_ssim", "qilv", "rrmse", "nuclei_f1", "seconds_per_megapixel")
    figures = {name: round(summary[name].mean, digits[name]) for name in by_mean}
    figures |= {f"{name}_gain": round(gain[name].mean, digits[name]) for name in ("psnr_y", "ssim_y")}
    figures["consistency_p5"] = round(summary["consistency"].p5, 2)
    figures["stain_angle"] = round(max(summary["stain_angle_h"].mean, summary["stain_angle_e"].mean), 2)
    return {name: figure for name, figure in figures.items() if math.isfinite(figure)}


def table(scores: Mapping[str, SetScores]) -> str:
    """Return means by set, source and model as a Markdown table."""
    head = "set | images | source | model | PSNR-Y, dB | SSIM-Y | gain, dB | gain, SSIM | MS-SSIM | QILV"
    head += " | consistency p5, dB | nuclei F1 | s/Mpx"
    rows = [f"| {head} |", "|---" * (head.count("|") + 1) + "|"]
    for name, set_scores in scores.items():
        label = set_scores.source.label
        for model, one in set_scores.models.items():
            mean = {figure: summary.mean for figure, summary in one.summary.items()}
            gain = one.gain
            rows.append(
                f"| {name.removesuffix(f', {label}')} | {len(set_scores.files)} | {label} | {model}"
                f" | {mean['psnr_y']:.2f}"
                f" | {mean['ssim_y']:.4f} | {gain['psnr_y'].mean:+.2f} | {gain['ssim_y'].mean:+.4f}"
                f" | {mean['ms_ssim']:.4f} | {mean['qilv']:.4f} | {one.summary['consistency'].p5:.2f}"
                f" | {mean['nuclei_f1']:.3f} | {mean['seconds_per_megapixel']:.3f} |"
            )
    return "\n".join(rows)


def as_json(
    scores: Mapping[str, SetScores], upscalers: Mapping[str, PatchUpscaler], scale: int, mpp: float
) -> dict[str, Any]:
    """Return values for JSON in the schema of this module's docstring."""
    return {
        "schema": "slidelift-evaluation/2",
        "scale": scale,
        "mpp": mpp,
        "computed_on": hardware.computed_on(upscalers),
        "measures": {
            one.name: {
                "title": one.title,
                "unit": one.unit,
                "higher_is_better": one.higher_is_better,
                "explanation": one.explanation,
            }
            for one in MEASURES
        },
        "sets": {
            name: {
                "source": set_scores.source.as_dict(),
                "files": list(set_scores.files),
                "models": {model: _plain(one) for model, one in set_scores.models.items()},
            }
            for name, set_scores in scores.items()
        },
    }


def _plain(scores: ModelScores) -> dict[str, Any]:
    return {
        "values": {name: [finite(value) for value in values] for name, values in scores.values.items()},
        "summary": {name: finite_summary(one) for name, one in scores.summary.items()},
        "gain": {name: finite_summary(one) for name, one in scores.gain.items()},
        "panel": card_metrics(scores),
    }


def finite(value: float) -> float | None:
    """Return the value, or None if it is not finite: JSON has neither NaN nor infinity."""
    return value if math.isfinite(value) else None


def finite_summary(summary: Summary) -> dict[str, float | None]:
    """Return a summary as values for JSON."""
    return {name: finite(value) for name, value in asdict(summary).items()}
