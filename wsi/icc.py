"""Sanitising of ICC profiles: colourimetric tags are kept; texts, names and dates are dropped.

Profiles hold free text (description, copyright, private tags) and may name a device by make, model and serial number.
Only the tags in `_COLOURIMETRIC_TAGS` are copied, and of each tag only the bytes that its type defines.

Source: ICC.1:2022, sections 7.2 (header), 9 (tags) and 10 (types).
"""

import math
import struct
from collections.abc import Callable

_HEADER_BYTES, _ENTRY_BYTES = 128, 12
_MAX_TAGS = 200
_MAX_BYTES = 16 << 20
_DEVICE_CLASSES = {b"scnr", b"mntr", b"prtr", b"spac"}
_CONNECTION_SPACES = {b"XYZ ", b"Lab "}
_D50 = struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
_DESCRIPTION = "Colour profile of the source"
_COPYRIGHT = "Not stated"
PROFILE_DROPPED = "the colour profile is damaged or not for RGB, and is not copied to the result"
_PARAMETER_COUNTS = (1, 3, 4, 5, 7)
"""Number of parameters of a parametric curve, by function type."""


class _MalformedError(ValueError):
    """The profile violates the specification."""


def sanitise_profile(profile: bytes) -> bytes | None:
    """Rebuild a profile with only its colour transform; None if it is invalid or not for RGB.

    Tables for floating-point processing (D2Bx, B2Dx) are dropped; the integer tables beside them are kept.
    """
    try:
        return _rebuild(profile)
    except (_MalformedError, struct.error, IndexError):
        return None


def check_profile(value: object) -> tuple[bytes | None, tuple[str, ...]]:
    """Return a slide's profile, or None if it can't be copied to results; and warnings.

    Parameters
    ----------
    value
        Bytes of the profile; None if the slide has none. Damaged files may give other types, which are invalid.
    """
    if value is None:
        return None, ()
    profile = bytes(value) if isinstance(value, bytes | bytearray | memoryview) else b""
    return (profile, ()) if sanitise_profile(profile) is not None else (None, (PROFILE_DROPPED,))


