"""A colour profile rebuilt from what colours depend on: its tables go over, its words, names and dates do not.

Profiles carry free text (description, copyright, private tags) and may name a device by make, model and serial
number. What is not on the list of colourimetric tags is left out; of those that are, only bytes that their type gives
a meaning to. Source: ICC.1:2022, sections 7.2 (header), 9 (tags) and 10 (types).
"""

import math
import struct
from collections.abc import Callable

_HEADER, _ENTRY = 128, 12
_MAX_TAGS = 200
_MAX_BYTES = 16 << 20
_CLASSES = {b"scnr", b"mntr", b"prtr", b"spac"}
_SPACES = {b"XYZ ", b"Lab "}
_D50 = struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
_TEXT = "Colour profile of the source"
_COPYRIGHT = "Not stated"
PROFILE_DROPPED = "the colour profile is damaged, or not one of RGB, and is not carried over"
_PARAMETERS = (1, 3, 4, 5, 7)
"""Numbers of a parametric curve, by its function's number."""


class _MalformedError(ValueError):
    """The profile does not keep to the specification."""


def sanitise_profile(profile: bytes) -> bytes | None:
    """The profile with the same colour transform and nothing else of the source; None where it can't be trusted.

    Only profiles of RGB are carried over, since results are RGB. Tables for floating-point processing (D2Bx, B2Dx),
    which the specification lets stand beside the same ones in integers, are left out.
    """
    try:
        return _rebuilt(profile)
    except (_MalformedError, struct.error, IndexError):
        return None


def check_profile(said: object) -> tuple[bytes | None, tuple[str, ...]]:
    """A slide's profile where it can be carried over, else None; and what has to be told.

    Parameters
    ----------
    said
        The profile's bytes, whatever a damaged file holds in their place, or None where the slide has none.
    """
    if said is None:
        return None, ()
    profile = bytes(said) if isinstance(said, bytes | bytearray | memoryview) else b""
    return (profile, ()) if sanitise_profile(profile) is not None else (None, (PROFILE_DROPPED,))


