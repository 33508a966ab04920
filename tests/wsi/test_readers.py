"""Tests that all readers share, and tests of opening slides."""

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image, ImageCms

from slidelift.wsi.companions import companion_files, content_hash
from slidelift.wsi.errors import (
    PixelSizeImplausibleError,
    PixelSizeMissingError,
    SlideError,
    SlideUnreadableError,
    TileReadError,
    UnsupportedPixelsError,
    library_message,
)
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.readers.open_slide import open_slide as open_by_name
from slidelift.wsi.readers.result import open_result


class ReaderContract:
    """Tests for any reader; a subclass writes a lossless slide with the formula's pixels."""

    name: str
    levels = 1

    def write(self, path: Path, pixels: np.ndarray) -> Path:
        raise NotImplementedError

    @pytest.fixture
    def slide(self, tmp_path, formula_pixels, open_slide):
        return open_slide(self.write(tmp_path / "slide", formula_pixels(Region(0, 0, 700, 500))))

    def test_open_slide_chooses_this_reader(self, slide) -> None:
        assert slide.info.reader == self.name
        assert slide.info.size == Size(700, 500)
        assert len(slide.info.levels) == self.levels

    @pytest.mark.parametrize("region", [(0, 0, 700, 500), (699, 499, 1, 1), (255, 250, 300, 12), (13, 0, 1, 500)])
    def test_regions_have_the_right_pixels(self, slide, formula_pixels, region) -> None:
        pixels = slide.read_region(0, Region(*region))
        assert pixels.dtype == np.uint8
        assert (pixels == formula_pixels(Region(*region))).all()

    def test_concurrent_reads_give_the_right_pixels(self, slide, formula_pixels) -> None:
        regions = [Region(x, y, 64, 64) for y in range(0, 400, 50) for x in range(0, 600, 50)]
        with ThreadPoolExecutor(8) as pool:
            for region, pixels in zip(regions, pool.map(lambda r: slide.read_region(0, r), regions), strict=True):
                assert (pixels == formula_pixels(region)).all()

    def test_coarser_levels_have_the_right_pixels(self, slide, formula_pixels) -> None:
        full = formula_pixels(Region(0, 0, 700, 500))
        for level in range(1, self.levels):
            step = 2**level
            assert (slide.read_region(level, Region(10, 20, 30, 40)) == full[::step, ::step][20:60, 10:40]).all()


class TestOpenSlide(ReaderContract):
    name = "openslide"
    levels = 3

    def write(self, path: Path, pixels: np.ndarray) -> Path:
        with tifffile.TiffWriter(path.with_suffix(".tiff"), bigtiff=True) as tiff:
            for level in range(3):
                step = 2**level
                tiff.write(
                    np.ascontiguousarray(pixels[::step, ::step]),
                    photometric="rgb",
                    tile=(256, 256),
                    compression="deflate",
                    subfiletype=1 if level else 0,
                    metadata=None,
                )
        return path.with_suffix(".tiff")


class TestTiffSlide(ReaderContract):
    name = "tiffslide"
    levels = 2

    def write(self, path: Path, pixels: np.ndarray) -> Path:
        target = path.with_suffix(".ome.tif")
        with tifffile.TiffWriter(target, ome=True) as tiff:
            options = {"photometric": "rgb", "compression": "deflate"}
            tiff.write(pixels, subifds=1, rowsperstrip=32, **options)
            tiff.write(np.ascontiguousarray(pixels[::2, ::2]), subfiletype=1, rowsperstrip=32, **options)
        return target


class TestFlatImage(ReaderContract):
    name = "pillow"

    def write(self, path: Path, pixels: np.ndarray) -> Path:
        Image.fromarray(pixels).save(path.with_suffix(".png"))
        return path.with_suffix(".png")


def test_metadata_of_a_real_slide(cmu, open_slide) -> None:
    info = open_slide(cmu).info
    assert (info.vendor, info.size, info.mpp, info.objective) == ("aperio", Size(2220, 2967), (0.499, 0.499), 20.0)


def test_an_ome_tiff_that_openslide_refuses_is_read(data, open_slide) -> None:
    reader = open_slide(data / "slides" / "OS-1-detail.ome.tif")
    with tifffile.TiffFile(data / "slides" / "OS-1-detail.ome.tif") as tiff:
        truth = tiff.pages.first.asarray()
    assert reader.info.reader == "tiffslide"
    assert reader.info.mpp == pytest.approx((0.2271, 0.2271), abs=1e-4)
    assert (reader.read_region(0, Region(300, 200, 100, 90)) == truth[200:290, 300:400]).all()


