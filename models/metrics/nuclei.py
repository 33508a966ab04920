"""Agreement of nuclei detected in an enlarged image and in the truth, with centroids matched one to one.

Detector: haematoxylin by colour deconvolution (Ruifrok and Johnston 2001), smoothing, Otsu's threshold, and a watershed
on the distance transform to separate touching nuclei. It is less accurate than a trained detector, but deterministic
and without weights.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy
import skimage  # loads its submodules lazily
from numpy.typing import NDArray

MATCH_UM = 3.0
"""Greatest distance of matched centroids: about the radius of a nucleus."""

_SMOOTHING_UM = 0.75
_MIN_DISTANCE_UM = 3.0
_MIN_AREA_UM2 = 10.0
"""Lymphocytes, the smallest common nuclei, have about 30 µm²."""
_MIN_HAEMATOXYLIN = 0.012
"""In scikit-image's haematoxylin channel: grey-blue glass is below, the palest nuclei of five H&E sets are above."""
_MAX_HAEMATOXYLIN = 0.2
"""Darker pixels than any nucleus, such as ink, are clipped: they would raise Otsu's threshold."""


@dataclass(frozen=True, slots=True)
class NucleusAgreement:
    """Agreement of the nuclei of two images.

    Attributes
    ----------
    count, truth_count
        Nuclei detected in each image.
    f1
        2 matched / (count + truth_count), 0 to 1; NaN if neither image has any.
    """

    count: int
    truth_count: int
    f1: float


def nuclei(image: NDArray[np.uint8], mpp: float) -> NDArray[np.float64]:
    """Detect nuclei in an image, uint8 (h, w, 3) of `mpp` µm per pixel: centroids (n, 2), row and column in pixels."""
    if min(image.shape[:2]) < 2:
        return np.empty((0, 2))
    stain = skimage.filters.gaussian(
        skimage.color.rgb2hed(image)[..., 0].clip(0, _MAX_HAEMATOXYLIN), _SMOOTHING_UM / mpp
    )
    if float(np.ptp(stain)) == 0:
        return np.empty((0, 2))
    inside = stain > max(float(skimage.filters.threshold_otsu(stain)), _MIN_HAEMATOXYLIN)
    depth = skimage.filters.gaussian(scipy.ndimage.distance_transform_edt(inside), _SMOOTHING_UM / mpp)
    peaks = skimage.feature.peak_local_max(
        depth,
        min_distance=max(1, round(_MIN_DISTANCE_UM / mpp)),
        labels=skimage.measure.label(inside),
        exclude_border=False,
    )
    markers = np.zeros(inside.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    regions = skimage.measure.regionprops(skimage.segmentation.watershed(-depth, markers, mask=inside))
    return np.array([one.centroid for one in regions if one.area * mpp**2 >= _MIN_AREA_UM2]).reshape(-1, 2)


def nucleus_agreement(detected: NDArray[np.float64], truth: NDArray[np.float64], mpp: float) -> NucleusAgreement:
    """Match centroids (n, 2) and (m, 2), in pixels of `mpp` µm, to the most one-to-one pairs within 3 µm."""
    if not len(detected) + len(truth):
        return NucleusAgreement(0, 0, math.nan)
    matched = _count_matches(detected, truth, MATCH_UM / mpp) if len(detected) and len(truth) else 0
    return NucleusAgreement(len(detected), len(truth), 2 * matched / (len(detected) + len(truth)))


def _count_matches(detected: NDArray[np.float64], truth: NDArray[np.float64], max_distance: float) -> int:
    near = scipy.spatial.KDTree(detected).query_ball_tree(scipy.spatial.KDTree(truth), max_distance)
    rows = np.repeat(np.arange(len(detected)), [len(ones) for ones in near])
    columns = np.array([column for ones in near for column in ones], np.int64)
    graph = scipy.sparse.csr_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(len(detected), len(truth)))
    return int((scipy.sparse.csgraph.maximum_bipartite_matching(graph) >= 0).sum())
