"""Every reader turns rotated or mirrored images upright as a whole, with a warning."""

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageOps

from slidelift.wsi.errors import UnsupportedPixelsError
from slidelift.wsi.geometry import Region, Size

ORIENTATIONS = range(1, 9)
_ORIENTATION = 274
_APERIO = "Aperio Image Library v11.2.1 \r\n320x192 [0,0 320x192] (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.5000|"
_REGIONS = [(0, 0, 1, 1), (50, 40, 77, 63), (3, 100, 150, 20)]


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels as a file with this tag stores them; Pillow turns them back to `upright`."""
    back = {6: 8, 8: 6}.get(orientation, orientation)  # the other six are their own inverses
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = back
    stream = io.BytesIO()
    Image.fromarray(upright).save(stream, "PNG", exif=exif)
    with Image.open(stream) as image:
        return np.asarray(ImageOps.exif_transpose(image))


def tag(orientation: int, kind: str = "H") -> list[tuple]:
    return [(_ORIENTATION, kind, 1, orientation, True)]


def write_plain(path: Path, pixels: np.ndarray, orientation: int, **options) -> Path:
    tifffile.imwrite(
        path, pixels, photometric="rgb", metadata=None, extratags=tag(orientation), resolution=(5000, 10000),
        resolutionunit="CENTIMETER", **options,
    )  # fmt: skip
    return path


def write_strips(path: Path, pixels: np.ndarray, orientation: int) -> Path:
    return write_plain(path, pixels, orientation, rowsperstrip=32)


def write_tiles(path: Path, pixels: np.ndarray, orientation: int) -> Path:
    return write_plain(path, pixels, orientation, tile=(64, 64))


def write_planes(path: Path, pixels: np.ndarray, orientation: int) -> Path:
    planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    return write_plain(path, planes, orientation, tile=(64, 64), planarconfig="separate")


def write_levels(path: Path, pixels: np.ndarray, orientation: int, **options) -> Path:
    with tifffile.TiffWriter(path) as tiff:
        for step in (1, 2, 4):
            tiff.write(
                np.ascontiguousarray(pixels[::step, ::step]), photometric="rgb", tile=(64, 64), metadata=None,
                subfiletype=int(step > 1), extratags=tag(orientation), **options,
            )  # fmt: skip
    return path


def write_aperio(path: Path, pixels: np.ndarray, orientation: int) -> Path:
    path = path.with_suffix(".svs")
    options = {"photometric": "rgb", "metadata": None, "description": _APERIO, "extratags": tag(orientation)}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, tile=(64, 64), **options)
        tiff.write(np.ascontiguousarray(pixels[::8, ::8]), **options)  # the thumbnail, in strips
        for step in (2, 4):
            tiff.write(np.ascontiguousarray(pixels[::step, ::step]), tile=(64, 64), **options)
    return path


def write_ome(path: Path, pixels: np.ndarray, orientation: int) -> Path:
    path = path.with_suffix(".ome.tif")
    with tifffile.TiffWriter(path, ome=True) as tiff:
        options = {"photometric": "rgb", "tile": (64, 64), "extratags": tag(orientation)}
        tiff.write(pixels, subifds=1, metadata={"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}, **options)
        tiff.write(np.ascontiguousarray(pixels[::2, ::2]), subfiletype=1, **options)
    return path


WRITERS = [write_strips, write_tiles, write_planes, write_levels, write_aperio, write_ome]


@pytest.fixture(scope="module")
def image(formula_pixels) -> np.ndarray:
    return formula_pixels(Region(0, 0, 320, 192))


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_tiff_is_turned_upright(tmp_path, image, open_slide, write, orientation: int) -> None:
    pixels = stored(image, orientation)
    reader = open_slide(write(tmp_path / "slide.tif", pixels, orientation))
    assert reader.info.size == Size(320, 192)
    for region in (Region(0, 0, 320, 192), *(Region(*one) for one in _REGIONS)):
        found = reader.read_region(0, region)
        assert (found == image[region.y : region.bottom, region.x : region.right]).all()
        assert found.flags.c_contiguous
    has_warning = any(f"Orientation {orientation}" in warning for warning in reader.info.warnings)
    assert has_warning == (orientation != 1)
    if write in (write_strips, write_tiles, write_ome):
        lying = orientation >= 5
        along = (2.0, 1.0) if write is not write_ome else (0.5, 0.25)
        assert reader.info.mpp == pytest.approx(along[::-1] if lying else along)


@pytest.mark.parametrize("write", [write_levels, write_aperio, write_ome])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_all_levels_are_turned_upright(tmp_path, image, open_slide, write, orientation: int) -> None:
    pixels = stored(image, orientation)
    reader = open_slide(write(tmp_path / "slide.tif", pixels, orientation))
    assert len(reader.info.levels) == (2 if write is write_ome else 3)
    for level in range(1, len(reader.info.levels)):
        size = reader.info.levels[level].size
        turned = stored(pixels[:: 2**level, :: 2**level], {6: 8, 8: 6}.get(orientation, orientation))
        assert size == Size(320 >> level, 192 >> level)
        assert (reader.read_region(level, Region(0, 0, size.width, size.height)) == turned).all()
        assert (reader.read_region(level, Region(7, 5, 30, 20)) == turned[5:25, 7:37]).all()


def test_levels_of_different_orientations_are_refused(tmp_path, image, open_slide) -> None:
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as tiff:
        options = {"photometric": "rgb", "tile": (64, 64), "metadata": None}
        tiff.write(image, extratags=tag(3), **options)
        tiff.write(np.ascontiguousarray(image[::2, ::2]), subfiletype=1, **options)
    with pytest.raises(UnsupportedPixelsError, match="different orientations"):
        open_slide(path)


@pytest.mark.parametrize("vendor", ["trestle", "ventana", "philips"])
@pytest.mark.parametrize("orientation", ORIENTATIONS[1:])
def test_vendor_slides_are_not_turned_tile_by_tile(tmp_path, image, open_slide, vendor, orientation) -> None:
    vendor_tags = {
        "trestle": {"software": "MedScan 1", "description": "Objective Power=20;OverlapsXY=0 0"},
        "ventana": {"description": "level=0 mag=40 quality=90"},
        "philips": {"software": "Philips DP v1.0", "description": "<?xml version='1.0'?><DataObject/>"},
    }[vendor]
    path = write_levels(tmp_path / "slide.tif", stored(image, orientation), orientation, **vendor_tags)
    try:
        assert (open_slide(path).read_region(0, Region(0, 0, 320, 192)) == image).all()
    except UnsupportedPixelsError as refusal:
        assert "Orientation" in str(refusal)  # noqa: PT017 - both outcomes are valid


@pytest.mark.parametrize("value", [0, 9, 257, 65535])
@pytest.mark.parametrize("write", [write_strips, write_tiles, write_aperio])
def test_invalid_orientation_is_ignored_with_a_warning(tmp_path, image, open_slide, write, value: int) -> None:
    reader = open_slide(write(tmp_path / "slide.tif", image, value))
    assert (reader.read_region(0, Region(0, 0, 320, 192)) == image).all()
    assert any("Orientation" in warning for warning in reader.info.warnings)


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_flat_image_is_turned_upright(tmp_path, image, open_slide, kind, mode: str, orientation: int) -> None:
    mode = "RGB" if kind == "jpg" and mode == "RGBA" else mode
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    upright = np.asarray(Image.fromarray(image).convert(mode).convert("RGB"))
    path = tmp_path / f"slide.{kind}"
    pil_image = Image.fromarray(stored(image, orientation)).convert(mode)
    pil_image.save(path, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "jpg" else {}))
    reader = open_slide(path)
    assert reader.info.size == Size(320, 192)
    found = reader.read_region(0, Region(50, 40, 77, 63)).astype(int)
    assert np.abs(found - upright[40:103, 50:127]).max() <= (4 if kind == "jpg" else 0)
    assert any(f"Orientation {orientation}" in warning for warning in reader.info.warnings) == (orientation != 1)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"Exif\0\0nonsense", b"MM\0*\0\0\0\x08\xff\xff"]
)
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_damaged_exif_is_ignored(tmp_path, image, open_slide, kind: str, exif: bytes) -> None:
    path = tmp_path / f"slide.{kind}"
    Image.fromarray(image).save(path, exif=exif)
    assert open_slide(path).info.size == Size(320, 192)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_invalid_exif_orientation_is_ignored_with_a_warning(tmp_path, image, open_slide, value) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    Image.fromarray(image).save(tmp_path / "slide.png", exif=exif)
    reader = open_slide(tmp_path / "slide.png")
    assert (reader.read_region(0, Region(0, 0, 320, 192)) == image).all()
    assert any("Orientation has an invalid value" in warning for warning in reader.info.warnings)