def test_tiffslide_reads_levels_of_odd_ratio_at_the_right_place(tmp_path, formula_pixels, open_slide) -> None:
    full, coarse = formula_pixels(Region(0, 0, 2003, 403)), formula_pixels(Region(0, 0, 500, 100), 1)
    path = tmp_path / "odd.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(full, subifds=1, rowsperstrip=32, photometric="rgb")
        tiff.write(coarse, subfiletype=1, rowsperstrip=32, photometric="rgb")
    reader = open_slide(path)
    for x in range(0, 480, 7):
        for y in (0, 33, 71):
            assert (reader.read_region(1, Region(x, y, 20, 20)) == coarse[y : y + 20, x : x + 20]).all()


@pytest.mark.parametrize("unit", [{}, {"PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "nm"}])
def test_levels_and_pixel_size_of_a_tiled_ome_tiff(tmp_path, formula_pixels, open_slide, unit) -> None:
    full = formula_pixels(Region(0, 0, 1024, 768))
    size = 250.0 if unit else 0.25
    path = tmp_path / "tiled.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        metadata = {"PhysicalSizeX": size, "PhysicalSizeY": size, **unit}
        tiff.write(full, subifds=1, tile=(256, 256), photometric="rgb", metadata=metadata)
        tiff.write(np.ascontiguousarray(full[::2, ::2]), subfiletype=1, tile=(256, 256), photometric="rgb")
    info = open_slide(path).info
    assert len(info.levels) == 2
    assert info.mpp == pytest.approx((0.25, 0.25))


def test_compression_unsupported_by_openslide_is_read_by_tiffslide(tmp_path, open_slide) -> None:
    pixels = np.full((256, 256, 3), (200, 120, 180), np.uint8)
    path = tmp_path / "j2k.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(256, 256), compression="jpeg2000", metadata=None)
    assert (open_slide(path).read_region(0, Region(0, 0, 256, 256)) == pixels).all()


def test_a_bad_tile_fails_and_the_others_stay_readable(data, open_slide) -> None:
    reader = open_slide(data / "damaged" / "cmu-bitflip-tiles.svs")
    before = reader.read_region(0, Region(0, 0, 100, 100))
    with pytest.raises(TileReadError, match=r"cmu-bitflip-tiles\.svs: level 0, x 1000, y 1200"):
        reader.read_region(0, Region(1000, 1200, 100, 100))
    assert (reader.read_region(0, Region(0, 0, 100, 100)) == before).all()


def test_bad_tile_in_one_thread_does_not_affect_others(data, open_slide) -> None:
    reader = open_slide(data / "damaged" / "cmu-bitflip-tiles.svs")
    good = reader.read_region(0, Region(0, 0, 64, 64))

    def read(index: int) -> bool:
        if index % 3 == 0:
            with pytest.raises(TileReadError):
                reader.read_region(0, Region(1000, 1200, 64, 64))
            return True
        return bool((reader.read_region(0, Region(0, 0, 64, 64)) == good).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(60)))


def test_a_damaged_slide_is_not_handed_to_a_more_lenient_decoder(data, open_slide) -> None:
    with pytest.raises(SlideUnreadableError, match="OpenSlide"):
        open_slide(data / "damaged" / "unopenable.tiff")


@pytest.mark.parametrize("name", ["zero-byte.svs", "text.svs", "cmu-truncated-46pct.svs"])
def test_message_for_other_files_names_the_file(data, name: str, open_slide) -> None:
    with pytest.raises(SlideUnreadableError, match=name):
        open_slide(data / "damaged" / name)


@pytest.mark.parametrize("big", [False, True])
def test_tiff_truncated_in_its_header_or_ifd_is_refused(tmp_path, open_slide, big: bool) -> None:
    path = tmp_path / "cut.tiff"
    tifffile.imwrite(path, np.zeros((16, 16, 3), np.uint8), photometric="rgb", bigtiff=big)
    whole = path.read_bytes()
    for length in range(4, 100):
        path.write_bytes(whole[:length])
        with pytest.raises((SlideUnreadableError, UnsupportedPixelsError), match=r"cut\.tiff"):
            open_slide(path)


def test_messages_for_a_missing_file_and_a_folder(tmp_path, open_slide) -> None:
    with pytest.raises(SlideUnreadableError, match="no such file"):
        open_slide(tmp_path / "none.svs")
    with pytest.raises(SlideUnreadableError, match="a folder"):
        open_slide(tmp_path)


@pytest.mark.parametrize("tile", [(64, 64), None])
def test_16_bit_samples_are_refused(tmp_path, tile, open_slide) -> None:
    path = tmp_path / "deep.tiff"
    tifffile.imwrite(path, np.zeros((128, 128, 3), np.uint16), photometric="rgb", tile=tile, metadata=None)
    with pytest.raises(UnsupportedPixelsError, match="16"):
        open_slide(path)


def test_many_channels_are_refused(tmp_path, open_slide) -> None:
    path = tmp_path / "channels.ome.tif"
    tifffile.imwrite(
        path, np.zeros((4, 128, 128), np.uint8), photometric="minisblack", ome=True, metadata={"axes": "CYX"}
    )
    with pytest.raises((UnsupportedPixelsError, SlideUnreadableError), match=r"channels\.ome\.tif"):
        open_slide(path)


def test_unscanned_tiles_are_white(tmp_path, open_slide) -> None:
    path = tmp_path / "sparse.tif"
    tiles = iter([b"", *[bytes([90]) * 64 * 64 * 3] * 3])
    tifffile.imwrite(path, tiles, shape=(128, 128, 3), dtype=np.uint8, tile=(64, 64), photometric="rgb", metadata=None)
    assert (open_slide(path).read_region(0, Region(0, 0, 64, 64)) == 255).all()
    assert (open_slide(path).read_region(0, Region(64, 64, 64, 64)) == 90).all()


def test_strips_without_data_are_refused(tmp_path, open_slide) -> None:
    path = tmp_path / "sparse.tif"
    tifffile.imwrite(path, np.full((128, 128, 3), 90, np.uint8), rowsperstrip=64, photometric="rgb", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["StripByteCounts"].overwrite((0, 64 * 128 * 3))
    with pytest.raises(SlideUnreadableError, match="no data"):
        open_slide(path)


def test_grey_images_become_rgb(tmp_path, open_slide) -> None:
    grey = np.arange(4096, dtype=np.uint32).reshape(64, 64).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    tifffile.imwrite(tmp_path / "grey.tif", grey, photometric="minisblack", metadata=None)
    for name in ("grey.png", "grey.tif"):
        pixels = open_slide(tmp_path / name).read_region(0, Region(0, 0, 64, 64))
        assert (pixels == grey[..., None]).all()


def test_transparent_pixels_are_white_with_a_warning(tmp_path, open_slide) -> None:
    Image.new("RGBA", (10, 10), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    reader = open_slide(tmp_path / "clear.png")
    assert (reader.read_region(0, Region(0, 0, 10, 10)) == 255).all()
    assert any("transparent" in warning for warning in reader.info.warnings)


def test_16_bit_png_is_converted_with_a_warning(tmp_path, open_slide) -> None:
    deep = np.full((8, 8, 3), 0x80FF, ">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    path = tmp_path / "deep.png"
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    reader = open_slide(path)
    assert (reader.read_region(0, Region(0, 0, 8, 8)) == 0x80).all()
    assert any("16-bit" in warning for warning in reader.info.warnings)


def test_colour_profiles_are_read(tmp_path, data, open_slide) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (10, 10)).save(tmp_path / "p.png", icc_profile=profile)
    assert open_slide(tmp_path / "p.png").info.icc_profile == profile
    boxes = data / "slides" / "boxes.tiff"
    with openslide.OpenSlide(boxes) as slide:
        assert open_slide(boxes).info.icc_profile == slide.color_profile.tobytes()


def test_unknown_pixel_size_must_be_given(write_png, open_slide) -> None:
    info = open_slide(write_png(10, 10)).info
    with pytest.raises(PixelSizeMissingError, match="--mpp"):
        info.resolve_mpp(None)
    assert info.resolve_mpp(0.5) == (0.5, 0.5)


def test_implausible_pixel_size_must_be_confirmed(data, open_slide) -> None:
    info = open_slide(data / "slides" / "cmu-1-wrong-mpp.tiff").info
    with pytest.raises(PixelSizeImplausibleError, match=r"0\.00499"):
        info.resolve_mpp(None)
    assert info.resolve_mpp(0.00499) == (0.00499, 0.00499)


def test_content_hash_covers_companions_but_not_names(tmp_path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a.mrxs").write_bytes(b"index")
    (tmp_path / "a" / "Data0.dat").write_bytes(b"pixels")
    first = content_hash(tmp_path / "a.mrxs")
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "a.mrxs").rename(tmp_path / "b.mrxs")
    assert content_hash(tmp_path / "b.mrxs") == first
    assert len(list(companion_files(tmp_path / "b.mrxs"))) == 2
    (tmp_path / "b" / "Data0.dat").write_bytes(b"others")
    assert content_hash(tmp_path / "b.mrxs") != first


def test_content_hash_of_one_file_is_its_sha256(cmu) -> None:
    assert content_hash(cmu) == hashlib.sha256(cmu.read_bytes()).hexdigest()


NAME = "Case 7.svs"


def write_refused(kind: str, folder: Path, data: Path) -> Path:
    """Write or copy a slide that the reader or the check named by `kind` refuses."""
    tiff, damaged = folder / "slide.tif", data / "damaged"
    match kind:
        case "missing":
            return folder / "slide.svs"
        case "folder":
            return folder
        case "empty":
            (folder / "slide.svs").touch()
            return folder / "slide.svs"
        case "unknown":
            return Path(shutil.copy(damaged / "text.svs", folder / "slide.svs"))
        case "openslide":
            return Path(shutil.copy(damaged / "unopenable.tiff", tiff))
        case "tiffslide":
            tifffile.imwrite(tiff, np.zeros((64, 64, 3), np.uint16), photometric="rgb", metadata=None)
            return tiff
        case "png":
            Image.new("RGB", (300, 300), "red").save(folder / "slide.png")
            content = (folder / "slide.png").read_bytes()
            (folder / "slide.png").write_bytes(content[:60])
            return folder / "slide.png"
        case "cmyk":
            Image.new("CMYK", (30, 30)).save(folder / "slide.jpg")
            return folder / "slide.jpg"
        case "truncated":
            with tifffile.TiffWriter(tiff) as writer:
                for side in (128, 64):
                    pixels = np.zeros((side, side, 3), np.uint8)
                    writer.write(pixels, photometric="rgb", tile=(64, 64), metadata=None, subfiletype=int(side == 64))
            tiff.write_bytes(tiff.read_bytes()[:-10_000])
            return tiff
        case "foreign":
            (folder / "slide.vms").write_text("[Virtual Microscope Specimen]\nImageFile=/etc/passwd\n")
            return folder / "slide.vms"
        case "link":
            (folder / "slide.mrxs").write_bytes(b"x")
            (folder / "slide").symlink_to(data)
            return folder / "slide.mrxs"
    raise ValueError(kind)


@pytest.mark.parametrize(
    "kind",
    ["missing", "folder", "empty", "unknown", "openslide", "tiffslide", "png", "cmyk", "truncated", "foreign", "link"],
)
def test_refusal_names_the_display_name_and_no_path(tmp_path: Path, data: Path, kind: str) -> None:
    folder = tmp_path / "Secret"
    folder.mkdir()
    path = write_refused(kind, folder, data)
    with pytest.raises(SlideError) as error:
        open_by_name(path, NAME)
    assert str(error.value).startswith(NAME)
    assert str(tmp_path) not in str(error.value)
    assert path.name not in str(error.value).replace("slide.mrxs/", "")


def test_unreadable_region_names_the_display_name_and_no_path(tmp_path: Path, data: Path) -> None:
    slide = Path(shutil.copy(data / "damaged" / "cmu-bitflip-tiles.svs", tmp_path / "slide.svs"))
    pyramid = tmp_path / "slide.ome.tif"
    with tifffile.TiffWriter(pyramid, ome=True) as tiff:
        tiff.write(np.zeros((64, 64, 3), np.uint8), photometric="rgb", compression="deflate", rowsperstrip=32)
    with tifffile.TiffFile(pyramid) as tiff:
        offset = tiff.pages.first.dataoffsets[0]
    content = bytearray(pyramid.read_bytes())
    content[offset : offset + 8] = b"damaged!"
    pyramid.write_bytes(content)
    for path, region in [(slide, Region(1000, 1200, 100, 100)), (pyramid, Region(0, 0, 10, 10))]:
        with closing(open_by_name(path, NAME)) as reader, pytest.raises(TileReadError) as error:
            reader.read_region(0, region)
        assert str(error.value).startswith(f"{NAME}: level 0")
        assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("output_format", ["ome-tiff", "ome-zarr"])
def test_damaged_result_is_named_by_its_display_name(tmp_path: Path, output_format: str) -> None:
    path = tmp_path / "result"
    path.write_bytes(b"II+")
    with pytest.raises(SlideUnreadableError) as error:
        open_result(path, output_format, NAME)
    assert str(error.value).startswith(NAME)
    assert str(tmp_path) not in str(error.value)


def test_library_messages_lose_the_path() -> None:
    path = Path("/data/slides/1/slide.svs")
    message = OSError("can't seek in /data/slides/1/slide.svs, nor in /data/slides/1/other.dat or /etc/x")
    assert library_message(message, path, NAME) == f"can't seek in {NAME}, nor in other.dat or /etc/x"
    assert library_message(AssertionError(), path, NAME) == "AssertionError"
    assert library_message(OSError("slide.svs is cut"), Path("slide.svs"), "slide.svs") == "slide.svs is cut"
