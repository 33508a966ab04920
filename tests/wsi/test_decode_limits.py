"""Tests of the limits on tile, strip and image sizes that are checked before decoding."""

import importlib.util
import io
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import repeat
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from slidelift.wsi.errors import SlideUnreadableError, TileReadError, UnsupportedPixelsError
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.readers import flat_image
from slidelift.wsi.readers.decode_limits import MAX_TILE_BYTES, declared_size
from slidelift.wsi.readers.open_slide import open_slide

PLAIN = np.full((512, 512, 3), (200, 120, 180), np.uint8)
NOISE = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)


def write_levels(path: Path, coarse: dict[str, Any], *, ome: bool = False) -> Path:
    """Write a valid level of 1,024 px and a coarser level whose only tile is not decoded."""
    options = {"photometric": "rgb", "compression": "deflate", "metadata": {} if ome else None}
    with tifffile.TiffWriter(path, bigtiff=True, ome=ome) as tiff:
        tiff.write(np.full((1024, 1024, 3), 200, np.uint8), tile=(256, 256), subifds=1 if ome else 0, **options)
        tiff.write(repeat(b"x"), dtype=np.uint8, subfiletype=1, **options, **coarse)
    return path


@pytest.mark.parametrize(
    ("name", "ome", "coarse", "said"),
    [
        ("a.tif", False, {"shape": (512, 512, 3), "tile": (46000, 46000)}, "level 1 .* 46000x46000 px"),
        ("a.ome.tif", True, {"shape": (512, 512, 3), "tile": (46000, 46000)}, "level 1 .* 46000x46000 px"),
        ("b.ome.tif", True, {"shape": (512, 512, 3), "tile": (16, 4_000_000)}, "level 1 .* 4000000x16 px"),
    ],
)
def test_level_with_too_large_tiles_is_refused(
    tmp_path: Path, name: str, ome: bool, coarse: dict[str, Any], said: str
) -> None:
    path = write_levels(tmp_path / name, coarse, ome=ome)
    with pytest.raises(UnsupportedPixelsError, match=rf"{name}: {said}.* save the slide as a tiled"):
        open_slide(path)


@pytest.mark.parametrize(("height", "rows"), [(20_000, 20_000), (20_000, 7_000)])
def test_image_with_too_large_strips_is_refused(tmp_path: Path, height: int, rows: int) -> None:
    strips = iter([b"x"] * -(-height // rows))
    options = {"photometric": "rgb", "compression": "deflate", "metadata": None, "rowsperstrip": rows}
    tifffile.imwrite(tmp_path / "a.tif", strips, shape=(height, 20_000, 3), dtype=np.uint8, **options)
    with pytest.raises(UnsupportedPixelsError, match=f"level 0 .* 20000x{rows} px.* save the slide as a tiled"):
        open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize("ome", [False, True])
def test_tiles_of_4096_px_are_read(tmp_path: Path, ome: bool) -> None:
    path, pixels = tmp_path / ("a.ome.tif" if ome else "a.tif"), np.zeros((4096, 4096, 3), np.uint8)
    pixels[:] = np.arange(4096)[:, None, None] % 251
    options = {"tile": (4096, 4096), "photometric": "rgb", "compression": "deflate"}
    tifffile.imwrite(path, pixels, ome=ome, **options, metadata={} if ome else None)
    with closing(open_slide(path)) as reader:
        assert (reader.read_region(0, Region(4000, 4000, 96, 96)) == pixels[4000:, 4000:]).all()


def test_limit_leaves_room_for_the_largest_tiles_of_scanners() -> None:
    assert MAX_TILE_BYTES >= 4 * 4096**2 * 2


def jpeg(side: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(NOISE).save(stream, "JPEG", subsampling=0)
    data = bytearray(stream.getvalue())
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, side, side)
    return bytes(data)


def jpeg_2000(side: int) -> bytes:
    data = bytearray(imagecodecs.jpeg2k_encode(NOISE, codecformat="j2k"))
    struct.pack_into(">II", data, data.index(b"\xff\x4f\xff\x51") + 8, side, side)
    return bytes(data)


def webp(side: int) -> bytes:
    data = bytearray(imagecodecs.webp_encode(NOISE, lossless=True))
    packed = struct.unpack_from("<I", data, 21)[0] & ~0xFFFFFFF
    struct.pack_into("<I", data, 21, packed | (side - 1) | (side - 1) << 14)
    return bytes(data)


def jpeg_xl(side: int) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(np.zeros((side, side, 3), np.uint8), effort=1))


@pytest.mark.parametrize(
    ("compression", "encode", "side"),
    [("jpeg", jpeg, 60_000), (34712, jpeg_2000, 60_000), (50001, webp, 16_000), (50002, jpeg_xl, 7_000)],
)
def test_tile_with_too_large_declared_size_fails_and_others_stay_readable(
    tmp_path: Path, compression: str | int, encode: Callable[[int], bytes], side: int
) -> None:
    tiles = [encode(256), encode(side)]
    options = {"tile": (256, 256), "photometric": "rgb", "compression": compression}
    tifffile.imwrite(tmp_path / "a.ome.tif", iter(tiles), shape=(256, 512, 3), dtype=np.uint8, **options)
    with closing(open_slide(tmp_path / "a.ome.tif")) as reader:
        assert reader.info.reader == "tiffslide"
        assert reader.read_region(0, Region(0, 0, 256, 256)).shape == (256, 256, 3)
        with pytest.raises(TileReadError, match=f"its header declares {side}x{side} px"):
            reader.read_region(0, Region(300, 0, 10, 10))


def encodings(pixels: np.ndarray) -> Iterator[bytes]:
    image = Image.fromarray(pixels)
    for kind, options in [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}),
        ("JPEG2000", {}),
        ("JPEG2000", {"no_jp2": True}),
    ]:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        yield stream.getvalue()
    yield bytes(imagecodecs.jpegxl_encode(pixels, effort=1))
    yield bytes(imagecodecs.jpegls_encode(np.zeros(pixels.shape[:2], np.uint8)))


