"""Recommended model for slides of all kinds, without importing torch."""

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidelift.models.zoo.catalog import ModelKind, catalog
from slidelift.models.zoo.expectation import expected_gain, measured_qualities
from slidelift.service.pipeline.options import Effort
from slidelift.service.pipeline.recommendation import recommend
from slidelift.wsi.errors import PixelSizeImplausibleError, PixelSizeMissingError
from slidelift.wsi.geometry import Size
from slidelift.wsi.slide import Codec, Compression, Level, SlideInfo

LOSSLESS = Compression(Codec.LOSSLESS)


def slide(mpp: float | None, downsamples: tuple[float, ...] = (1.0, 4.0, 16.0), compression=LOSSLESS) -> SlideInfo:
    levels = tuple(Level(Size(int(40000 / d), int(30000 / d)), d) for d in downsamples)
    size = None if mpp is None else (mpp, mpp)
    return SlideInfo("a slide", "test", levels, size, None, None, compression=compression)


@pytest.mark.parametrize(
    ("mpp", "effort", "model"),
    [
        (1.0, Effort.BALANCED, "compact-x4"),
        (1.0, Effort.FAST, "compact-x4-fast"),
        (1.0, Effort.BEST, "realesrgan-x4"),
        (2.0, Effort.BALANCED, "compact-x4"),
        (0.8, Effort.BALANCED, "compact-x4"),
        (0.5, Effort.BALANCED, "compact-x2"),
        (0.5, Effort.FAST, "compact-x2"),
        (0.499, Effort.BEST, "compact-x2"),
    ],
)
def test_the_model_fits_the_slides_resolution_and_the_effort(mpp, effort, model):
    answer = recommend(slide(mpp), effort=effort)
    assert (answer.model, answer.level, answer.mpp) == (model, 0, pytest.approx(mpp / catalog()[model].default_scale))
    assert model in answer.reason
    assert answer.warnings == ()


@pytest.mark.parametrize("mpp", [0.25, 0.23, 0.35])
def test_a_slide_as_fine_as_a_result_would_be_has_little_to_gain(mpp):
    """Also if a coarser level suits a model, since its result would equal level 0."""
    answer = recommend(slide(mpp))
    assert answer.model is None
    assert "already as fine as a model would make it: little to gain" in answer.reason


def test_no_model_for_a_target_resolution_that_the_slide_already_has():
    answer = recommend(slide(0.25), target_mpp=0.25)
    assert answer.model is None
    assert "as fine as the requested 0.25" in answer.reason


def test_the_finest_level_that_reaches_the_target_resolution_is_chosen():
    """0.25 µm per pixel from 0.5 by x2, not from 1.0 by x4."""
    answer = recommend(slide(0.5, (1.0, 2.0, 8.0)), target_mpp=0.25)
    assert (answer.model, answer.level, answer.scale) == ("compact-x2", 0, 2)


def test_an_unreachable_target_resolution_lists_the_reachable_ones():
    answer = recommend(slide(1.0, (1.0,)), target_mpp=0.33)
    assert answer.model is None
    assert "within reach: 0.25, 0.5" in answer.reason


def test_a_chosen_level_is_kept():
    answer = recommend(slide(0.5, (1.0, 4.0)), level=1)
    assert answer.model is None  # 2 µm per pixel enlarged x4 equals level 0
    assert recommend(slide(0.5, (1.0, 2.0)), level=0).level == 0


def test_a_slide_coarser_than_any_training_gets_the_nearest_model():
    assert recommend(slide(3.0, (1.0,))).model == "compact-x4"


def test_no_model_for_fluorescence():
    answer = recommend(slide(0.5), is_dark=True)
    assert answer.model is None
    assert "fluorescence" in answer.reason


def test_fast_equals_balanced_on_a_gpu():
    assert recommend(slide(1.0), effort=Effort.FAST, device="cuda").model == "compact-x4"


def test_an_unknown_or_implausible_pixel_size_is_refused():
    with pytest.raises(PixelSizeMissingError):
        recommend(slide(None))
    with pytest.raises(PixelSizeImplausibleError):
        recommend(slide(0.00499))
    assert recommend(slide(None), mpp=1.0).model == "compact-x4"


