"""Stain vectors and angles of synthetic stains."""

import numpy as np
import pytest

from slidelift.models.metrics.stain import StainVectors, stain_angles, stain_vectors

HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.07, 0.99, 0.11])


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def stained(haematoxylin: np.ndarray = HAEMATOXYLIN, eosin: np.ndarray = EOSIN, side: int = 80) -> np.ndarray:
    """Image by the Beer-Lambert law; some pixels have a single stain, so that the extremes are the stains."""
    rng = np.random.default_rng(1)
    amounts = rng.uniform(0.2, 0.8, (side, side, 2))
    amounts[: side // 4, :, 1] = 0
    amounts[-side // 4 :, :, 0] = 0
    density = amounts @ np.stack([unit(haematoxylin), unit(eosin)])
    return np.rint(256 * 10**-density - 1).clip(0, 255).astype(np.uint8)


def degrees(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(unit(first) @ unit(second), -1, 1))))


def test_vectors_of_known_stains_are_estimated():
    vectors = stain_vectors(stained())
    assert vectors is not None
    assert degrees(vectors.haematoxylin, HAEMATOXYLIN) < 1.5
    assert degrees(vectors.eosin, EOSIN) < 1.5


def test_angle_of_a_rotated_stain():
    turned = unit(EOSIN) + 0.1 * unit(HAEMATOXYLIN)
    angles = stain_angles(stain_vectors(stained(eosin=turned)), stain_vectors(stained()))
    assert angles is not None
    assert angles.eosin == pytest.approx(degrees(turned, EOSIN), abs=0.7)
    assert angles.haematoxylin < 0.7


def test_angle_of_known_vectors():
    right = StainVectors(np.array([1.0, 0, 0]), np.array([0, 1.0, 0]))
    turned = StainVectors(np.array([0, 0, 1.0]), unit(np.array([0, 1.0, 1.0])))
    angles = stain_angles(turned, right)
    assert angles is not None
    assert angles.haematoxylin == pytest.approx(90)
    assert angles.eosin == pytest.approx(45)


def test_angles_of_an_image_to_itself_are_zero():
    angles = stain_angles(stain_vectors(stained()), stain_vectors(stained()))
    assert angles is not None
    assert angles.haematoxylin == angles.eosin == 0


@pytest.mark.parametrize(
    "image",
    [
        np.full((60, 60, 3), 245, np.uint8),
        np.full((60, 60, 3), (120, 60, 140), np.uint8),
        stained(eosin=HAEMATOXYLIN),
        np.zeros((3, 3, 3), np.uint8),
    ],
    ids=["glass", "one colour", "one stain", "nine pixels"],
)
def test_no_vectors_with_too_little_tissue(image):
    assert stain_vectors(image) is None
    assert stain_angles(stain_vectors(image), stain_vectors(stained())) is None
