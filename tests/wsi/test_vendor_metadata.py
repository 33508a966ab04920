"""Pixel size and objective in vendors' metadata, and colour profiles: read, or unknown with a warning."""

import json
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from slidelift.wsi.errors import WsiError
from slidelift.wsi.geometry import Region, Size

_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
_ICC = 34675
_SPOILT = {
    "garbage": b"garbage",
    "cut": _PROFILE[:100],
    "empty": b"\0" * 500,
    "unsigned": _PROFILE[:36] + b"none" + _PROFILE[40:],
}


_TAGS = (258, 259, 262, 266, 270, 274, 277, 282, 283, 284, 296, 317, 320, 338, 339, 530, 532, _ICC)


def entries(whole: bytes) -> dict[int, int]:
    """Return the offset of each tag's 12-byte entry in the first IFD of a little-endian TIFF."""
    table = struct.unpack_from("<I", whole, 4)[0]
    count = struct.unpack_from("<H", whole, table)[0]
    places = range(table + 2, table + 2 + 12 * count, 12)
    return {struct.unpack_from("<H", whole, place)[0]: place for place in places}


@pytest.fixture
def pixels(formula_pixels) -> np.ndarray:
    return formula_pixels(Region(0, 0, 192, 128))


def write_aperio(path: Path, pixels: np.ndarray, words: str, **options) -> Path:
    description = (
        f"Aperio Image Library v11.2.1 \r\n192x128 [0,0 192x128] (64x64) JPEG/RGB Q=70|{words}|Date = 01/02/03"
    )
    tifffile.imwrite(path, pixels, photometric="rgb", metadata=None, description=description, **options)
    return path


@pytest.mark.parametrize("parts", [{"tile": (64, 64)}, {"rowsperstrip": 32}])
@pytest.mark.parametrize(
    ("words", "mpp", "objective", "told"),
    [
        ("AppMag = 20|MPP = 0.5000", 0.5, 20.0, ()),
        ("AppMag = 40x|MPP = 0,25", 0.25, 40.0, ("MPP", "AppMag")),
        ("AppMag = NaN|MPP = NaN", None, None, ("MPP", "AppMag")),
        ("AppMag = inf|MPP = -0.5", None, None, ("MPP", "AppMag")),
        ("AppMag = 0|MPP = 0", None, None, ("MPP", "AppMag")),
        ("AppMag = 1e30|MPP = 1e300", None, None, ("MPP", "AppMag")),
        ("AppMag = true|MPP = John Doe", None, None, ("MPP", "AppMag")),
        ("ScanScope ID = 7", None, None, ()),
    ],
)
def test_values_of_aperio_are_numbers_or_unknown(
    tmp_path, pixels, open_slide, parts: dict, words: str, mpp: float | None, objective: float | None, told
) -> None:
    info = open_slide(write_aperio(tmp_path / "slide.svs", pixels, words, **parts)).info
    assert info.reader == ("openslide" if "tile" in parts else "tiffslide")
    assert (info.vendor, info.mpp, info.objective) == ("aperio", (mpp, mpp) if mpp else None, objective)
    assert len(info.warnings) == len(told)
    assert all(any(word in warning for warning in info.warnings) for word in told)
    assert "Doe" not in " ".join(info.warnings)


@pytest.mark.parametrize("parts", [{"tile": (64, 64)}, {"rowsperstrip": 32}])
@pytest.mark.parametrize(
    ("resolution", "unit", "mpp"),
    [
        ((20_000, 20_000), "CENTIMETER", (0.5, 0.5)),
        ((25_400, 50_800), "INCH", (1.0, 0.5)),
        ((20_000, 20_000), "NONE", None),
        (((0, 1), (0, 1)), "CENTIMETER", None),
        (((1, 0), (1, 0)), "CENTIMETER", None),
        (((20_000, 1), (0, 0)), "CENTIMETER", None),
        (((1, 4_000_000_000), (1, 4_000_000_000)), "CENTIMETER", None),
        (((4_000_000_000, 1), (4_000_000_000, 1)), "INCH", None),
    ],
)
def test_resolution_tags_are_sizes_or_unknown(tmp_path, pixels, open_slide, parts: dict, resolution, unit, mpp) -> None:
    path = tmp_path / "slide.tif"
    tifffile.imwrite(
        path, pixels, photometric="rgb", metadata=None, resolution=(1, 1), resolutionunit=unit, **parts
    )  # tifffile writes no fraction that is none
    fractions = [one if isinstance(one, tuple) else (one, 1) for one in resolution]
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name, fraction in zip(("XResolution", "YResolution"), fractions, strict=True):
            tiff.pages.first.tags[name].overwrite(fraction)
    info = open_slide(path).info
    assert info.mpp == (pytest.approx(mpp) if mpp else None)


