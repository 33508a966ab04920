"""One function recommends a model: what it answers for slides of all kinds, and that it costs no torch."""

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
    found = recommend(slide(mpp), effort=effort)
    assert (found.model, found.level, found.mpp) == (model, 0, pytest.approx(mpp / catalog()[model].default_scale))
    assert model in found.reason
    assert found.warnings == ()


@pytest.mark.parametrize("mpp", [0.25, 0.23, 0.35])
def test_a_slide_as_fine_as_the_result_would_be_has_little_to_gain(mpp):
    """Also where a coarser level fits a model: its result is what level 0 has already."""
    found = recommend(slide(mpp))
    assert found.model is None
    assert "already as fine as a model would make it: little to gain" in found.reason


def test_a_wanted_resolution_that_the_slide_has_is_not_computed():
    found = recommend(slide(0.25), target_mpp=0.25)
    assert found.model is None
    assert "as fine as the requested 0.25" in found.reason


def test_the_finest_source_that_gives_the_wanted_resolution_is_taken():
    """0.25 µm per pixel from 0.5 twice, not from 1.0 four times."""
    found = recommend(slide(0.5, (1.0, 2.0, 8.0)), target_mpp=0.25)
    assert (found.model, found.level, found.scale) == ("compact-x2", 0, 2)


def test_a_wanted_resolution_out_of_reach_names_those_within():
    found = recommend(slide(1.0, (1.0,)), target_mpp=0.33)
    assert found.model is None
    assert "within reach: 0.25, 0.5" in found.reason


def test_a_chosen_level_is_kept():
    found = recommend(slide(0.5, (1.0, 4.0)), level=1)
    assert found.model is None  # 2 µm per pixel times 4 is what level 0 has
    assert recommend(slide(0.5, (1.0, 2.0)), level=0).level == 0


def test_a_slide_coarser_than_any_training_gets_the_nearest_model():
    assert recommend(slide(3.0, (1.0,))).model == "compact-x4"


def test_fluorescence_gets_no_model():
    found = recommend(slide(0.5), is_dark=True)
    assert found.model is None
    assert "fluorescence" in found.reason


def test_a_gpu_takes_the_small_network_for_nothing():
    assert recommend(slide(1.0), effort=Effort.FAST, device="cuda").model == "compact-x4"


def test_an_unknown_or_impossible_pixel_size_is_asked_for():
    with pytest.raises(PixelSizeMissingError):
        recommend(slide(None))
    with pytest.raises(PixelSizeImplausibleError):
        recommend(slide(0.00499))
    assert recommend(slide(None), mpp=1.0).model == "compact-x4"


def test_a_source_that_is_compressed_beyond_what_was_measured_is_warned_of():
    least = measured_qualities(catalog()["compact-x4"].gains)[0]
    within = recommend(slide(1.0, compression=Compression(Codec.JPEG, least, "4:2:0")))
    beyond = recommend(slide(1.0, compression=Compression(Codec.JPEG, least - 5, "4:2:0")))
    assert within.warnings == ()
    [warning] = beyond.warnings
    assert f"quality {least - 5}" in warning
    assert f"down to quality {least}" in warning


@pytest.mark.parametrize("compression", [None, Compression(Codec.JPEG_2000)])
def test_a_compression_that_is_not_known_is_said(compression):
    [warning] = recommend(slide(1.0, compression=compression)).warnings
    assert "not known" in warning


def test_a_model_that_is_no_better_than_bicubic_at_the_slides_quality_is_not_offered():
    worse = replace(catalog()["compact-x4"], gains={"a set": {"none": 2.0, "Q70": 0.3, "Q30": -0.2}})
    at = {
        quality: recommend(slide(1.0, compression=Compression(Codec.JPEG, quality, "4:2:0")), cards=[worse])
        for quality in (30, 69, 70, 95)
    }
    assert [at[quality].model for quality in at] == [None, None, "compact-x4", "compact-x4"]
    assert "No model measured better than bicubic" in at[30].reason
    assert "+0.30 dB" in at[95].reason  # by the next lower quality that was measured


def test_the_best_is_what_measured_best_on_sources_compressed_as_the_slide_is():
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
def test_whatever_the_slide_the_answer_is_finer_than_it_and_no_interpolation(mpp, downsamples, target, effort, quality):
    levels = [1.0]
    for step in downsamples:
        levels.append(levels[-1] * step)
    info = slide(mpp, tuple(levels), Compression(Codec.JPEG, quality, "4:2:0"))
    found = recommend(info, target_mpp=target, effort=effort)
    assert found.reason
    if found.model is None:
        assert (found.level, found.scale, found.mpp) == (None, None, None)
        return
    assert catalog()[found.model].kind is ModelKind.NETWORK
    assert found.mpp < mpp
    assert found.mpp == pytest.approx(mpp * levels[found.level] / found.scale)
    if target is not None:
        assert abs(found.mpp / target - 1) <= 0.05


def test_asking_costs_no_torch_and_no_decoder():
    code = "import sys; import slidelift.service.pipeline.recommendation; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"torch", "openslide", "tifffile", "PIL"} & set(run.stdout.split())
