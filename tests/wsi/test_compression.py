"""Tests of reading codec, JPEG quality and subsampling of a slide."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from slidelift.wsi.readers.compression import nearest_quality, read_compression
from slidelift.wsi.readers.open_slide import open_slide
from slidelift.wsi.slide import Codec, Compression


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(60, 200, (256, 256, 3), np.uint8)


@pytest.mark.parametrize("quality", [1, 10, 30, 49, 50, 70, 80, 92, 100])
@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_quality_and_sampling_of_a_jpeg(tmp_path, pixels, quality, sampling):
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels).save(path, quality=quality, subsampling=sampling)
    found = read_compression(path)
    assert found is not None
    assert (found.codec, found.quality, found.sampling) == (Codec.JPEG, quality, sampling)
    with Image.open(path) as image:
        assert found.quantization_tables == tuple(tuple(image.quantization[key]) for key in sorted(image.quantization))


@pytest.mark.parametrize("quality", range(1, 101))
def test_nearest_quality_of_each_libjpeg_table(pixels, quality):
    stream = io.BytesIO()
    Image.fromarray(pixels[:16, :16]).save(stream, "JPEG", quality=quality)
    with Image.open(stream) as image:
        assert nearest_quality(image.quantization[0]) == quality


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"compression": "jpeg", "compressionargs": {"level": 65}, "photometric": "ycbcr", "subsampling": (2, 2)},
            (Codec.JPEG, 65, "4:2:0"),
        ),
        (
            {"compression": "jpeg", "compressionargs": {"level": 30}, "photometric": "ycbcr", "subsampling": (2, 1)},
            (Codec.JPEG, 30, "4:2:2"),
        ),
        ({"compression": "jpeg2000", "photometric": "rgb"}, (Codec.JPEG_2000, None, None)),
        ({"compression": "webp", "photometric": "rgb"}, (Codec.OTHER, None, None)),
        ({"compression": "deflate", "photometric": "rgb"}, (Codec.LOSSLESS, None, None)),
        ({"photometric": "rgb"}, (Codec.LOSSLESS, None, None)),
    ],
)
def test_codec_of_the_largest_page_of_a_tiff(tmp_path, pixels, options, expected):
    path = tmp_path / "a.tiff"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels[:64, :64], photometric="rgb", compression="lzw")  # a thumbnail first, as Leica's
        tiff.write(pixels, tile=(128, 128), **options)
    found = read_compression(path)
    assert found is not None
    assert (found.codec, found.quality, found.sampling) == expected


@pytest.mark.parametrize(
    ("name", "quality", "sampling"),
    [
        ("cmu-1-small-region.svs", 30, "RGB"),  # Aperio's description says Q=30
        ("dapi (387).ndpi", 90, "4:4:4"),
        ("OS-1-detail.ome.tif", 75, "4:2:0"),
        ("prostate-with-ink.jpeg", 75, "4:2:0"),
    ],
)
def test_compression_of_real_slides(data, name, quality, sampling):
    reader = open_slide(data / "slides" / name)
    try:
        found = reader.info.compression
    finally:
        reader.close()
    assert found is not None
    assert (found.quality, found.sampling) == (quality, sampling)
    assert reader.info.as_dict()["compression"] == {"codec": "jpeg", "quality": quality, "sampling": sampling}


def test_lossless_images(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_compression(tmp_path / "a.png") == Compression(Codec.LOSSLESS)


def test_damaged_files_have_unknown_compression(data):
    for path in sorted((data / "damaged").rglob("*")):
        if path.is_file():
            found = read_compression(path)
            assert found is None or isinstance(found, Compression), path.name
