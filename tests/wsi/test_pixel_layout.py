"""TIFFs of all sample layouts are read correctly, or refused with a message that does not call them damaged."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from slidelift.wsi.errors import UnsupportedPixelsError
from slidelift.wsi.geometry import Region

_APERIO = (
    "Aperio Image Library v11.2.1 \r\n192x128 [0,0 192x128] (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.5000|Filename = x"
)
_VENDORS = {
    "plain": {},
    "aperio": {"description": _APERIO},
    "ome": {"ome": True, "metadata": {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}},
    "trestle": {"software": "MedScan 1", "description": "Objective Power=20;OverlapsXY=0 0"},
    "ventana": {
        "extratags": [(700, "s", 0, '<iScan Magnification="20" ScanRes="0.25"/><EncodeInfo Ver="2"/>', True)],
    },
}
_PHILIPS = {"software": "Philips DP v1.0"}
"""Not enough for OpenSlide to open the file, but unsupported samples are refused before."""
_CHUNKS = {"strips": {"rowsperstrip": 32}, "tiles": {"tile": (64, 64)}}
_HEIGHT, _WIDTH = 128, 192


def _colours() -> np.ndarray:
    """Image computed by a formula, with noise in the third channel."""
    y, x = np.mgrid[:_HEIGHT, :_WIDTH]
    noise = (x * 2654435761 + y * 40503) >> 7
    return np.stack([(x // 2 + y // 3) % 256, (x ^ y) % 256, noise % 256], axis=2).astype(np.uint8)


def _smooth() -> np.ndarray:
    y, x = np.mgrid[:_HEIGHT, :_WIDTH]
    return np.stack([x, y * 2, (x + y) // 2], axis=2).astype(np.uint8)


def _over_white(colours: np.ndarray, alpha: np.ndarray, *, premultiplied: bool) -> np.ndarray:
    share = alpha / 255.0
    return (colours * (1.0 if premultiplied else share) + 255 * (1 - share)).round().clip(0, 255).astype(np.uint8)


def _ycbcr(colours: np.ndarray) -> np.ndarray:
    """Convert to YCbCr by BT.601, full range."""
    red, green, blue = np.moveaxis(colours.astype(float), -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return (
        np.stack([luma, (blue - luma) / 1.772 + 128, (red - luma) / 1.402 + 128], -1).round().clip(0, 255).astype("u1")
    )


def _grey_to_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


_RGB, _SOFT = _colours(), _smooth()
_GREY = _RGB[..., 1]
_ALPHA = (np.add.outer(np.arange(_HEIGHT) * 3, np.arange(_WIDTH)) % 256).astype(np.uint8)[..., None]
_MULTIPLIED = (_RGB * (_ALPHA / 255)).round().astype(np.uint8)
_PALETTE = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16)
_PLANES = {"photometric": "rgb", "planarconfig": "separate"}
_JPEG = {"photometric": "rgb", "compression": "jpeg"}
_YCC = {"level": 95, "outcolorspace": "ycbcr"}

READ: dict[str, tuple[np.ndarray, dict, np.ndarray, int]] = {
    "rgb": (_RGB, {"photometric": "rgb"}, _RGB, 0),
    "big-endian": (_RGB, {"photometric": "rgb", "byteorder": ">"}, _RGB, 0),
    "bigtiff": (_RGB, {"photometric": "rgb", "bigtiff": True}, _RGB, 0),
    "predictor": (_RGB, {"photometric": "rgb", "compression": "lzw", "predictor": True}, _RGB, 0),
    "grey": (_GREY, {"photometric": "minisblack"}, _grey_to_rgb(_GREY), 0),
    "white is zero": (_GREY, {"photometric": "miniswhite"}, _grey_to_rgb(255 - _GREY), 0),
    "palette": (_GREY, {"photometric": "palette", "colormap": _PALETTE * 257}, _PALETTE.T[_GREY], 0),
    "palette of left-shifted colours": (
        _GREY, {"photometric": "palette", "colormap": _PALETTE * 256}, _PALETTE.T[_GREY], 0,
    ),
    "unspecified fourth sample": (
        np.dstack([_RGB, _ALPHA]), {"photometric": "rgb", "extrasamples": ["unspecified"]}, _RGB, 0,
    ),
    "associated alpha": (
        np.dstack([_MULTIPLIED, _ALPHA]), {"photometric": "rgb", "extrasamples": ["assocalpha"]},
        _over_white(_MULTIPLIED, _ALPHA, premultiplied=True), 0,
    ),
    "unassociated alpha": (
        np.dstack([_RGB, _ALPHA]), {"photometric": "rgb", "extrasamples": ["unassalpha"]},
        _over_white(_RGB, _ALPHA, premultiplied=False), 0,
    ),
    "grey with alpha": (
        np.dstack([_GREY, _ALPHA]),
        {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]},
        _over_white(_grey_to_rgb(_GREY), _ALPHA, premultiplied=False), 0,
    ),
    "planes": (np.moveaxis(_RGB, -1, 0), _PLANES, _RGB, 0),
    "deflated planes": (np.moveaxis(_RGB, -1, 0), {**_PLANES, "compression": "deflate"}, _RGB, 0),
    "planes with alpha": (
        np.moveaxis(np.dstack([_RGB, _ALPHA]), -1, 0), {**_PLANES, "extrasamples": ["unassalpha"]},
        _over_white(_RGB, _ALPHA, premultiplied=False), 0,
    ),
    "ycbcr": (_ycbcr(_RGB), {"photometric": "ycbcr"}, _RGB, 2),
    "deflated ycbcr": (_ycbcr(_RGB), {"photometric": "ycbcr", "compression": "deflate"}, _RGB, 2),
    "ycbcr planes": (np.moveaxis(_ycbcr(_RGB), -1, 0), {**_PLANES, "photometric": "ycbcr"}, _RGB, 2),
    "jpeg": (_SOFT, {**_JPEG, "compressionargs": _YCC, "subsampling": (1, 1)}, _SOFT, 6),
    "jpeg 4:2:2": (_SOFT, {**_JPEG, "compressionargs": _YCC, "subsampling": (2, 1)}, _SOFT, 6),
    "jpeg 4:2:0": (_SOFT, {**_JPEG, "compressionargs": _YCC, "subsampling": (2, 2)}, _SOFT, 6),
    "jpeg of rgb": (_SOFT, {**_JPEG, "compressionargs": {"level": 95}}, _SOFT, 6),
    "grey jpeg": (_SOFT[..., 1], {"photometric": "minisblack", "compression": "jpeg"}, _grey_to_rgb(_SOFT[..., 1]), 6),
}  # fmt: skip
MAY_BE_REFUSED = ("trestle", "ventana")
"""Vendors whose levels are not plain pages, so that only OpenSlide can read them."""

REFUSED: dict[str, tuple[np.ndarray, dict]] = {
    "1 bit": (_GREY > 127, {"photometric": "minisblack"}),
    "1 bit, white is zero": (_GREY > 127, {"photometric": "miniswhite"}),
    "2 bits": (_GREY >> 6, {"photometric": "minisblack", "bitspersample": 2}),
    "4 bits": (_GREY >> 4, {"photometric": "minisblack", "bitspersample": 4}),
    "4 bits of rgb": (_RGB >> 4, {"photometric": "rgb", "bitspersample": 4}),
    "12 bits": (_GREY.astype(np.uint16) * 16, {"photometric": "minisblack", "bitspersample": 12}),
    "12 bits of rgb": (_RGB.astype(np.uint16) * 16, {"photometric": "rgb", "bitspersample": 12}),
    "16 bits": (_RGB.astype(np.uint16) * 257, {"photometric": "rgb"}),
    "16 bits with 15 levels": (_RGB.astype(np.uint16) // 17, {"photometric": "rgb"}),
    "16 bits of grey": (_GREY.astype(np.uint16), {"photometric": "minisblack"}),
    "32 bits": (_GREY.astype(np.uint32), {"photometric": "minisblack"}),
    "signed": (_RGB.view(np.int8), {"photometric": "rgb"}),
    "float": ((_RGB / 255).astype(np.float32), {"photometric": "rgb"}),
    "double": ((_GREY / 255).astype(np.float64), {"photometric": "minisblack"}),
    "2 channels": (np.dstack([_GREY, _GREY]), {"photometric": "minisblack", "planarconfig": "contig"}),
    "3 channels": (_RGB, {"photometric": "minisblack", "planarconfig": "contig"}),
    "3 channels in planes": (np.moveaxis(_RGB, -1, 0), {"photometric": "minisblack", "planarconfig": "separate"}),
    "5 channels": (np.dstack([_RGB, _RGB[..., :2]]), {"photometric": "minisblack", "planarconfig": "contig"}),
    "6 channels": (np.dstack([_RGB, _RGB]), {"photometric": "minisblack", "planarconfig": "contig"}),
    "rgb and 2 more": (np.dstack([_RGB, _ALPHA, _ALPHA]), {"photometric": "rgb", "extrasamples": [0, 0]}),
    "cmyk": (np.dstack([_RGB, _ALPHA]), {"photometric": "separated"}),
    "cielab": (_RGB, {"photometric": "cielab"}),
    "icclab": (_RGB, {"photometric": "icclab"}),
    "itulab": (_RGB, {"photometric": "itulab"}),
    "linear raw": (_RGB, {"photometric": 34892}),
    "logluv": (_RGB, {"photometric": 32845}),
}


def write(path: Path, pixels: np.ndarray, vendor: str, chunks: str, options: dict) -> Path:
    all_options = {"metadata": None, **{**_VENDORS, "philips": _PHILIPS}[vendor], **_CHUNKS[chunks], **options}
    container = {name: all_options.pop(name) for name in ("ome", "bigtiff", "byteorder") if name in all_options}
    with tifffile.TiffWriter(path, **container) as tiff:
        tiff.write(pixels, **all_options)
    return path


@pytest.mark.parametrize("chunks", _CHUNKS)
@pytest.mark.parametrize("vendor", _VENDORS)
@pytest.mark.parametrize("kind", READ)
def test_pixels_are_right_or_refused_with_a_message(tmp_path, open_slide, kind: str, vendor: str, chunks: str) -> None:
    pixels, options, truth, tolerance = READ[kind]
    path = write(tmp_path / "slide.tif", pixels, vendor, chunks, options)
    try:
        reader = open_slide(path)
    except UnsupportedPixelsError:
        assert vendor in MAY_BE_REFUSED
        assert chunks == "tiles"
        return
    for region in (Region(0, 0, _WIDTH, _HEIGHT), Region(50, 40, 77, 63), Region(191, 127, 1, 1)):
        found = reader.read_region(0, region).astype(int)
        expected = truth[region.y : region.bottom, region.x : region.right]
        assert np.abs(found - expected).max() <= tolerance
    assert bool(reader.info.warnings) == ("alpha" in kind or "fourth" in kind)


@pytest.mark.parametrize("vendor", ["plain", "aperio", "ome"])
@pytest.mark.parametrize("pixels", [_RGB, _GREY], ids=["rgb", "grey"])
@pytest.mark.parametrize("tile", [(16, 16), (48, 48), (80, 112), (240, 240)])
def test_uncompressed_tiles_of_any_size_are_read(tmp_path, open_slide, tile, pixels: np.ndarray, vendor: str) -> None:
    options = {"photometric": "rgb" if pixels.ndim == 3 else "minisblack", "tile": tile}
    found = open_slide(write(tmp_path / "slide.tif", pixels, vendor, "tiles", options)).read_region(
        0, Region(0, 0, _WIDTH, _HEIGHT)
    )
    assert (found == (pixels if pixels.ndim == 3 else _grey_to_rgb(pixels))).all()


@pytest.mark.parametrize("head", [b"\xff\x4f\xff\x51", b"\xff\xd8\xff\xc0\xff\xff\x08\xff\xff\xff\xff", b"\xff\x0a"])
@pytest.mark.parametrize("chunks", _CHUNKS)
def test_uncompressed_pixels_that_look_like_a_stream_header(tmp_path, open_slide, chunks: str, head: bytes) -> None:
    truth = _RGB.copy()
    truth.reshape(-1)[: 4 * len(head)] = np.frombuffer(head * 4, np.uint8)
    options = {"photometric": "rgb", "ome": True}
    found = open_slide(write(tmp_path / "slide.ome.tif", truth, "ome", chunks, options))
    assert (found.read_region(0, Region(0, 0, _WIDTH, _HEIGHT)) == truth).all()


@pytest.mark.parametrize("chunks", _CHUNKS)
@pytest.mark.parametrize("vendor", [*_VENDORS, "philips"])
@pytest.mark.parametrize("kind", REFUSED)
def test_unsupported_samples_are_refused_with_a_message(
    tmp_path, open_slide, kind: str, vendor: str, chunks: str
) -> None:
    pixels, options = REFUSED[kind]
    path = write(tmp_path / "slide.tif", pixels, vendor, chunks, options)
    with pytest.raises(UnsupportedPixelsError, match=r"slide\.tif: \d x \d+-bit samples") as refusal:
        open_slide(path)
    assert not any(word in str(refusal.value) for word in ("damaged", "copy", "cut short"))


@pytest.mark.parametrize("kind", ["ycbcr", "deflated ycbcr"])
@pytest.mark.parametrize("vendor", _VENDORS)
@pytest.mark.parametrize("chunks", _CHUNKS)
def test_subsampled_chroma_that_is_not_jpeg_is_refused(
    tmp_path, open_slide, kind: str, vendor: str, chunks: str
) -> None:
    path = write(tmp_path / "slide.tif", READ[kind][0], vendor, chunks, READ[kind][1])
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["YCbCrSubSampling"].overwrite((2, 2))
    with pytest.raises(UnsupportedPixelsError, match="subsampled"):
        open_slide(path)


def test_ycbcr_with_video_range_references(tmp_path, open_slide) -> None:
    span = np.array([219, 224, 224]) / 255
    stored = (
        (_ycbcr(_RGB) * span + np.array([16, 128 - 128 * 224 / 255, 128 - 128 * 224 / 255])).round().astype(np.uint8)
    )
    references = (16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1)
    options = {"photometric": "ycbcr", "extratags": [(532, "2I", 6, references, True)]}
    found = open_slide(write(tmp_path / "slide.tif", stored, "plain", "strips", options)).read_region(
        0, Region(0, 0, 192, 128)
    )
    assert np.abs(found.astype(int) - _RGB).max() <= 4


@pytest.mark.parametrize("references", [(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), (9, 1, 9, 1, 1, 1, 0, 1, 1, 0, 255, 1)])
def test_ycbcr_with_impossible_references_is_refused(tmp_path, open_slide, references: tuple[int, ...]) -> None:
    options = {"photometric": "ycbcr", "extratags": [(532, "2I", 6, references, True)]}
    path = write(tmp_path / "slide.tif", _ycbcr(_RGB), "plain", "strips", options)
    with pytest.raises(UnsupportedPixelsError):
        open_slide(path)


@pytest.mark.parametrize("vendor", ["plain", "aperio"])
def test_coarser_level_of_unsupported_samples_is_ignored(tmp_path, open_slide, vendor: str) -> None:
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as tiff:
        options = {"photometric": "rgb", "tile": (64, 64), "metadata": None, **_VENDORS[vendor]}
        tiff.write(_RGB, **options)
        tiff.write(_RGB[::2, ::2].astype(np.uint16), subfiletype=1, **options)
    reader = open_slide(path)
    assert len(reader.info.levels) == 1
    assert (reader.read_region(0, Region(0, 0, _WIDTH, _HEIGHT)) == _RGB).all()


@pytest.mark.parametrize("vendor", ["plain", "trestle", "ventana", "ome"])
@pytest.mark.parametrize("chunks", _CHUNKS)
def test_jpeg_2000_in_ycbcr_is_read_for_aperio_only(tmp_path, open_slide, vendor, chunks: str) -> None:
    options = {"photometric": "rgb", "compression": 33003, "compressionargs": {"mct": False}}
    with pytest.raises(UnsupportedPixelsError, match="JP2000"):
        open_slide(write(tmp_path / "slide.tif", _ycbcr(_RGB), vendor, chunks, options))
    path = write(tmp_path / "slide.svs", _ycbcr(_RGB), "aperio", "tiles", options)
    found = open_slide(path).read_region(0, Region(0, 0, _WIDTH, _HEIGHT)).astype(int)
    assert np.abs(found - _RGB).max() <= 2


@pytest.mark.parametrize("chunks", _CHUNKS)
def test_warning_about_further_planes_of_a_plain_tiff(tmp_path, open_slide, chunks: str) -> None:
    planes = [_RGB, _SOFT, _RGB[::-1]]
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as tiff:
        for plane in planes:
            tiff.write(np.ascontiguousarray(plane), photometric="rgb", metadata=None, **_CHUNKS[chunks])
    reader = open_slide(path)
    assert (reader.read_region(0, Region(0, 0, _WIDTH, _HEIGHT)) == _RGB).all()
    assert any("2 further planes" in warning for warning in reader.info.warnings)


@pytest.mark.parametrize("chunks", _CHUNKS)
def test_largest_page_of_a_plain_tiff_is_the_slide(tmp_path, open_slide, chunks: str) -> None:
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as tiff:
        for pixels in (_SOFT[:64, :64], _RGB):
            tiff.write(np.ascontiguousarray(pixels), photometric="rgb", metadata=None, **_CHUNKS[chunks])
    reader = open_slide(path)
    assert (reader.read_region(0, Region(0, 0, _WIDTH, _HEIGHT)) == _RGB).all()
    assert any("64 x 64 px" in warning for warning in reader.info.warnings)
