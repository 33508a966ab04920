"""Writes minimal DICOM whole-slide instances that decoders can read: PS3.10, explicit VR, tiles as JPEG."""

import io
import struct
from collections.abc import Iterable

from PIL import Image

TILE = 64
_LONG = {"OB", "SQ"}


def _element(group: int, tag: int, kind: str, value: bytes) -> bytes:
    if len(value) % 2:
        value += b"\0" if kind in ("UI", "OB") else b" "
    head = struct.pack("<HH", group, tag) + kind.encode()
    return head + (struct.pack("<HI", 0, len(value)) if kind in _LONG else struct.pack("<H", len(value))) + value


def _sequence(group: int, tag: int, items: Iterable[bytes]) -> bytes:
    return _element(group, tag, "SQ", b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(one)) + one for one in items))


def instance(image: Image.Image, series: str, number: int, mpp: float) -> bytes:
    """Encode one level of a slide; its width and height must be multiples of `TILE`."""
    width, height = image.size
    frames = []
    for y in range(0, height, TILE):
        for x in range(0, width, TILE):
            packed = io.BytesIO()
            image.crop((x, y, x + TILE, y + TILE)).save(packed, "JPEG", subsampling=1)
            frames.append(packed.getvalue() + b"\0" * (len(packed.getvalue()) % 2))
    uid = f"{series}.{number}".encode()
    wsi = b"1.2.840.10008.5.1.4.1.1.77.1.6"
    meta = (
        _element(2, 1, "OB", b"\0\1")
        + _element(2, 2, "UI", wsi)
        + _element(2, 3, "UI", uid)
        + _element(2, 0x10, "UI", b"1.2.840.10008.1.2.4.50")
        + _element(2, 0x12, "UI", b"1.2.3")
    )

    def short(group: int, tag: int, value: int) -> bytes:
        return _element(group, tag, "US", struct.pack("<H", value))

    def long(group: int, tag: int, value: int) -> bytes:
        return _element(group, tag, "UL", struct.pack("<I", value))

    spacing = _element(0x28, 0x30, "DS", f"{mpp / 1000:.6f}\\{mpp / 1000:.6f}".encode())
    data = b"".join(
        [
            _element(8, 8, "CS", b"ORIGINAL\\PRIMARY\\VOLUME\\NONE"),
            _element(8, 0x16, "UI", wsi),
            _element(8, 0x18, "UI", uid),
            _element(0x20, 0xD, "UI", b"1.2.3.4"),
            _element(0x20, 0xE, "UI", series.encode()),
            _element(0x20, 0x9311, "CS", b"TILED_FULL"),
            short(0x28, 2, 3),
            _element(0x28, 4, "CS", b"YBR_FULL_422"),
            short(0x28, 6, 0),
            _element(0x28, 8, "IS", str(len(frames)).encode()),
            short(0x28, 0x10, TILE),
            short(0x28, 0x11, TILE),
            short(0x28, 0x100, 8),
            short(0x28, 0x101, 8),
            short(0x28, 0x102, 7),
            short(0x28, 0x103, 0),
            long(0x48, 6, width),
            long(0x48, 7, height),
            _sequence(0x48, 0x105, [_element(0x48, 0x112, "DS", b"20")]),
            long(0x48, 0x303, 1),
            _sequence(0x5200, 0x9229, [_sequence(0x28, 0x9110, [spacing])]),
        ]
    )
    offsets, place = [], 0
    for frame in frames:
        offsets.append(place)
        place += len(frame) + 8
    pieces = [struct.pack(f"<{len(offsets)}I", *offsets), *frames]
    pixels = struct.pack("<HH", 0x7FE0, 0x10) + b"OB" + struct.pack("<HI", 0, 0xFFFFFFFF)
    pixels += b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(one)) + one for one in pieces)
    pixels += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return b"\0" * 128 + b"DICM" + _element(2, 0, "UL", struct.pack("<I", len(meta))) + meta + data + pixels