def test_a_source_compressed_more_strongly_than_measured_gets_a_warning():
    least = measured_qualities(catalog()["compact-x4"].gains)[0]
    within = recommend(slide(1.0, compression=Compression(Codec.JPEG, least, "4:2:0")))
    beyond = recommend(slide(1.0, compression=Compression(Codec.JPEG, least - 5, "4:2:0")))
    assert within.warnings == ()
    [warning] = beyond.warnings
    assert f"quality {least - 5}" in warning
    assert f"down to quality {least}" in warning


@pytest.mark.parametrize("compression", [None, Compression(Codec.JPEG_2000)])
def test_an_unknown_compression_gets_a_warning(compression):
    [warning] = recommend(slide(1.0, compression=compression)).warnings
    assert "not known" in warning


def test_a_model_no_better_than_bicubic_at_the_slides_quality_is_not_recommended():
    worse = replace(catalog()["compact-x4"], gains={"a set": {"none": 2.0, "Q70": 0.3, "Q30": -0.2}})
    by_quality = {
        quality: recommend(slide(1.0, compression=Compression(Codec.JPEG, quality, "4:2:0")), cards=[worse])
        for quality in (30, 69, 70, 95)
    }
    assert [answer.model for answer in by_quality.values()] == [None, None, "compact-x4", "compact-x4"]
    assert "No model measured better than bicubic" in by_quality[30].reason
    assert "+0.30 dB" in by_quality[95].reason  # the next lower measured quality


def test_best_is_the_model_that_measured_best_on_sources_compressed_like_the_slide():
    large = replace(catalog()["realesrgan-x4"], gains={"a": {"none": 1.6, "Q80": 0.28}})
    usual = replace(catalog()["compact-x4"], gains={"a": {"none": 1.4, "Q80": 0.32}})
    clean, compressed = slide(1.0), slide(1.0, compression=Compression(Codec.JPEG, 80, "4:2:0"))
    best = {
        name: recommend(info, effort=Effort.BEST, cards=[large, usual]).model
        for name, info in (("clean", clean), ("compressed", compressed))
    }
    assert best == {"clean": "realesrgan-x4", "compressed": "compact-x4"}
    assert recommend(clean, cards=[large, usual]).model == "compact-x4"


def test_the_expectation_spans_the_sets():
    card = replace(catalog()["compact-x4"], gains={"a": {"none": 2.0, "Q80": 1.0}, "b": {"none": 1.5, "Q80": 0.3}})
    found = expected_gain(card, 85)
    assert found is not None
    assert (found.quality, found.least, found.greatest, found.beyond) == (80, 0.3, 1.0, False)
    assert found.text == "+0.30 to +1.00 dB PSNR against bicubic, measured on held-out sources at JPEG quality 80"
    assert expected_gain(card, 50).beyond
    assert expected_gain(card, None).least == 1.5
    assert expected_gain(replace(card, gains={}), 50) is None


@given(
    mpp=st.floats(0.06, 19),
    downsamples=st.lists(st.floats(1.5, 8), max_size=3),
    target=st.none() | st.floats(0.02, 19),
    effort=st.sampled_from(Effort),
    quality=st.integers(1, 100),
)
def test_a_recommendation_is_a_network_and_finer_than_the_slide(mpp, downsamples, target, effort, quality):
    levels = [1.0]
    for step in downsamples:
        levels.append(levels[-1] * step)
    info = slide(mpp, tuple(levels), Compression(Codec.JPEG, quality, "4:2:0"))
    answer = recommend(info, target_mpp=target, effort=effort)
    assert answer.reason
    if answer.model is None:
        assert (answer.level, answer.scale, answer.mpp) == (None, None, None)
        return
    assert catalog()[answer.model].kind is ModelKind.NETWORK
    assert answer.mpp < mpp
    assert answer.mpp == pytest.approx(mpp * levels[answer.level] / answer.scale)
    if target is not None:
        assert abs(answer.mpp / target - 1) <= 0.05


def test_recommending_imports_no_torch_and_no_decoder():
    code = "import sys; import slidelift.service.pipeline.recommendation; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"torch", "openslide", "tifffile", "PIL"} & set(run.stdout.split())
