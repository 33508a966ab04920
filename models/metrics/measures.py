"""Table of all measures of an enlarged image against its truth."""

import math
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from slidelift.models.metrics.consistency import downscale_consistency
from slidelift.models.metrics.fidelity import mse, psnr_rgb, psnr_y, rrmse, ssim_rgb, ssim_y
from slidelift.models.metrics.nuclei import nuclei, nucleus_agreement
from slidelift.models.metrics.reduction import Reduction, bicubic
from slidelift.models.metrics.region import region_ssim
from slidelift.models.metrics.stain import StainVectors, stain_angles, stain_vectors
from slidelift.models.metrics.structural import ms_ssim, qilv


@dataclass(frozen=True, slots=True)
class Measure:
    """Description of a measure.

    Attributes
    ----------
    name, title
        Key in data, and heading.
    unit
        Empty for shares and indices.
    higher_is_better
        None if neither is better, such as for a count.
    digits
        Decimals.
    explanation
        Sentence for reports.
    """

    name: str
    title: str
    unit: str
    higher_is_better: bool | None
    digits: int
    explanation: str


MEASURES = (
    Measure("psnr_y", "PSNR-Y", "dB", True, 2, "Peak signal-to-noise ratio of BT.601 luma, whole image."),
    Measure("ssim_y", "SSIM-Y", "", True, 4, "Structural similarity of luma, 11x11 Gaussian window, sigma 1.5."),
    Measure("psnr_rgb", "PSNR-RGB", "dB", True, 2, "Peak signal-to-noise ratio over the three channels."),
    Measure("ssim_rgb", "SSIM-RGB", "", True, 4, "Mean of the three channels' structural similarity."),
    Measure("mse", "MSE", "", False, 1, "Mean squared error over RGB, in squared grey levels."),
    Measure("rrmse", "RRMSE", "", False, 4, "Root of the squared error relative to the truth's norm, over RGB."),
    Measure("ms_ssim", "MS-SSIM", "", True, 4, "Structural similarity at five scales; sensitive to noise."),
    Measure("qilv", "QILV", "", True, 4, "Similarity of the maps of local variance; sensitive to blur."),
    Measure("consistency", "consistency", "dB", True, 2, "PSNR between the reduced result and the source."),
    Measure("ssim_inside", "SSIM inside", "", True, 4, "SSIM-Y of the windows inside the mask."),
    Measure("ssim_outside", "SSIM outside", "", True, 4, "SSIM-Y of the windows outside the mask."),
    Measure("stain_angle_h", "angle of H", "°", False, 2, "Angle between the haematoxylin vectors (Macenko)."),
    Measure("stain_angle_e", "angle of E", "°", False, 2, "Angle between the eosin vectors (Macenko)."),
    Measure("nuclei_f1", "nuclei F1", "", True, 3, "Nuclei of a classical detector matched within 3 µm."),
    Measure("nuclei_count", "nuclei", "", None, 0, "Nuclei detected in the enlarged image."),
    Measure("nuclei_truth", "nuclei of truth", "", None, 0, "Nuclei detected in the truth."),
    Measure("seconds_per_megapixel", "time", "s/Mpx", False, 3, "Seconds per million pixels of the result."),
)
"""All measures, in the order of reports."""


@dataclass(frozen=True)
class Reference:
    """Truth and source of an enlarged image, with cached intermediate results.

    Attributes
    ----------
    truth, source
        uint8 (scale*h, scale*w, 3) and (h, w, 3).
    mask
        bool (scale*h, scale*w) or None.
    mpp
        µm per pixel of the truth.
    reduction
        The reduction that made the source.
    """

    truth: NDArray[np.uint8]
    source: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None = None
    mpp: float = 0.25
    reduction: Reduction = field(default=bicubic)

    @cached_property
    def stains(self) -> StainVectors | None:
        """Stain vectors of the truth."""
        return stain_vectors(self.truth)

    @cached_property
    def nuclei(self) -> NDArray[np.float64]:
        """Nuclei of the truth."""
        return nuclei(self.truth, self.mpp)


def measure(image: NDArray[np.uint8], reference: Reference, measures: Container[str] | None = None) -> dict[str, float]:
    """Compute measures of an enlarged image, by name; NaN for those undefined for this image.

    Parameters
    ----------
    measures
        Names of `MEASURES` to compute; None for all but the time.
    """
    values: dict[str, float] = {}
    for names, compute in _GROUPS:
        if measures is None or any(name in measures for name in names):
            values |= compute(image, reference)
    return values if measures is None else {name: value for name, value in values.items() if name in measures}


def _structure(image: NDArray[np.uint8], reference: Reference) -> dict[str, float]:
    return {"ms_ssim": ms_ssim(image, reference.truth), "qilv": qilv(image, reference.truth)}


def _errors(image: NDArray[np.uint8], reference: Reference) -> dict[str, float]:
    truth = reference.truth
    return {
        "psnr_rgb": psnr_rgb(image, truth),
        "ssim_rgb": ssim_rgb(image, truth),
        "mse": mse(image, truth),
        "rrmse": rrmse(image, truth),
    }


def _consistency(image: NDArray[np.uint8], reference: Reference) -> dict[str, float]:
    return {"consistency": downscale_consistency(image, reference.source, reference.reduction)}


def _masked(image: NDArray[np.uint8], reference: Reference) -> dict[str, float]:
    if reference.mask is None:
        return {}
    region = region_ssim(image, reference.truth, reference.mask)
    return {"ssim_inside": region.inside, "ssim_outside": region.outside}


def _stains(image: NDArray[np.uint8], reference: Reference) -> dict[str, float]:
    angles = stain_angles(stain_vectors(image), reference.stains)
    return {
        "stain_angle_h": angles.haematoxylin if angles else math.nan,
        "stain_angle_e": angles.eosin if angles else math.nan,
    }


def _nuclei(image: NDArray[np.uint8], reference: Reference) -> dict[str, float]:
    agreement = nucleus_agreement(nuclei(image, reference.mpp), reference.nuclei, reference.mpp)
    return {
        "nuclei_f1": agreement.f1,
        "nuclei_count": float(agreement.count),
        "nuclei_truth": float(agreement.truth_count),
    }


_GROUPS: tuple[tuple[tuple[str, ...], Callable[[NDArray[np.uint8], Reference], dict[str, float]]], ...] = (
    (("psnr_y",), lambda image, reference: {"psnr_y": psnr_y(image, reference.truth)}),
    (("ssim_y",), lambda image, reference: {"ssim_y": ssim_y(image, reference.truth)}),
    (("psnr_rgb", "ssim_rgb", "mse", "rrmse"), _errors),
    (("ms_ssim", "qilv"), _structure),
    (("consistency",), _consistency),
    (("ssim_inside", "ssim_outside"), _masked),
    (("stain_angle_h", "stain_angle_e"), _stains),
    (("nuclei_f1", "nuclei_count", "nuclei_truth"), _nuclei),
)
"""Groups of measures that are computed together."""
