"""Tissue detection: pale tissue and fat are kept, glass is rejected."""

import numpy as np
import pytest
import skimage.measure
from PIL import Image

from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.readers.open_slide import open_slide
from slidelift.wsi.tissue import DEFAULT_ENTROPY, Survey, grey_levels, is_tissue, shannon_entropy, survey


def glass(height: int = 256, width: int = 256, noise: float = 1.2) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(rng.normal(243, noise, (height, width, 3)), 0, 255).astype(np.uint8)


def test_entropy_is_scikit_images_entropy() -> None:
    grey = grey_levels(np.random.default_rng(1).integers(0, 256, (64, 80, 3), dtype=np.uint8))
    assert shannon_entropy(grey) == pytest.approx(skimage.measure.shannon_entropy(grey))


def test_entropy_of_known_distributions() -> None:
    assert shannon_entropy(np.full((8, 8), 7, np.uint8)) == 0
    assert shannon_entropy(np.array([[0, 255], [255, 0]], np.uint8)) == 1
    assert shannon_entropy(np.arange(256, dtype=np.uint8).reshape(16, 16)) == 8


def test_noisy_glass_is_rejected() -> None:
    assert not is_tissue(glass(), DEFAULT_ENTROPY)


def test_threshold_zero_rejects_nothing() -> None:
    assert is_tissue(np.full((256, 256, 3), 243, np.uint8), 0)


def test_patch_with_a_sliver_of_tissue_is_kept() -> None:
    patch = glass()
    patch[:, :14] = np.random.default_rng(2).integers(90, 230, (256, 14, 3))
    assert is_tissue(patch, DEFAULT_ENTROPY)


def test_all_tissue_of_the_training_and_evaluation_sets_is_kept(data) -> None:
    """Including pale stroma and fat, at the scale of a 10x scan, where a patch has 256 px."""
    rejected = []
    for folder in ("train", "eval/tnbc", "eval/kumar"):
        for path in sorted((data / folder).iterdir()):
            image = Image.open(path).convert("RGB")
            small = np.asarray(image.resize((image.width // 4, image.height // 4), Image.Resampling.BICUBIC))
            for y in range(0, max(1, small.shape[0] - 127), 256):
                for x in range(0, max(1, small.shape[1] - 127), 256):
                    if not is_tissue(small[y : y + 256, x : x + 256], DEFAULT_ENTROPY):
                        rejected.append(path.name)
    assert rejected == []


def test_glass_of_a_real_slide_is_rejected(cmu) -> None:
    reader = open_slide(cmu)
    corners = [Region(0, 2600, 256, 256), Region(0, 1400, 256, 256), Region(1900, 0, 256, 256)]
    assert not any(is_tissue(reader.read_region(0, corner), DEFAULT_ENTROPY) for corner in corners)


def test_the_mask_rejects_glass_and_keeps_the_edge_of_tissue() -> None:
    picture = glass(64, 64, 0.5)
    picture[20:30, 20:32] = (180, 120, 170)
    rows = Survey(picture, (16.0, 16.0)).tissue_rows(256, 4, 4)
    assert rows == ("0000", "0110", "0000", "0000")


def test_without_bright_colourless_glass_nothing_is_rejected() -> None:
    stained = np.full((64, 64, 3), (200, 120, 180), np.uint8)
    assert Survey(stained, (16.0, 16.0)).tissue_rows(256, 4, 4) == ("1111",) * 4


def test_pale_flat_tissue_next_to_glass_is_kept() -> None:
    picture = glass(64, 64, 0.5)
    picture[:, 32:] = (232, 225, 236)
    assert Survey(picture, (16.0, 16.0)).tissue_rows(256, 4, 4)[1][2:] == "11"


def test_an_unreadable_survey_rejects_nothing(formula_reader) -> None:
    look = survey(formula_reader(Size(600, 600), broken_levels=(0,)), 0, Region(0, 0, 600, 600))
    assert look.pixels is None
    assert look.tissue_rows(256, 3, 3) == ("111",) * 3


def test_the_survey_takes_the_finest_level_that_is_small_enough(formula_reader) -> None:
    reader = formula_reader(Size(16384, 16384), (1, 4, 16))
    look = survey(reader, 0, Region(0, 0, 16384, 16384))
    assert look.pixels is not None
    assert look.pixels.shape == (1024, 1024, 3)
    assert look.per_pixel == (16.0, 16.0)


def test_fluorescence_is_dark(data) -> None:
    reader = open_slide(data / "slides" / "dapi (387).ndpi")
    assert survey(reader, 0, Region(0, 0, 3968, 4864)).is_dark()


def test_brightfield_in_a_black_frame_is_not_dark() -> None:
    framed = np.zeros((100, 100, 3), np.uint8)
    framed[:40] = glass(40, 100)
    assert not Survey(framed, (1.0, 1.0)).is_dark()