def _rebuild(profile: bytes) -> bytes:
    size = struct.unpack_from(">I", profile)[0]
    _require(_HEADER_BYTES + 4 <= size <= min(len(profile), _MAX_BYTES) and profile[36:40] == b"acsp")
    major, device_class, space, pcs = profile[8], profile[12:16], profile[16:20], profile[20:24]
    intent = struct.unpack_from(">I", profile, 64)[0]
    _require(major in (2, 4) and intent < 4)
    _require(device_class in _DEVICE_CLASSES and space == b"RGB " and pcs in _CONNECTION_SPACES)
    copied = _copy_tags(profile[:size])
    _require({b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC"} <= copied.keys() or b"A2B0" in copied)
    if major == 4:
        texts = {b"desc": _encode_mluc(_DESCRIPTION), b"cprt": _encode_mluc(_COPYRIGHT)}
    else:
        texts = {b"desc": _encode_desc(_DESCRIPTION), b"cprt": _encode_text(_COPYRIGHT)}
    tags = {**texts, **copied}
    header = bytearray(_HEADER_BYTES)
    header[8:10] = profile[8:10]
    header[12:24] = profile[12:24]
    header[36:40] = b"acsp"
    header[64:80] = struct.pack(">I", intent) + _D50
    return _serialise(header, tags)


def _copy_tags(profile: bytes) -> dict[bytes, bytes]:
    """Return the sanitised bodies of the colourimetric tags, in the order of `_COLOURIMETRIC_TAGS`."""
    count = struct.unpack_from(">I", profile, _HEADER_BYTES)[0]
    _require(count <= _MAX_TAGS)
    table: dict[bytes, tuple[int, int]] = {}
    for number in range(count):
        name, offset, size = struct.unpack_from(">4sII", profile, _HEADER_BYTES + 4 + _ENTRY_BYTES * number)
        _require(size >= 8 and offset >= _HEADER_BYTES and offset + size <= len(profile))
        table[name] = offset, size
    bodies = {}
    for name, types in _COLOURIMETRIC_TAGS.items():
        if name in table:
            offset, size = table[name]
            body = profile[offset : offset + size]
            _require(body[:4] in types)
            bodies[name] = _SANITISERS[body[:4]](body)
    return bodies


def _serialise(header: bytearray, tags: dict[bytes, bytes]) -> bytes:
    """Join header, tag table and bodies; equal bodies are written once."""
    start = _HEADER_BYTES + 4 + _ENTRY_BYTES * len(tags)
    bodies, offsets, table = bytearray(), dict[bytes, int](), bytearray(struct.pack(">I", len(tags)))
    for name, body in tags.items():
        if body not in offsets:
            bodies += b"\0" * (-(start + len(bodies)) % 4)
            offsets[body] = start + len(bodies)
            bodies += body
        table += struct.pack(">4sII", name, offsets[body], len(body))
    bodies += b"\0" * (-(start + len(bodies)) % 4)
    header[:4] = struct.pack(">I", start + len(bodies))
    return bytes(header + table + bodies)


def _require(condition: bool) -> None:
    if not condition:
        raise _MalformedError


def _clear_reserved(body: bytes, size: int) -> bytes:
    """Return the first `size` bytes, with the four reserved bytes set to 0."""
    _require(len(body) >= size)
    return body[:4] + b"\0" * 4 + body[8:size]


def _sanitise_xyz(body: bytes) -> bytes:
    return _clear_reserved(body, 20)


def _sanitise_matrix(body: bytes) -> bytes:
    return _clear_reserved(body, 8 + 9 * 4)


def _sanitise_curve(body: bytes) -> bytes:
    if body[:4] == b"curv":
        count = struct.unpack_from(">I", body, 8)[0]
        _require(count <= 1 << 16)
        return _clear_reserved(body, 12 + 2 * count)
    _require(body[:4] == b"para")
    function = struct.unpack_from(">H", body, 8)[0]
    _require(function < len(_PARAMETER_COUNTS))
    curve = _clear_reserved(body, 12 + 4 * _PARAMETER_COUNTS[function])
    return curve[:10] + b"\0\0" + curve[12:]  # bytes 10 and 11 are reserved


def _sanitise_lut(body: bytes) -> bytes:
    """Sanitise lut8Type and lut16Type: matrix, input tables, CLUT, output tables."""
    inputs, outputs, grid = body[8:11]
    _require(1 <= inputs <= 4 and 1 <= outputs <= 4)
    if body[:4] == b"mft1":
        size = 48 + 256 * inputs + grid**inputs * outputs + 256 * outputs
    else:
        input_entries, output_entries = struct.unpack_from(">HH", body, 48)
        _require(2 <= input_entries <= 4096 and 2 <= output_entries <= 4096)
        size = 52 + 2 * (input_entries * inputs + grid**inputs * outputs + output_entries * outputs)
    table = _clear_reserved(body, size)
    return table[:11] + b"\0" + table[12:]  # byte 11 is padding


def _sanitise_lut_elements(body: bytes) -> bytes:
    """Sanitise lutAToBType and lutBToAType: elements keep their offsets, and bytes between them are set to 0."""
    inputs, outputs = body[8:10]
    _require(1 <= inputs <= 4 and 1 <= outputs <= 4)
    b_curves, matrix, m_curves, clut, a_curves = struct.unpack_from(">5I", body, 12)
    clean = bytearray(len(body))
    clean[:4], clean[8:10], clean[12:32] = body[:4], body[8:10], body[12:32]
    pcs_channels, device_channels = (outputs, inputs) if body[:4] == b"mAB " else (inputs, outputs)
    for offset, count in ((b_curves, pcs_channels), (m_curves, pcs_channels), (a_curves, device_channels)):
        if offset:
            _copy_curves(body, clean, offset, count)
    if matrix:
        _copy(body, clean, matrix, 12 * 4)
    if clut:
        grid, precision = body[clut : clut + inputs], body[clut + 16]
        _require(precision in (1, 2) and min(grid) > 0)
        size = math.prod(grid) * outputs * precision
        _copy(body, clean, clut, inputs)
        _copy(body, clean, clut + 16, 1)
        _copy(body, clean, clut + 20, size)
    return bytes(clean)


def _copy_curves(body: bytes, clean: bytearray, offset: int, count: int) -> None:
    for _ in range(count):
        curve = _sanitise_curve(body[offset:])
        clean[offset : offset + len(curve)] = curve
        offset += len(curve) + -len(curve) % 4


def _copy(body: bytes, clean: bytearray, offset: int, size: int) -> None:
    _require(offset >= 32 and offset + size <= len(body))
    clean[offset : offset + size] = body[offset : offset + size]


def _encode_text(text: str) -> bytes:
    return b"text\0\0\0\0" + text.encode("ascii") + b"\0"


def _encode_desc(text: str) -> bytes:
    """Encode a textDescriptionType of version 2 with an ASCII string, and no Unicode or Macintosh string."""
    encoded = text.encode("ascii") + b"\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(encoded)) + encoded + b"\0" * (4 + 4 + 2 + 1 + 67)


def _encode_mluc(text: str) -> bytes:
    """Encode a multiLocalizedUnicodeType with one string."""
    encoded = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(encoded), 28) + encoded


_SANITISERS: dict[bytes, Callable[[bytes], bytes]] = {
    b"XYZ ": _sanitise_xyz,
    b"sf32": _sanitise_matrix,
    b"curv": _sanitise_curve,
    b"para": _sanitise_curve,
    b"mft1": _sanitise_lut,
    b"mft2": _sanitise_lut,
    b"mAB ": _sanitise_lut_elements,
    b"mBA ": _sanitise_lut_elements,
}
_TO_PCS_TYPES = (b"mft1", b"mft2", b"mAB ")
_FROM_PCS_TYPES = (b"mft1", b"mft2", b"mBA ")
_COLOURIMETRIC_TAGS: dict[bytes, tuple[bytes, ...]] = {
    **dict.fromkeys((b"wtpt", b"bkpt", b"rXYZ", b"gXYZ", b"bXYZ"), (b"XYZ ",)),
    b"chad": (b"sf32",),
    **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC", b"kTRC"), (b"curv", b"para")),
    **dict.fromkeys((b"A2B0", b"A2B1", b"A2B2"), _TO_PCS_TYPES),
    **dict.fromkeys((b"B2A0", b"B2A1", b"B2A2", b"gamt"), _FROM_PCS_TYPES),
}
