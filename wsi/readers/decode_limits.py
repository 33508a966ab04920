"""Limits on the memory that a decoder may allocate, checked against file headers before anything is decoded.

A decoder holds a whole tile, strip or untiled image, and takes its size from the file: 70 bytes of JPEG may declare
65,535² pixels, and 200 kB of deflate may hold a tile of 8,192². Scanners write tiles of 240 to 4,096 px, so the limit
for a tile leaves room for twice the largest. It is lower than the limit for a flat image (`wsi/readers/flat_image.py`),
because each decoding thread holds one tile, and decodes it again for the next patch.
"""

import math
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import openslide
import tifffile

from slidelift.wsi.companions import entries, mrxs_index
from slidelift.wsi.errors import UnsupportedPixelsError
from slidelift.wsi.geometry import Size

MAX_TILE_BYTES = 1 << 27
"""Limit for a decoded tile or strip: 5,792² pixels of RGBA, as libopenslide holds them; 6,689² of RGB."""

_RGBA_BYTES = 4
# Limit for the size in a stream's own header, by which decoders allocate, whatever the TIFF tags say.
_MAX_STREAM_PIXELS = MAX_TILE_BYTES // 3
_HEADER_BYTES = 1 << 16
_DIGITIZER = ("DIGITIZER_WIDTH", "DIGITIZER_HEIGHT")
_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # 0xF7 is JPEG-LS
_WITHOUT_HEADER = {1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000}
"""TIFF compressions whose streams have no header: none, CCITT, LZW, deflate, PackBits, LZMA, Zstandard. Their bytes may
look like an image header by chance: grey pixels with alpha look like JPEG 2000."""
_JXL_RATIOS = (1, 12 / 10, 4 / 3, 3 / 2, 16 / 9, 5 / 4, 2)


class DecodedTile(NamedTuple):
    """The tile or strip of a level, as a decoder will hold it: size in pixels, and bytes."""

    level: int
    size: Size
    nbytes: int


def check_tile_sizes(name: str, tiles: Iterable[DecodedTile]) -> None:
    """Raise if the tiles or strips of a level are larger than `MAX_TILE_BYTES`.

    Raises
    ------
    UnsupportedPixelsError
        The message names the slide, the level and the size.
    """
    for level, size, nbytes in tiles:
        if nbytes > MAX_TILE_BYTES:
            raise UnsupportedPixelsError(
                f"{name}: level {level} is stored in tiles or strips of {size.width}x{size.height} px, which take "
                f"{nbytes / 2**20:.0f} MiB when decoded (the limit is {MAX_TILE_BYTES >> 20} MiB); save the slide as a "
                "tiled, pyramidal TIFF first, for example with tiles of 512 px"
            )


def openslide_tiles(slide: openslide.OpenSlide) -> Iterator[DecodedTile]:
    """Tile sizes that OpenSlide reports; for an NDPI without restart markers a tile is the whole level."""
    for level in range(slide.level_count):
        width, height = (
            int(slide.properties.get(f"openslide.level[{level}].tile-{side}", 0)) for side in ("width", "height")
        )
        yield DecodedTile(level, Size(width, height), width * height * _RGBA_BYTES)


def mrxs_tiles(main: Path) -> Iterator[DecodedTile]:
    """Size of the camera images of a MRXS slide, the largest over the levels in Slidedat.ini."""
    index = mrxs_index(main)
    values = entries(index) if index.is_file() else []
    width, height = (max((int(v) for k, v in values if k == key and v.isdecimal()), default=0) for key in _DIGITIZER)
    yield DecodedTile(0, Size(width, height), width * height * _RGBA_BYTES)


def tiff_tiles(tiff: tifffile.TiffFile) -> Iterator[DecodedTile]:
    """Tile or strip sizes of every level of every series."""
    for series in tiff.series:
        for number, level in enumerate(series.levels):
            page = level.keyframe
            width, height = (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.rowsperstrip)
            size = Size(width, height if page.is_tiled else min(height, page.imagelength))
            yield DecodedTile(number, size, math.prod(page.chunks) * (page.bitspersample + 7) // 8)


def limit_stream_sizes(tiff: tifffile.TiffFile) -> None:
    """Make tifffile refuse tiles whose own header declares too many pixels; other tiles stay readable."""
    for series in tiff.series:
        for level in series.levels:
            if int(level.keyframe.compression) not in _WITHOUT_HEADER:
                level.keyframe.decode = _limited(level.keyframe.decode)


def _limited(decode: Callable[..., Any]) -> Callable[..., Any]:
    def decode_limited(data: bytes | None, *arguments: Any, **options: Any) -> Any:
        for stream in (options.get("jpegheader"), data):
            size = declared_size(bytes(stream[:_HEADER_BYTES])) if stream is not None else None
            if size is not None and size.width * size.height > _MAX_STREAM_PIXELS:
                raise ValueError(f"its header declares {size.width}x{size.height} px, which is over the limit")
        return decode(data, *arguments, **options)

    return decode_limited


def declared_size(header: bytes) -> Size | None:
    """Image size in the header of a JPEG, JPEG 2000, JPEG XL, PNG or WebP stream; None if there is none."""
    try:
        if header.startswith(b"\xff\xd8"):
            return _jpeg_size(header)
        if header.startswith(b"\x89PNG"):
            return Size(*struct.unpack_from(">II", header, 16))
        if header.startswith(b"RIFF") and header[8:12] == b"WEBP":
            return _webp_size(header)
        if header.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
            return _jpeg_xl_size(header)
        codestream = header.find(b"\xff\x4f\xff\x51", 0, 4096)  # JPEG 2000: SOC, SIZ
        if codestream >= 0:
            right, bottom, left, top = struct.unpack_from(">4I", header, codestream + 8)
            return Size(right - left, bottom - top)
    except struct.error:
        pass  # truncated: the decoder reports it
    return None


def _jpeg_size(header: bytes) -> Size | None:
    offset = 2
    while offset + 4 <= len(header):
        if header[offset] != 0xFF:
            return None
        marker = header[offset + 1]
        if marker == 0xFF:
            offset += 1
        elif marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", header, offset + 5)
            return Size(width, height)
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            offset += 2
        else:
            offset += 2 + struct.unpack_from(">H", header, offset + 2)[0]
    return None


def _webp_size(header: bytes) -> Size | None:
    chunk = header[12:16]
    if chunk == b"VP8X":
        width, height = (int.from_bytes(side, "little") + 1 for side in struct.unpack_from("3s3s", header, 24))
    elif chunk == b"VP8L":
        packed = struct.unpack_from("<I", header, 21)[0]
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    elif chunk == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", header, 26))
    else:
        return None
    return Size(width, height)


def _jpeg_xl_size(header: bytes) -> Size | None:
    """SizeHeader of ISO/IEC 18181-1: bits from the lowest on, after the signature of the codestream."""
    offset = header.find(b"\xff\x0a")
    if offset < 0:
        return None
    bits = int.from_bytes(struct.unpack_from("10s", header, offset + 2)[0], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    height, ratio = side(), take(3)
    return Size(round(height * _JXL_RATIOS[ratio - 1]) if ratio else side(), height)
