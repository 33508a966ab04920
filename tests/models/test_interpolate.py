"""Interpolation as an upscaler."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from slidelift.models.errors import UnknownModelError, UnsupportedScaleError
from slidelift.models.interpolate import Interpolator


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (1, height, width, 3), np.uint8)


def test_bicubic_equals_pillows_bicubic():
    patch = noise(9, 7)
    expected = Image.fromarray(patch[0]).resize((28, 36), Image.Resampling.BICUBIC)
    assert np.array_equal(Interpolator("bicubic", 4)(patch)[0], np.asarray(expected))


def test_nearest_repeats_pixels():
    patch = noise(5, 6)
    assert np.array_equal(Interpolator("nearest", 3)(patch), patch.repeat(3, axis=1).repeat(3, axis=2))


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_scale_one_is_the_identity(method):
    patch = noise(8, 11)
    assert np.array_equal(Interpolator(method, 1)(patch), patch)


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic", "lanczos"])
@given(value=st.integers(0, 255), height=st.integers(1, 12), width=st.integers(1, 12), scale=st.integers(1, 4))
def test_constant_colour_is_preserved(method, value, height, width, scale):
    out = Interpolator(method, scale)(np.full((1, height, width, 3), value, np.uint8))
    assert out.shape == (1, scale * height, scale * width, 3)
    assert (out == value).all()


@given(
    method=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
    scale=st.integers(2, 4),
    width=st.integers(2, 60),
    data=st.data(),
)
def test_tiles_join_exactly(method, scale, width, data):
    upscaler = Interpolator(method, scale)
    halo = upscaler.halo
    cut = data.draw(st.integers(1, width - 1))
    padded = np.pad(noise(6, width), ((0, 0), (halo, halo), (halo, halo), (0, 0)), mode="symmetric")
    inner = slice(halo * scale, -halo * scale or None)
    whole = upscaler(padded)[:, inner, inner]
    left = upscaler(padded[:, :, : cut + 2 * halo])[:, inner, inner]
    right = upscaler(padded[:, :, cut:])[:, inner, inner]
    assert np.array_equal(whole, np.concatenate((left, right), axis=2))


def test_errors_list_the_available_filters_and_scales():
    with pytest.raises(UnknownModelError, match="lanczos"):
        Interpolator("sinc", 4)
    with pytest.raises(UnsupportedScaleError, match="1, 2, 3, 4, not by 8"):
        Interpolator("bicubic", 8)