@pytest.mark.parametrize(
    ("kind", "code", "value", "mpp"),
    [
        ("f", 11, 20_000.0, 0.5), ("d", 12, 40_000.0, 0.25), ("H", 3, 20_000, 0.5), ("I", 4, 0, None),
        ("f", 11, math.nan, None), ("d", 12, math.inf, None), ("d", 12, -20_000.0, None), ("I", 4, 4_294_967_295, None),
    ],
)  # fmt: skip
def test_resolution_that_is_not_a_fraction_is_inverted_too(
    tmp_path, pixels, open_slide, kind, code, value, mpp
) -> None:
    path = tmp_path / "slide.tif"
    tifffile.imwrite(
        path, pixels, photometric="rgb", metadata=None, rowsperstrip=32, resolution=(1, 1), resolutionunit=3
    )
    whole = bytearray(path.read_bytes())
    for tag in (282, 283):
        place = entries(whole)[tag]
        inside = place + 8 if struct.calcsize(kind) <= 4 else struct.unpack_from("<I", whole, place + 8)[0]
        struct.pack_into("<HI", whole, place + 2, code, 1)
        struct.pack_into(f"<{kind}", whole, inside, value)
    path.write_bytes(whole)
    info = open_slide(path).info
    assert info.mpp == (pytest.approx((mpp, mpp)) if mpp else None)
    assert bool(info.warnings) == (mpp is None)


@pytest.mark.parametrize(("said", "power"), [("20", 20.0), ("40x", 40.0), ("0", None), ("NaN", None), ("many", None)])
def test_objective_of_another_vendor_is_a_number_or_unknown(tmp_path, pixels, open_slide, said: str, power) -> None:
    path = tmp_path / "slide.tif"
    words = {"software": "MedScan 1", "description": f"Objective Power={said};OverlapsXY=0 0"}
    tifffile.imwrite(path, pixels, photometric="rgb", metadata=None, tile=(64, 64), **words)
    info = open_slide(path).info
    assert (info.vendor, info.objective) == ("trestle", power)
    assert any("Objective Power" in warning for warning in info.warnings) == (said != "20")


def test_macro_image_larger_than_the_slide_is_not_read_as_the_slide(tmp_path, pixels, open_slide) -> None:
    path = tmp_path / "slide.svs"
    with tifffile.TiffWriter(path) as tiff:
        options = {
            "photometric": "rgb",
            "metadata": None,
            "description": "Aperio Image Library v11|MPP = 0.5|AppMag = 20",
        }
        planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
        tiff.write(planes, planarconfig="separate", tile=(64, 64), **options)
        tiff.write(pixels[::4, ::4], **options)
        tiff.write(np.zeros((300, 400, 3), np.uint8), subfiletype=9, **options)
    reader = open_slide(path)
    assert reader.info.reader == "tiffslide"
    assert (reader.read(0, Region(0, 0, 192, 128)) == pixels).all()


@pytest.mark.parametrize("parts", [{"tile": (64, 64)}, {"rowsperstrip": 32}])
@pytest.mark.parametrize("spoilt", _SPOILT)
@pytest.mark.parametrize("vendor", ["plain", "aperio", "ome"])
def test_damaged_profile_of_a_tiff_is_a_warning_and_not_kept(
    tmp_path, pixels, open_slide, parts, spoilt, vendor
) -> None:
    options = {**parts, "extratags": [(_ICC, 7, len(_SPOILT[spoilt]), _SPOILT[spoilt], True)]}
    path = tmp_path / "slide.tif"
    if vendor == "aperio":
        write_aperio(path, pixels, "MPP = 0.5", **options)
    else:
        ome = {"ome": True} if vendor == "ome" else {"metadata": None}
        tifffile.imwrite(path, pixels, photometric="rgb", **ome, **options)
    reader = open_slide(path)
    assert reader.info.icc_profile is None
    assert [warning for warning in reader.info.warnings if "colour profile" in warning]
    assert (reader.read(0, Region(0, 0, 192, 128)) == pixels).all()


