"""PNG, JPEG and BMP images of all bit depths and colour types are read or refused with a message."""

import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from slidelift.wsi.errors import SlideUnreadableError, UnsupportedPixelsError
from slidelift.wsi.geometry import Region

_WHOLE = Region(0, 0, 64, 48)


def write_png(path: Path, rows: np.ndarray, bits: int, kind: int, *between: tuple[bytes, bytes]) -> Path:
    """Encode a PNG; `rows` holds the stored bytes of each row."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 64, 48, bits, kind, 0, 0, 0)
    stored = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    body = b"".join(chunk(*one) for one in ((b"IHDR", header), *between, (b"IDAT", stored), (b"IEND", b"")))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.fixture
def pixels(formula_pixels) -> np.ndarray:
    return formula_pixels(_WHOLE)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_low_bit_depth_grey_is_scaled_to_8_bits(tmp_path, pixels, open_slide, bits: int) -> None:
    values = pixels[..., 1] >> (8 - bits)
    flags = ((values[..., None] >> np.arange(bits - 1, -1, -1)) & 1).reshape(48, -1).astype(np.uint8)
    path = write_png(tmp_path / "slide.png", np.packbits(flags, axis=1), bits, 0)
    found = open_slide(path).read_region(0, _WHOLE)
    assert (found == (values * (255 // (2**bits - 1)))[..., None]).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_of_any_bit_depth(tmp_path, pixels, open_slide, bits: int) -> None:
    values = pixels[..., 1] >> (8 - bits)
    colours = np.random.default_rng(bits).integers(0, 256, (2**bits, 3), dtype=np.uint8)
    image = Image.fromarray(values).convert("P")
    image.putdata(values.flatten().tolist())
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "slide.png", bits=bits)
    assert (open_slide(tmp_path / "slide.png").read_region(0, _WHOLE) == colours[values]).all()


def test_transparent_key_colour_is_white_with_a_warning(tmp_path, pixels, open_slide) -> None:
    key = tuple(int(value) for value in pixels[0, 0])
    keyed = write_png(tmp_path / "slide.png", pixels.reshape(48, -1), 8, 2, (b"tRNS", struct.pack(">3H", *key)))
    reader = open_slide(keyed)
    truth = np.where((pixels == pixels[0, 0]).all(axis=2)[..., None], 255, pixels)
    assert (reader.read_region(0, _WHOLE) == truth).all()
    assert any("transparent" in warning for warning in reader.info.warnings)


@pytest.mark.parametrize("kind", [0, 4])
def test_16_bit_grey_is_refused_or_converted_with_a_warning(tmp_path, pixels, open_slide, kind: int) -> None:
    deep = pixels[..., 1].astype(">u2") * 257
    stored = deep if kind == 0 else np.stack([deep, np.full_like(deep, 65535)], axis=2)
    path = write_png(tmp_path / "slide.png", stored.astype(">u2").reshape(48, -1), 16, kind)
    try:
        reader = open_slide(path)
    except UnsupportedPixelsError as refusal:
        assert "8-bit" in str(refusal)  # noqa: PT017 - both outcomes are valid
        return
    assert (reader.read_region(0, _WHOLE) == pixels[..., 1:2]).all()
    assert any("16-bit" in warning for warning in reader.info.warnings)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "L", "RGB"])
def test_jpeg_colour_spaces(tmp_path, open_slide, mode: str) -> None:
    plain = Image.new("RGB", (64, 48), (200, 120, 180))
    plain.convert(mode).save(tmp_path / "slide.jpg", quality=100)
    if mode == "CMYK":
        with pytest.raises(UnsupportedPixelsError, match="CMYK"):
            open_slide(tmp_path / "slide.jpg")
        return
    truth = np.asarray(plain.convert(mode).convert("RGB")).astype(int)
    assert np.abs(open_slide(tmp_path / "slide.jpg").read_region(0, _WHOLE) - truth).max() <= 3


def test_warning_about_further_frames(tmp_path, pixels, open_slide) -> None:
    frames = [Image.fromarray(pixels), Image.fromarray(255 - pixels)]
    frames[0].save(tmp_path / "slide.png", save_all=True, append_images=frames[1:])
    reader = open_slide(tmp_path / "slide.png")
    assert (reader.read_region(0, _WHOLE) == pixels).all()
    assert any("1 more" in warning for warning in reader.info.warnings)


def test_truncated_image_is_refused(tmp_path, pixels, open_slide) -> None:
    for kind in ("png", "jpg", "bmp"):
        path = tmp_path / f"slide.{kind}"
        Image.fromarray(pixels).save(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(SlideUnreadableError, match=f"slide.{kind}"):
            open_slide(path)


def test_message_for_a_12_bit_jpeg(tmp_path, open_slide) -> None:
    pixels = np.full((64, 64, 3), 2000, np.uint16)
    (tmp_path / "deep.jpg").write_bytes(imagecodecs.jpeg8_encode(pixels, bitspersample=12))
    with pytest.raises(SlideUnreadableError, match=r"deep\.jpg: its header .* a JPEG of 12 bits"):
        open_slide(tmp_path / "deep.jpg")
