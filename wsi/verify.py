"""Verification of a finished result with other libraries.

tifffile and OpenSlide read OME-TIFF, zarr reads OME-Zarr, and lxml validates the OME-XML against its schema. Sample
regions of each level are compared with the finer level, and those of the finest level with the source, to detect tiles
at a wrong place.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import openslide
import tifffile
from lxml import etree
from numpy.typing import NDArray
from PIL import Image

from slidelift.wsi.errors import TileReadError, VerificationError
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.ome_xml import ImageMetadata
from slidelift.wsi.pyramid import TILE, halve
from slidelift.wsi.slide import Pixels, SlideReader
from slidelift.wsi.tiling import TilePlan
from slidelift.wsi.writers import ome_tiff

if TYPE_CHECKING:
    import zarr

# Exceptions of tifffile for damaged files.
_TIFF_ERRORS = (tifffile.TiffFileError, ValueError, TypeError, KeyError, IndexError, struct.error, AttributeError)
ReadResult = Callable[[int, Region], Pixels]
"""Reads a region of a level, uint8 (H, W, 3)."""

_SAMPLES = 8
_SAMPLE_SIDE = 128
_BLOCK = 16
# Mean difference in grey levels of 16-px block means between a level and the halved finer level: at most 0.4 on tissue
# at quality 90, more where JPEG clips colour noise. Another place of the same slide differs by 45 (median).
_LEVEL_TOLERANCE = 12.0
# Difference of the mean colour of a 64-px source region: networks shift it by 1 or 2, a wrong tile by far more.
_COLOUR_TOLERANCE = 16.0


@dataclass(frozen=True, slots=True)
class Source:
    """Source of a result; `skip` are source regions with unreadable pixels."""

    reader: SlideReader
    plan: TilePlan
    skip: tuple[Region, ...] = ()


def verify(path: Path, output_format: str, metadata: ImageMetadata, quality: int, source: Source, seed: int) -> None:
    """Raise if the file at `path` does not match `metadata` and `source`.

    Parameters
    ----------
    seed
        Seed for the choice of sample regions.

    Raises
    ------
    VerificationError
        The message names the file and the difference.
    """
    try:
        if output_format == ome_tiff.NAME:
            _check_tiff_tables(path, metadata)
            with openslide.OpenSlide(path) as slide:
                _check_openslide(path, slide, metadata)
        else:
            _check_zarr(path, _open_group(path), metadata)
            quality = 100
        with result_reader(path, output_format) as read:
            _check_pixels(path, read, metadata.sizes, quality, source, seed)
    except (openslide.OpenSlideError, tifffile.TiffFileError, KeyError, ValueError, OSError) as error:
        raise VerificationError(
            f"{path.name}: the written file can't be read back ({error}); check the disk, then try again"
        ) from error


def is_result(path: Path, output_format: str) -> bool:
    """Whether the metadata of a file or folder name this program as its creator."""
    try:
        if output_format == ome_tiff.NAME:
            with tifffile.TiffFile(path) as tiff:
                xml = tiff.ome_metadata or ""
        else:
            xml = (path / "OME" / "METADATA.ome.xml").read_text("utf-8")
        root = etree.fromstring(xml.encode(), etree.XMLParser(resolve_entities=False))
    except (etree.XMLSyntaxError, OSError, *_TIFF_ERRORS):
        return False
    return str(root.get("Creator")).startswith("slidelift ")


@contextmanager
def result_reader(path: Path, output_format: str) -> Iterator[ReadResult]:
    """Open a finished result; yields a function that reads a region of a level."""
    if output_format == ome_tiff.NAME:
        with openslide.OpenSlide(path) as slide:
            yield _openslide_reader(slide)
    else:
        yield _zarr_reader(_open_group(path))


def _open_group(path: Path) -> "zarr.Group":
    import zarr  # takes a third of a second, which a TIFF does not need

    return zarr.open_group(str(path), mode="r", zarr_format=2)


def _require(condition: bool, path: Path, message: str) -> None:
    if not condition:
        raise VerificationError(f"{path.name}: {message}")


def _check_xml(path: Path, xml: str, metadata: ImageMetadata) -> None:
    _require("&#" not in xml, path, "its OME-XML holds a character entity, with which QuPath does not find the pyramid")
    try:
        root, schema = etree.fromstring(xml.encode()), _ome_schema()
    except etree.XMLSyntaxError as error:
        raise VerificationError(f"{path.name}: its OME-XML is not well-formed ({error})") from error
    _require(schema.validate(root), path, f"its OME-XML violates the schema: {schema.error_log.last_error}")
    pixels = root.find("{*}Image/{*}Pixels")
    _require(pixels is not None, path, "its OME-XML describes no image")
    size, mpp = ([float(pixels.get(f"{name}{axis}", "nan")) for axis in "XY"] for name in ("Size", "PhysicalSize"))
    _require(tuple(size) == _shape(metadata.sizes[0]), path, "its OME-XML has the wrong image size")
    _require(bool(np.allclose(mpp, metadata.mpp, rtol=1e-6)), path, "its OME-XML has the wrong pixel size")


@cache
def _ome_schema() -> etree.XMLSchema:
    """The schema file of ome-types; the package is not imported, because that takes most of a second."""
    return etree.XMLSchema(file=str(distribution("ome-types").locate_file("ome_types/ome-2016-06.xsd")))


def _check_tiff_tables(path: Path, metadata: ImageMetadata) -> None:
    with tifffile.TiffFile(path) as tiff:
        _require(tiff.is_ome, path, "tifffile does not recognise it as an OME-TIFF")
        _check_xml(path, tiff.ome_metadata, metadata)
        levels = tiff.series[0].levels
        found = [(level.shape[1], level.shape[0]) for level in levels]
        _require(found == [_shape(size) for size in metadata.sizes], path, f"tifffile finds the levels {found}")
        for level in levels:
            page = level.pages[0]
            _require(page.tile == (TILE, TILE), path, f"its tiles have the size {page.tile}")
            _require(0 not in page.databytecounts, path, "a tile is empty")


def _check_openslide(path: Path, slide: openslide.OpenSlide, metadata: ImageMetadata) -> None:
    found = list(slide.level_dimensions)
    _require(found == [_shape(size) for size in metadata.sizes], path, f"OpenSlide finds the levels {found}")
    mpp = [float(slide.properties[name]) for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)]
    _require(bool(np.allclose(mpp, metadata.mpp, rtol=1e-3)), path, f"OpenSlide finds {mpp} µm per pixel")


def _check_zarr(path: Path, group: "zarr.Group", metadata: ImageMetadata) -> None:
    for level, size in enumerate(metadata.sizes):
        _require(group[str(level)].shape == (3, size.height, size.width), path, f"array {level} has the wrong shape")
    datasets = group.attrs["multiscales"][0]["datasets"]
    _require(len(datasets) == len(metadata.sizes), path, "its multiscales metadata have the wrong number of levels")
    _check_xml(path, (path / "OME" / "METADATA.ome.xml").read_text("utf-8"), metadata)


def _check_pixels(path: Path, read: ReadResult, sizes: Sequence[Size], quality: int, source: Source, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for level in range(1, len(sizes)):
        side = Size(min(_SAMPLE_SIDE, sizes[level].width), min(_SAMPLE_SIDE, sizes[level].height))
        x, y = _corner(rng, sizes[level], side)
        finer = halve(read(level - 1, Region(2 * x, 2 * y, 2 * side.width, 2 * side.height)))
        coarser = read(level, Region(x, y, side.width, side.height))
        difference = np.abs(_block_means(finer) - _block_means(coarser)).mean()
        _require(
            difference <= _LEVEL_TOLERANCE + (100 - quality) / 4,
            path,
            f"level {level} at ({x}, {y}) differs from the finer level by {difference:.1f} grey levels",
        )
    for _ in range(_SAMPLES):
        _check_against_source(path, read, quality, source, rng)


def _check_against_source(path: Path, read: ReadResult, quality: int, source: Source, rng: np.random.Generator) -> None:
    plan = source.plan
    side = Size(min(64, plan.source.width), min(64, plan.source.height))
    x, y = _corner(rng, plan.source.size, side)
    region = Region(plan.source.x + x, plan.source.y + y, side.width, side.height)
    if any(not region.intersect(bad).is_empty for bad in source.skip):
        return
    try:
        expected = source.reader.read_region(plan.level, region).mean(axis=(0, 1))
    except TileReadError:
        return
    found = read(0, Region(x, y, side.width, side.height).scaled(plan.scale)).mean(axis=(0, 1))
    # In a narrow region much of the colour comes from the pixels beside it.
    tolerance = _COLOUR_TOLERANCE + (100 - quality) / 4 + 256 / min(side.width, side.height) ** 2
    difference = float(np.abs(expected - found).max())
    _require(
        difference <= tolerance,
        path,
        f"the result at ({x * plan.scale}, {y * plan.scale}) differs from the source there by {difference:.1f} grey "
        "levels in its mean colour",
    )


def _block_means(pixels: Pixels) -> NDArray[np.float64]:
    """Means over whole 16-px blocks, (rows, columns, 3), or over all pixels if there is no whole block."""
    rows, columns = pixels.shape[0] // _BLOCK, pixels.shape[1] // _BLOCK
    if rows == 0 or columns == 0:
        return np.asarray(pixels.mean(axis=(0, 1), keepdims=True))
    blocks = pixels[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK, 3)
    return np.asarray(blocks.mean(axis=(1, 3)))


def _corner(rng: np.random.Generator, size: Size, side: Size) -> tuple[int, int]:
    return int(rng.integers(size.width - side.width + 1)), int(rng.integers(size.height - side.height + 1))


def _openslide_reader(slide: openslide.OpenSlide) -> ReadResult:
    def read(level: int, region: Region) -> Pixels:
        downsample = slide.level_downsamples[level]
        origin = round(region.x * downsample), round(region.y * downsample)
        image: Image.Image = slide.read_region(origin, level, (region.width, region.height))
        return np.asarray(image.convert("RGB"))

    return read


def _zarr_reader(group: "zarr.Group") -> ReadResult:
    def read(level: int, region: Region) -> Pixels:
        planes = group[str(level)][:, region.y : region.bottom, region.x : region.right]
        return np.ascontiguousarray(np.moveaxis(np.asarray(planes), 0, -1))

    return read


def _shape(size: Size) -> tuple[int, int]:
    return size.width, size.height
