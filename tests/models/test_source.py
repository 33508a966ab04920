"""Source model against Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from slidelift.models.metrics.source import SAMPLINGS, SourceModel


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Coloured waves with slight noise, 160 x 192 px."""
    y, x = np.mgrid[:160, :192]
    waves = np.stack([90 * np.sin(x / 11), 80 * np.cos(y / 9), 70 * np.sin((x + y) / 13)], axis=2)
    grain = np.random.default_rng(0).normal(0, 5, waves.shape)
    return (128 + waves + grain).clip(0, 255).astype(np.uint8)


def bicubic(image: np.ndarray, scale: int) -> Image.Image:
    size = (image.shape[1] // scale, image.shape[0] // scale)
    return Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)


def decoded(picture: Image.Image, **options: object) -> np.ndarray:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", **options)
    return np.asarray(Image.open(stream))


def test_convention_is_pillows_bicubic_without_compression(image):
    assert np.array_equal(SourceModel()(image, 4), np.asarray(bicubic(image, 4)))


@pytest.mark.parametrize("sampling", ["4:2:0", "4:2:2", "4:4:4"])
@pytest.mark.parametrize("quality", [30, 92])
def test_compressed_source_equals_pillows_result(image, sampling, quality):
    compressed = SourceModel(quality=quality, sampling=sampling)(image, 4)
    assert np.array_equal(compressed, decoded(bicubic(image, 4), quality=quality, subsampling=sampling))


def test_default_chroma_sampling_is_420(image):
    assert np.array_equal(SourceModel(quality=60)(image, 4), SourceModel(quality=60, sampling="4:2:0")(image, 4))


def test_rgb_is_stored_without_a_colour_transform(image):
    """As in Aperio files: a step in one channel does not affect the others."""
    red = image.copy()
    red[..., 1:] = 128
    compressed = SourceModel(quality=10, sampling="RGB").compress(red)
    assert np.array_equal(compressed[..., 1:], red[..., 1:])
    assert not np.array_equal(compressed[..., 0], red[..., 0])


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_tables_of_a_file_equal_its_quality(image, sampling):
    """As a slide's source is compressed by the slide's own tables."""
    whole = SourceModel(quality=45, sampling=sampling)
    stream = io.BytesIO()
    kept = {"keep_rgb": True} if sampling == "RGB" else {"subsampling": sampling}
    Image.fromarray(image).save(stream, "JPEG", quality=45, **kept)
    with Image.open(stream) as written:
        tables = tuple(tuple(written.quantization[key]) for key in sorted(written.quantization))
    own = SourceModel(tables=tables, sampling=sampling)
    assert np.array_equal(own(image, 4), whole(image, 4))
    assert own.label == "own tables"


def test_noise_has_the_requested_deviation_and_is_deterministic(image):
    grey = np.full((400, 400, 3), 128, np.uint8)
    noisy = SourceModel(noise=3)(grey, 4)
    # rounding adds the variance of a uniform error, 1/12
    assert noisy.astype(float).std() == pytest.approx(np.sqrt(9 + 1 / 12), rel=0.03)
    assert np.array_equal(noisy, SourceModel(noise=3)(grey, 4))


def test_defocus_spreads_an_edge_by_source_pixels():
    """A Gaussian's integral rises from 16 to 84 % within two sigma."""
    edge = np.zeros((64, 512, 3), np.uint8)
    edge[:, 256:] = 255
    profile = SourceModel(defocus=3)(edge, 4)[8, :, 0].astype(float) / 255
    x = np.arange(len(profile))
    low, high = np.interp([0.1587, 0.8413], profile, x)
    assert high - low == pytest.approx(6, rel=0.1)