@pytest.mark.parametrize("shape", [(177, 301), (256, 256), (64, 48), (3, 2000), (300, 400)])
def test_declared_size_equals_the_encoded_size(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (*shape, 3), np.uint8)
    for data in encodings(pixels):
        assert declared_size(data) == Size(shape[1], shape[0])
        for cut in range(min(len(data), 60)):
            assert declared_size(data[:cut]) in (None, Size(shape[1], shape[0]))
    assert declared_size(b"") is None


@pytest.mark.parametrize("side", [13_000, 10_001])
def test_too_large_image_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(side) + bytes(2**20))
    with pytest.raises(UnsupportedPixelsError, match=r"more than 100 megapixels.* as a tiled"):
        open_slide(tmp_path / "a.jpg")
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + header + bytes(4))
    bmp = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 0, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    (tmp_path / "a.bmp").write_bytes(bmp)
    for name in ("a.png", "a.bmp"):
        with pytest.raises((UnsupportedPixelsError, SlideUnreadableError), match=name):
            open_slide(tmp_path / name)


def test_jpeg_with_too_few_bytes_for_its_size_is_refused(tmp_path: Path) -> None:
    """The decoder would fill the missing part with grey."""
    (tmp_path / "a.jpg").write_bytes(jpeg(9_000)[:700] + b"\xff\xd9")
    with pytest.raises(SlideUnreadableError, match=r"a\.jpg: .* too small for 9000x9000 px"):
        open_slide(tmp_path / "a.jpg")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"subsampling": 0}])
def test_smallest_possible_jpeg_is_read(tmp_path: Path, options: dict[str, Any]) -> None:
    Image.new("RGB", (4000, 3000), "white").save(tmp_path / "a.jpg", quality=1, **options)
    with closing(open_slide(tmp_path / "a.jpg")) as reader:
        assert reader.info.size == Size(4000, 3000)
    assert flat_image.MAX_PIXELS == 100_000_000


def test_mrxs_with_too_large_camera_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s.mrxs").write_bytes(b"x")
    said = "[HIERARCHICAL]\nINDEXFILE = I.dat\n[L0]\nDIGITIZER_WIDTH = 256\nDIGITIZER_HEIGHT = 256\n"
    (tmp_path / "s" / "Slidedat.ini").write_text(f"{said}[L1]\nDIGITIZER_WIDTH = 46000\nDIGITIZER_HEIGHT = 46000\n")
    with pytest.raises(UnsupportedPixelsError, match=r"s\.mrxs: .* 46000x46000 px"):
        open_slide(tmp_path / "s.mrxs")


def test_dicom_with_too_large_frames_is_refused(tmp_path: Path) -> None:
    place = Path(__file__).parents[1] / "service" / "dicom_for_tests.py"
    spec = importlib.util.spec_from_file_location("dicom_for_tests", place)
    assert spec is not None
    assert spec.loader is not None
    dicom = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(dicom)
    data = dicom.instance(Image.fromarray(NOISE[:64, :64]), "1.2.840.99", 1, 0.5)
    for tag in (0x10, 0x11):
        valid, huge = (struct.pack("<HH2sHH", 0x28, tag, b"US", 2, side) for side in (64, 46_000))
        data = data.replace(valid, huge)
    (tmp_path / "a.dcm").write_bytes(data)
    with pytest.raises(UnsupportedPixelsError, match=r"a\.dcm: level 0 .* 46000x46000 px"):
        open_slide(tmp_path / "a.dcm")
