"""Whether nuclei stay where they are: a classical detector on both images, centroids matched one to one.

Haematoxylin by colour deconvolution (Ruifrok and Johnston 2001), smoothed, cut at Otsu's threshold, touching nuclei
parted by a watershed on the distance to their border. It is no match for a trained detector; it is the same on both
images, needs no weights, and knows no chance.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy
import skimage  # as SciPy, it loads its parts at their first use
from numpy.typing import NDArray

MATCH_UM = 3.0
"""Centroids within that distance are one nucleus: about its radius."""

_SMOOTHING_UM = 0.75
_APART_UM = 3.0
_LEAST_AREA_UM2 = 10.0
"""A lymphocyte's nucleus, the smallest there is in numbers, has about 30 µm²."""
_LEAST_HAEMATOXYLIN = 0.012
"""Of scikit-image's haematoxylin channel: grey-blue glass stays below, the palest nuclei of five H&E sets above."""
_INK = 0.2
"""What is darker than any nucleus must not pull Otsu's threshold up."""


@dataclass(frozen=True, slots=True)
class NucleusAgreement:
    """Nuclei of one image against another's.

    Attributes
    ----------
    count, truth_count
        Nuclei found in each.
    f1
        2 matched / (count + truth_count), 0 to 1; NaN where neither image has any.
    """

    count: int
    truth_count: int
    f1: float


def nuclei(image: NDArray[np.uint8], mpp: float) -> NDArray[np.float64]:
    """Centroids of nuclei in an image, uint8 (h, w, 3) of `mpp` µm per pixel: (n, 2) as row, column in pixels."""
    if min(image.shape[:2]) < 2:
        return np.empty((0, 2))
    stain = skimage.filters.gaussian(skimage.color.rgb2hed(image)[..., 0].clip(0, _INK), _SMOOTHING_UM / mpp)
    if float(np.ptp(stain)) == 0:
        return np.empty((0, 2))
    inside = stain > max(float(skimage.filters.threshold_otsu(stain)), _LEAST_HAEMATOXYLIN)
    depth = skimage.filters.gaussian(scipy.ndimage.distance_transform_edt(inside), _SMOOTHING_UM / mpp)
    peaks = skimage.feature.peak_local_max(
        depth, min_distance=max(1, round(_APART_UM / mpp)), labels=skimage.measure.label(inside), exclude_border=False
    )
    markers = np.zeros(inside.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    found = skimage.measure.regionprops(skimage.segmentation.watershed(-depth, markers, mask=inside))
    return np.array([one.centroid for one in found if one.area * mpp**2 >= _LEAST_AREA_UM2]).reshape(-1, 2)


def nucleus_agreement(found: NDArray[np.float64], truth: NDArray[np.float64], mpp: float) -> NucleusAgreement:
    """Compare centroids (n, 2) and (m, 2) in pixels of `mpp` µm: the most pairs within 3 µm, each in one pair."""
    if not len(found) + len(truth):
        return NucleusAgreement(0, 0, math.nan)
    matched = _matched(found, truth, MATCH_UM / mpp) if len(found) and len(truth) else 0
    return NucleusAgreement(len(found), len(truth), 2 * matched / (len(found) + len(truth)))


def _matched(found: NDArray[np.float64], truth: NDArray[np.float64], reach: float) -> int:
    near = scipy.spatial.KDTree(found).query_ball_tree(scipy.spatial.KDTree(truth), reach)
    rows = np.repeat(np.arange(len(found)), [len(ones) for ones in near])
    columns = np.array([column for ones in near for column in ones], np.int64)
    graph = scipy.sparse.csr_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(len(found), len(truth)))
    return int((scipy.sparse.csgraph.maximum_bipartite_matching(graph) >= 0).sum())
