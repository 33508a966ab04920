"""How much a decoder may have to hold at once: told by what a file declares, before anything is decoded.

A decoder holds a tile, a strip or an untiled picture whole, and takes its size from the file: 70 bytes of JPEG may
declare 65,535² pixels, and 200 kB of deflate may hold a tile of 8,192². Scanners write tiles of 240 to 4,096 px, so the
limit of a piece leaves twice the largest. Each decoding thread holds one, and decodes it again for the next patch: so a
piece may be less large than a picture (`wsi/readers/flat_image.py`), which is decoded once.
"""

import math
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import openslide
import tifffile

from slidelift.wsi.companions import entries, mrxs_index
from slidelift.wsi.errors import UnsupportedPixelsError
from slidelift.wsi.geometry import Size

MAX_TILE_BYTES = 1 << 27
"""Of one decoded tile or strip: 5,792² pixels of RGBA, as libopenslide holds them; 6,689² of RGB."""

_RGBA_BYTES = 4
# What a decoder allocates by a stream's own header, whatever the tile around it says.
_MAX_STREAM_PIXELS = MAX_TILE_BYTES // 3
_HEADER_BYTES = 1 << 16
_DIGITIZER = ("DIGITIZER_WIDTH", "DIGITIZER_HEIGHT")
_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # 0xF7 is JPEG-LS
_WITHOUT_HEADER = {1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000}
"""Compressions whose streams declare no size: none, CCITT, LZW, deflate, PackBits, LZMA, Zstandard. Their bytes may
look like the head of any picture: grey pixels with alpha do like a JPEG 2000."""
_JXL_RATIOS = (1, 12 / 10, 4 / 3, 3 / 2, 16 / 9, 5 / 4, 2)


def check_tile_sizes(name: str, pieces: Iterable[tuple[int, Size, int]]) -> None:
    """Refuse a slide of which a level comes in pieces that are too large.

    Parameters
    ----------
    pieces
        Level, size of a tile or strip, and bytes of it when decoded.

    Raises
    ------
    UnsupportedPixelsError
        Names the level and the size, and says what to do.
    """
    for level, size, count in pieces:
        if count > MAX_TILE_BYTES:
            raise UnsupportedPixelsError(
                f"{name}: level {level} comes in pieces of {size.width}x{size.height} px, each to be decoded whole "
                f"({count / 2**20:.0f} MiB; at most {MAX_TILE_BYTES >> 20} are taken); save the slide as a tiled, "
                "pyramidal TIFF first, for example with tiles of 512 px"
            )


def openslide_tiles(slide: openslide.OpenSlide) -> Iterator[tuple[int, Size, int]]:
    """What libopenslide will decode at a time, as it says itself; of an NDPI without restart markers a whole level."""
    for level in range(slide.level_count):
        width, height = (
            int(slide.properties.get(f"openslide.level[{level}].tile-{side}", 0)) for side in ("width", "height")
        )
        yield level, Size(width, height), width * height * _RGBA_BYTES


def mrxs_tiles(main: Path) -> Iterator[tuple[int, Size, int]]:
    """The pictures that a MRXS slide is made of, by the largest of its levels' Slidedat.ini."""
    index = mrxs_index(main)
    said = entries(index) if index.is_file() else []
    width, height = (max((int(v) for k, v in said if k == key and v.isdecimal()), default=0) for key in _DIGITIZER)
    yield 0, Size(width, height), width * height * _RGBA_BYTES


def tiff_tiles(tiff: tifffile.TiffFile) -> Iterator[tuple[int, Size, int]]:
    """Tiles or strips of every picture in the file, level by level; a picture in one strip is one piece."""
    for series in tiff.series:
        for number, level in enumerate(series.levels):
            page = level.keyframe
            width, height = (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.rowsperstrip)
            size = Size(width, height if page.is_tiled else min(height, page.imagelength))
            yield number, size, math.prod(page.chunks) * (page.bitspersample + 7) // 8


def limit_stream_sizes(tiff: tifffile.TiffFile) -> None:
    """Have tifffile refuse a tile whose own header declares more than any tile may hold; the others stay readable."""
    for series in tiff.series:
        for level in series.levels:
            if int(level.keyframe.compression) not in _WITHOUT_HEADER:
                level.keyframe.decode = _bounded(level.keyframe.decode)


def _bounded(decode: Callable[..., Any]) -> Callable[..., Any]:
    def bounded(data: bytes | None, *arguments: Any, **options: Any) -> Any:
        for head in (options.get("jpegheader"), data):
            declared = declared_size(bytes(head[:_HEADER_BYTES])) if head is not None else None
            if declared is not None and declared.width * declared.height > _MAX_STREAM_PIXELS:
                raise ValueError(f"its header declares {declared.width}x{declared.height} px")
        return decode(data, *arguments, **options)

    return bounded


def declared_size(head: bytes) -> Size | None:
    """Read the size from the head of a JPEG, JPEG 2000, JPEG XL, PNG or WebP stream; None where it tells none."""
    try:
        if head.startswith(b"\xff\xd8"):
            return _of_jpeg(head)
        if head.startswith(b"\x89PNG"):
            return Size(*struct.unpack_from(">II", head, 16))
        if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
            return _of_webp(head)
        if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
            return _of_jpeg_xl(head)
        codestream = head.find(b"\xff\x4f\xff\x51", 0, 4096)
        if codestream >= 0:
            right, bottom, left, top = struct.unpack_from(">4I", head, codestream + 8)
            return Size(right - left, bottom - top)
    except struct.error:
        pass  # cut short: the decoder says so
    return None


def _of_jpeg(head: bytes) -> Size | None:
    place = 2
    while place + 4 <= len(head):
        if head[place] != 0xFF:
            return None
        marker = head[place + 1]
        if marker == 0xFF:
            place += 1
        elif marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", head, place + 5)
            return Size(width, height)
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            place += 2
        else:
            place += 2 + struct.unpack_from(">H", head, place + 2)[0]
    return None


def _of_webp(head: bytes) -> Size | None:
    kind = head[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(side, "little") + 1 for side in struct.unpack_from("3s3s", head, 24))
    elif kind == b"VP8L":
        packed = struct.unpack_from("<I", head, 21)[0]
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", head, 26))
    else:
        return None
    return Size(width, height)


def _of_jpeg_xl(head: bytes) -> Size | None:
    """ISO/IEC 18181-1, SizeHeader: bits from the lowest on, after the codestream's signature."""
    place = head.find(b"\xff\x0a")
    if place < 0:
        return None
    bits = int.from_bytes(struct.unpack_from("10s", head, place + 2)[0], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    height, ratio = side(), take(3)
    return Size(round(height * _JXL_RATIOS[ratio - 1]) if ratio else side(), height)
