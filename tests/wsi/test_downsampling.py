"""Tests of the Deep Zoom layout and of downsampled regions."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openslide.deepzoom import DeepZoomGenerator
from skimage.transform import downscale_local_mean

from slidelift.wsi import downsampling
from slidelift.wsi.deepzoom import TILE_SIZE, DeepZoom
from slidelift.wsi.downsampling import MAX_READ_PIXELS, exact_downsample, read_downsampled
from slidelift.wsi.errors import TileReadError, TooCoarseError
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.readers.open_slide import open_slide
from slidelift.wsi.slide import Level, SlideInfo

sizes = st.builds(Size, st.integers(1, 100_000), st.integers(1, 100_000))


@given(sizes)
def test_every_pixel_of_every_level_is_in_exactly_one_tile(size: Size) -> None:
    zoom = DeepZoom(size)
    assert zoom.level_size(zoom.max_level) == size
    assert zoom.level_size(0) == Size(1, 1)
    for level in range(zoom.max_level + 1):
        whole = zoom.level_size(level)
        columns, rows = -(-whole.width // TILE_SIZE), -(-whole.height // TILE_SIZE)
        row = [zoom.tile(level, column, 0) for column in range(columns)]
        assert all(tile is not None for tile in row)
        assert sum(tile.width for tile in row if tile) == whole.width
        last = zoom.tile(level, columns - 1, rows - 1)
        assert last is not None
        assert (last.right, last.bottom) == (whole.width, whole.height)
        assert zoom.tile(level, columns, 0) is None
        assert zoom.tile(level, 0, rows) is None
    assert zoom.tile(zoom.max_level + 1, 0, 0) is None
    assert zoom.tile(-1, 0, 0) is None
    assert zoom.tile(0, -1, 0) is None


@given(sizes)
def test_layout_equals_openslide_deep_zoom_generator(size: Size) -> None:
    class Slide:
        """The attributes of a slide that the generator uses."""

        level_dimensions = ((size.width, size.height),)
        dimensions = (size.width, size.height)
        level_count, level_downsamples, properties = 1, (1.0,), {}
        color_profile = None

        def get_best_level_for_downsample(self, downsample: float) -> int:
            return 0

    generator = DeepZoomGenerator(Slide(), TILE_SIZE, 0)  # type: ignore[arg-type]
    layout = DeepZoom(size)
    assert generator.level_count == layout.max_level + 1
    assert generator.level_dimensions == tuple(
        (one.width, one.height) for one in map(layout.level_size, range(layout.max_level + 1))
    )
    ns = {"dz": "http://schemas.microsoft.com/deepzoom/2008"}
    described, expected = ET.fromstring(layout.descriptor("jpeg")), ET.fromstring(generator.get_dzi("jpeg"))
    assert described.attrib == expected.attrib
    assert described.find("dz:Size", ns).attrib == expected.find("dz:Size", ns).attrib  # type: ignore[union-attr]


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 4, 8]), st.data())
def test_pixels_are_block_means(width: int, height: int, downsample: int, data: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rows, columns = -(-height // downsample), -(-width // downsample)
    x, y = data.draw(st.integers(0, columns - 1)), data.draw(st.integers(0, rows - 1))
    region = Region(x, y, data.draw(st.integers(1, columns - x)), data.draw(st.integers(1, rows - y)))
    padded = np.pad(pixels, ((0, rows * downsample - height), (0, columns * downsample - width), (0, 0)), mode="edge")
    expected = downscale_local_mean(padded.astype(float), (downsample, downsample, 1))
    found = read_downsampled(ArrayReader(pixels), downsample, region)
    assert found.shape == (region.height, region.width, 3)
    assert np.abs(found - expected[region.y : region.bottom, region.x : region.right]).max() <= 0.5 + 1e-9


def test_large_region_is_independent_of_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (410, 500, 3), dtype=np.uint8)
    whole = read_downsampled(ArrayReader(pixels), 16, Region(0, 0, 32, 26))
    monkeypatch.setattr(downsampling, "_BLOCK_PIXELS", 64**2)
    assert (read_downsampled(ArrayReader(pixels), 16, Region(0, 0, 32, 26)) == whole).all()


def test_coarsest_level_that_is_fine_enough_is_read(formula_reader: type) -> None:
    reader = formula_reader(Size(4096, 4096), downsamples=(1, 4, 16))
    read_downsampled(reader, 8, Region(10, 20, 100, 100))
    assert {level for level, _ in reader.reads} == {1}
    reader.reads.clear()
    read_downsampled(reader, 64, Region(0, 0, 64, 64))
    assert {level for level, _ in reader.reads} == {2}


@pytest.mark.parametrize(
    ("full", "small", "downsample", "step"),
    [
        (Size(46000, 32914), Size(11500, 8228), 4.000121, 4.0),
        (Size(1101, 1101), Size(275, 276), 3.996, 4.0),
        (Size(1000, 1000), Size(400, 400), 2.5, 2.5),
        (Size(1000, 1000), Size(1000, 1000), 1.0, 1.0),
    ],
)
def test_exact_downsample_removes_rounding_of_sizes(full: Size, small: Size, downsample: float, step: float) -> None:
    assert exact_downsample(Level(small, downsample), (Level(full, 1.0), Level(small, downsample))) == step


def test_level_between_powers_of_two_is_aligned(write_png: Callable[..., Path]) -> None:
    """A ramp is not shifted by a level with a downsample of 2.5."""
    ramp = np.repeat(np.linspace(0, 250, 1000, dtype=np.float64)[None, :, None], 1000, axis=0).repeat(3, axis=2)
    coarse = downscale_local_mean(ramp.repeat(2, axis=0).repeat(2, axis=1), (5, 5, 1))
    reader = ArrayReader(ramp.astype(np.uint8), coarse.astype(np.uint8))
    found = read_downsampled(reader, 4, Region(100, 100, 120, 120)).astype(float)
    expected = downscale_local_mean(ramp, (4, 4, 1))[100:220, 100:220]
    assert np.abs(found - expected).max() <= 2  # the ramp rises by one grey level per pixel


def test_damaged_region_is_an_error(formula_reader: type) -> None:
    reader = formula_reader(Size(2048, 2048), broken=(Region(1000, 1000, 10, 10),))
    with pytest.raises(TileReadError):
        read_downsampled(reader, 4, Region(0, 0, 512, 512))
    assert read_downsampled(reader, 1, Region(0, 0, 512, 512)).shape == (512, 512, 3)


def test_region_that_needs_too_many_pixels_is_refused(formula_reader: type) -> None:
    reader = formula_reader(Size(100_000, 80_000))
    assert MAX_READ_PIXELS < 512 * 512 * 64**2
    with pytest.raises(TooCoarseError, match="no coarser"):
        read_downsampled(reader, 64, Region(0, 0, 512, 512))
    assert reader.reads == []


def test_real_slide_equals_openslide_deep_zoom(cmu: Path) -> None:
    with openslide.OpenSlide(cmu) as slide:
        generator = DeepZoomGenerator(slide, TILE_SIZE, 0)
        reader = open_slide(cmu)
        zoom = DeepZoom(reader.info.size)
        for level, column, row in [(12, 2, 3), (12, 4, 5), (11, 1, 1), (9, 0, 0)]:
            region = zoom.tile(level, column, row)
            assert region is not None
            found = read_downsampled(reader, zoom.downsample(level), region)
            expected = np.asarray(generator.get_tile(level, (column, row)).convert("RGB"))
            assert found.shape == expected.shape
            if level == zoom.max_level:
                assert (found == expected).all()
            blocks = [downscale_local_mean(one.astype(float), (16, 16, 1))[:-1, :-1] for one in (found, expected)]
            assert np.abs(blocks[0] - blocks[1]).mean() < 1  # OpenSlide uses another filter
        reader.close()


class ArrayReader:
    """Reader of levels in memory."""

    def __init__(self, *levels: np.ndarray) -> None:
        self._levels = levels
        full = levels[0].shape[1]
        self.info = SlideInfo(
            "memory",
            "memory",
            tuple(Level(Size(one.shape[1], one.shape[0]), full / one.shape[1]) for one in levels),
            None,
            None,
            None,
        )

    def read_region(self, level: int, region: Region) -> np.ndarray:
        pixels = self._levels[level]
        assert Region(0, 0, pixels.shape[1], pixels.shape[0]).contains(region)
        return pixels[region.y : region.bottom, region.x : region.right]

    def close(self) -> None:
        pass