@pytest.mark.parametrize("kind", [3, 2])
def test_profile_that_is_not_bytes_is_a_warning(tmp_path, pixels, open_slide, kind: int) -> None:
    value = (300, 2, 3, 4) if kind == 3 else "a profile"
    tags = [(_ICC, kind, 0 if kind == 2 else 4, value, True)]
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", metadata=None, extratags=tags, rowsperstrip=32)
    info = open_slide(path).info
    assert info.icc_profile is None
    assert any("colour profile" in warning for warning in info.warnings)


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("name", [None, *_SPOILT])
def test_profile_of_an_image_is_kept_or_a_warning(tmp_path, pixels, open_slide, kind: str, name: str | None) -> None:
    profile = _SPOILT[name] if name else _PROFILE
    path = tmp_path / f"slide.{kind}"
    Image.fromarray(pixels).save(path, icc_profile=profile)
    info = open_slide(path).info
    assert info.size == Size(192, 128)
    assert info.icc_profile == (None if name else _PROFILE)
    assert bool(info.warnings) == bool(name)


def test_profile_of_an_image_that_is_not_compressed_is_a_warning(tmp_path, pixels, open_slide) -> None:
    path = tmp_path / "slide.png"
    Image.fromarray(pixels).save(path, icc_profile=_PROFILE)
    whole = path.read_bytes()
    place = whole.index(b"iCCP")
    length = int.from_bytes(whole[place - 4 : place], "big")
    body = b"iCCPname\0\0" + b"\xff" * (length - 6)
    path.write_bytes(whole[:place] + body + zlib.crc32(body).to_bytes(4, "big") + whole[place + 4 + length + 4 :])
    info = open_slide(path).info
    assert info.icc_profile is None
    assert any("colour profile" in warning for warning in info.warnings)


@pytest.mark.parametrize("kind", [2, 3, 5, 12])
@pytest.mark.parametrize("written", ["strips", "tiles", "aperio", "palette", "ycbcr"])
def test_any_value_of_any_tag_is_read_or_refused(tmp_path, pixels, open_slide, written: str, kind: int) -> None:
    options: dict = {
        "strips": {"photometric": "rgb", "rowsperstrip": 32},
        "tiles": {"photometric": "rgb", "tile": (64, 64)},
        "aperio": {
            "photometric": "rgb",
            "tile": (64, 64),
            "description": "Aperio Image Library v11|MPP = 0.5|AppMag = 20",
        },
        "palette": {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16), "rowsperstrip": 32},
        "ycbcr": {"photometric": "ycbcr", "rowsperstrip": 32, "extratags": [(532, "2I", 6, (0, 1, 255, 1) * 3, True)]},
    }[written]
    tags = [(274, "H", 1, 1, True), (_ICC, 7, 40, b"\1" * 40, True), *options.pop("extratags", [])]
    path = tmp_path / "slide.tif"
    shown = pixels[..., 0] if written == "palette" else pixels
    tifffile.imwrite(path, shown, metadata=None, resolution=(20_000, 20_000), extratags=tags, **options)
    whole = path.read_bytes()
    for tag, place in ((tag, place) for tag, place in entries(whole).items() if tag in _TAGS):
        for count, value in ((1, 0), (1, 65_535), (2, 0x00020002), (6, 8), (0, 0)):
            spoilt = bytearray(whole)
            struct.pack_into("<HHII", spoilt, place, tag, kind, count, value)
            path.write_bytes(spoilt)
            try:
                reader = open_slide(path)
                json.dumps(reader.info.as_dict(), allow_nan=False)
                reader.read(0, Region(0, 0, 64, 64))
            except WsiError as refusal:
                assert "slide.tif" in str(refusal)  # noqa: PT017 - either is right
