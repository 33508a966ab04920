"""Detection and matching of nuclei in synthetic images."""

import math

import numpy as np
import pytest

from slidelift.models.metrics.nuclei import nuclei, nucleus_agreement

MPP = 0.25
CENTRES = [(40, 40), (40, 120), (60, 180), (120, 50), (130, 140), (180, 100), (185, 185)]


def tissue(centres=CENTRES, radius: float = 12, side: int = 220) -> np.ndarray:
    """Blue-violet discs of 6 µm on pink."""
    y, x = np.mgrid[:side, :side]
    image = np.full((side, side, 3), (232, 190, 214), np.uint8)
    for row, column in centres:
        image[(y - row) ** 2 + (x - column) ** 2 <= radius**2] = (95, 60, 140)
    return image


def test_nuclei_are_detected_at_their_centres():
    detected = nuclei(tissue(), MPP)
    assert np.abs(detected[np.lexsort(detected.T[::-1])] - np.array(CENTRES)).max() < 1.5


def test_touching_nuclei_are_separated():
    detected = nuclei(tissue([(100, 90), (100, 111)]), MPP)
    assert len(detected) == 2
    assert np.abs(detected[:, 0] - 100).max() < 2


def test_minimum_area_depends_on_the_pixel_size():
    # about 254 pixels: 15.9 µm² at 0.25 µm, 2.5 µm² at 0.1 µm
    assert len(nuclei(tissue(radius=9), MPP)) == len(CENTRES)
    assert len(nuclei(tissue(radius=9), 0.1)) == 0


@pytest.mark.parametrize("image", [tissue([]), np.full((50, 50, 3), 250, np.uint8), np.zeros((1, 9, 3), np.uint8)])
def test_image_without_nuclei_has_none(image):
    assert nuclei(image, MPP).shape == (0, 2)


def test_noise_on_glass_has_no_nuclei():
    glass = np.random.default_rng(0).normal(240, 4, (200, 200, 3)).clip(0, 255).astype(np.uint8)
    assert len(nuclei(glass, MPP)) == 0


def test_f1_of_identical_and_of_empty_images():
    detected, none = nuclei(tissue(), MPP), np.empty((0, 2))
    assert nucleus_agreement(detected, detected, MPP).f1 == 1
    assert nucleus_agreement(none, detected, MPP).f1 == 0
    assert nucleus_agreement(detected, none, MPP).f1 == 0
    assert math.isnan(nucleus_agreement(none, none, MPP).f1)


def test_f1_by_hand():
    truth = np.array([[0, 0], [0, 100], [0, 200]], np.float64)
    detected = np.array([[0, 11], [0, 112], [0, 113], [0, 0.5]], np.float64)
    # 12 pixels are 3 µm: the second matches at 12, the third at 13 does not, the first and last fight for (0, 0)
    agreement = nucleus_agreement(detected, truth, MPP)
    assert (agreement.count, agreement.truth_count) == (4, 3)
    assert agreement.f1 == pytest.approx(2 * 2 / (4 + 3))


def test_matching_has_the_most_pairs():
    # the nearest pair is (8, 10); taking it leaves the others without a partner within 12 pixels
    detected, truth = np.array([[0.0, 8], [0, 21]]), np.array([[0.0, 0], [0, 10]])
    assert nucleus_agreement(detected, truth, MPP).f1 == 1