def _rebuilt(profile: bytes) -> bytes:
    size = struct.unpack_from(">I", profile)[0]
    _require(_HEADER + 4 <= size <= min(len(profile), _MAX_BYTES) and profile[36:40] == b"acsp")
    major, kind, space, pcs = profile[8], profile[12:16], profile[16:20], profile[20:24]
    intent = struct.unpack_from(">I", profile, 64)[0]
    _require(major in (2, 4) and kind in _CLASSES and space == b"RGB " and pcs in _SPACES and intent < 4)
    found = _tags(profile[:size])
    _require({b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC"} <= found.keys() or b"A2B0" in found)
    words = _multilingual if major == 4 else _description
    tags = {b"desc": words(_TEXT), b"cprt": _multilingual(_COPYRIGHT) if major == 4 else _text(_COPYRIGHT), **found}
    header = bytearray(_HEADER)
    header[8:10] = profile[8:10]
    header[12:24] = profile[12:24]
    header[36:40] = b"acsp"
    header[64:80] = struct.pack(">I", intent) + _D50
    return _written(header, tags)


def _tags(profile: bytes) -> dict[bytes, bytes]:
    """Bodies of the tags of the list, in its order, each as its type's reader gives it."""
    count = struct.unpack_from(">I", profile, _HEADER)[0]
    _require(count <= _MAX_TAGS)
    places: dict[bytes, tuple[int, int]] = {}
    for number in range(count):
        name, offset, size = struct.unpack_from(">4sII", profile, _HEADER + 4 + _ENTRY * number)
        _require(size >= 8 and offset >= _HEADER and offset + size <= len(profile))
        places[name] = offset, size
    found = {}
    for name, kinds in _COLOURIMETRIC.items():
        if name in places:
            offset, size = places[name]
            body = profile[offset : offset + size]
            _require(body[:4] in kinds)
            found[name] = _TYPES[body[:4]](body)
    return found


def _written(header: bytearray, tags: dict[bytes, bytes]) -> bytes:
    """Header, table and bodies; equal bodies are written once."""
    start = _HEADER + 4 + _ENTRY * len(tags)
    bodies, places, table = bytearray(), dict[bytes, int](), bytearray(struct.pack(">I", len(tags)))
    for name, body in tags.items():
        if body not in places:
            bodies += b"\0" * (-(start + len(bodies)) % 4)
            places[body] = start + len(bodies)
            bodies += body
        table += struct.pack(">4sII", name, places[body], len(body))
    bodies += b"\0" * (-(start + len(bodies)) % 4)
    header[:4] = struct.pack(">I", start + len(bodies))
    return bytes(header + table + bodies)


def _require(holds: bool) -> None:
    if not holds:
        raise _MalformedError


def _typed(body: bytes, size: int) -> bytes:
    """The first `size` bytes, the four that are reserved emptied."""
    _require(len(body) >= size)
    return body[:4] + b"\0" * 4 + body[8:size]


def _xyz(body: bytes) -> bytes:
    return _typed(body, 20)


def _matrix(body: bytes) -> bytes:
    return _typed(body, 8 + 9 * 4)


def _curve(body: bytes) -> bytes:
    if body[:4] == b"curv":
        count = struct.unpack_from(">I", body, 8)[0]
        _require(count <= 1 << 16)
        return _typed(body, 12 + 2 * count)
    _require(body[:4] == b"para")
    function = struct.unpack_from(">H", body, 8)[0]
    _require(function < len(_PARAMETERS))
    curve = _typed(body, 12 + 4 * _PARAMETERS[function])
    return curve[:10] + b"\0\0" + curve[12:]


def _table(body: bytes) -> bytes:
    """Lut8Type and lut16Type: matrix, input tables, grid, output tables."""
    inputs, outputs, grid = body[8:11]
    _require(1 <= inputs <= 4 and 1 <= outputs <= 4)
    if body[:4] == b"mft1":
        size = 48 + 256 * inputs + grid**inputs * outputs + 256 * outputs
    else:
        entries, exits = struct.unpack_from(">HH", body, 48)
        _require(2 <= entries <= 4096 and 2 <= exits <= 4096)
        size = 52 + 2 * (entries * inputs + grid**inputs * outputs + exits * outputs)
    table = _typed(body, size)
    return table[:11] + b"\0" + table[12:]


def _elements(body: bytes) -> bytes:
    """LutAToBType and lutBToAType: each element is copied to where it was, all between them is emptied."""
    inputs, outputs = body[8:10]
    _require(1 <= inputs <= 4 and 1 <= outputs <= 4)
    places = struct.unpack_from(">5I", body, 12)
    clean = bytearray(len(body))
    clean[:4], clean[8:10], clean[12:32] = body[:4], body[8:10], body[12:32]
    near, far = (outputs, inputs) if body[:4] == b"mAB " else (inputs, outputs)
    for place, count in zip((places[0], places[2], places[4]), (near, near, far), strict=True):
        if place:
            _copy_curves(body, clean, place, count)
    if places[1]:
        _copy(body, clean, places[1], 12 * 4)
    if places[3]:
        grid, precision = body[places[3] : places[3] + inputs], body[places[3] + 16]
        _require(precision in (1, 2) and min(grid) > 0)
        size = math.prod(grid) * outputs * precision
        _copy(body, clean, places[3], inputs)
        _copy(body, clean, places[3] + 16, 1)
        _copy(body, clean, places[3] + 20, size)
    return bytes(clean)


def _copy_curves(body: bytes, clean: bytearray, place: int, count: int) -> None:
    for _ in range(count):
        curve = _curve(body[place:])
        clean[place : place + len(curve)] = curve
        place += len(curve) + -len(curve) % 4


def _copy(body: bytes, clean: bytearray, place: int, size: int) -> None:
    _require(place >= 32 and place + size <= len(body))
    clean[place : place + size] = body[place : place + size]


def _text(words: str) -> bytes:
    return b"text\0\0\0\0" + words.encode("ascii") + b"\0"


def _description(words: str) -> bytes:
    """The description of version 2: ASCII, and no Unicode nor Macintosh string."""
    ascii_words = words.encode("ascii") + b"\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(ascii_words)) + ascii_words + b"\0" * (4 + 4 + 2 + 1 + 67)


def _multilingual(words: str) -> bytes:
    encoded = words.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(encoded), 28) + encoded


_TYPES: dict[bytes, Callable[[bytes], bytes]] = {
    b"XYZ ": _xyz,
    b"sf32": _matrix,
    b"curv": _curve,
    b"para": _curve,
    b"mft1": _table,
    b"mft2": _table,
    b"mAB ": _elements,
    b"mBA ": _elements,
}
_FORWARD = (b"mft1", b"mft2", b"mAB ")
_BACKWARD = (b"mft1", b"mft2", b"mBA ")
_COLOURIMETRIC: dict[bytes, tuple[bytes, ...]] = {
    **dict.fromkeys((b"wtpt", b"bkpt", b"rXYZ", b"gXYZ", b"bXYZ"), (b"XYZ ",)),
    b"chad": (b"sf32",),
    **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC", b"kTRC"), (b"curv", b"para")),
    **dict.fromkeys((b"A2B0", b"A2B1", b"A2B2"), _FORWARD),
    **dict.fromkeys((b"B2A0", b"B2A1", b"B2A2", b"gamt"), _BACKWARD),
}
