"""Change of stain colours: angles between the haematoxylin and eosin vectors of two images.

Macenko et al., A method for normalizing histology slides for quantitative analysis, ISBI 2009: the stain vectors are
the extreme directions in the plane of the optical densities' two largest principal components.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LEAST_DENSITY = 0.15
"""Optical density below which a pixel is glass (Macenko's beta)."""
_EXTREME = 1.0
"""Percentile of the extreme directions (Macenko's alpha)."""
_LEAST_PIXELS = 500
_LEAST_SHARE = 0.01
_LEAST_SPREAD_DEGREES = 2.0
"""Closer directions are those of a single stain with noise."""


@dataclass(frozen=True, slots=True)
class StainVectors:
    """Unit vectors of optical density along R, G, B, each (3,)."""

    haematoxylin: NDArray[np.float64]
    eosin: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StainAngles:
    """Degrees between the vectors of two images."""

    haematoxylin: float
    eosin: float


def stain_vectors(image: NDArray[np.uint8]) -> StainVectors | None:
    """Estimate the stain vectors of an image, uint8 (h, w, 3); None with too little tissue or only one stain.

    Optical density is -log10((I + 1) / 256); pixels of a magnitude below 0.15 are ignored.
    """
    density = -np.log10((image.reshape(-1, 3).astype(np.float64) + 1) / 256)
    density = density[np.linalg.norm(density, axis=1) >= _LEAST_DENSITY]
    if len(density) < max(_LEAST_PIXELS, _LEAST_SHARE * image.shape[0] * image.shape[1]):
        return None
    _, vectors = np.linalg.eigh(np.cov(density, rowvar=False))
    plane = vectors[:, [2, 1]]  # eigenvectors of the two largest eigenvalues
    plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)
    across = density @ plane
    angles = np.arctan2(across[:, 1], across[:, 0])
    low, high = np.percentile(angles, [_EXTREME, 100 - _EXTREME])
    if np.degrees(high - low) < _LEAST_SPREAD_DEGREES:
        return None
    first, second = (plane @ np.array([np.cos(angle), np.sin(angle)]) for angle in (low, high))
    # haematoxylin absorbs red light, eosin transmits it
    return StainVectors(first, second) if first[0] > second[0] else StainVectors(second, first)


def stain_angles(image: StainVectors | None, truth: StainVectors | None) -> StainAngles | None:
    """Return the angles between two images' stain vectors in degrees; None if either image has none."""
    if image is None or truth is None:
        return None
    return StainAngles(_degrees(image.haematoxylin, truth.haematoxylin), _degrees(image.eosin, truth.eosin))


def _degrees(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    # arctan2, since arccos near 1 loses half the digits
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(first, second)), first @ second)))
