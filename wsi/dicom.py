"""Which series a DICOM file belongs to: the few elements at its head that say so, read without a decoder.

PS3.10 for the file's form, PS3.5 §7 for the elements. Sequences are stepped over whole, since a referenced series
stands in one with the same tag and before the file's own.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

WHOLE_SLIDE_IMAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"

_TRANSFER_SYNTAX, _SOP_CLASS, _SERIES = 0x0002_0010, 0x0008_0016, 0x0020_000E
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFE_E000, 0xFFFE_E00D, 0xFFFE_E0DD
_IMPLICIT, _BIG_ENDIAN, _DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
_LONG_KINDS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_UNDEFINED = 0xFFFF_FFFF
_UID_MAX_BYTES = 64
_DEPTH_MAX = 16


@dataclass(frozen=True, slots=True)
class Instance:
    """What a DICOM file says it is."""

    series: str
    sop_class: str

    @property
    def is_slide(self) -> bool:
        """Whether it holds a level, a label or an overview of a whole slide."""
        return self.sop_class == WHOLE_SLIDE_IMAGE


def is_dicom(path: Path) -> bool:
    """Whether the file begins as PS3.10 says."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_instance(path: Path) -> Instance | None:
    """What the file says it is; None where it is no DICOM file, or its head can't be followed."""
    try:
        if not is_dicom(path):
            return None
        with path.open("rb") as file:
            file.seek(132)
            found = dict(_identity(file))
    except (struct.error, ValueError, PermissionError):
        return None
    series = found.get(_SERIES)
    return Instance(series, found.get(_SOP_CLASS, "")) if series else None


def _identity(file: BinaryIO) -> Iterator[tuple[int, str]]:
    """The elements wanted, up to the series; raises ValueError where the file is written in another way."""
    syntax = ""
    while True:
        place = file.tell()
        explicit = syntax != _IMPLICIT
        tag, length = _element(file, explicit=explicit)
        if not syntax and tag >> 16 > 2:
            raise ValueError("no transfer syntax")
        if tag in (_TRANSFER_SYNTAX, _SOP_CLASS, _SERIES) and length <= _UID_MAX_BYTES:
            value = file.read(length).decode("ascii").rstrip("\0 ")
            syntax = value if tag == _TRANSFER_SYNTAX else syntax
            if syntax in (_BIG_ENDIAN, _DEFLATED):
                raise ValueError("written big-endian or deflated")
            yield tag, value
        else:
            _skip(file, length, explicit=explicit)
        if tag >= _SERIES:
            return
        if syntax == _IMPLICIT and tag == _TRANSFER_SYNTAX:
            _skip_meta(file)
        if file.tell() <= place:
            raise ValueError("no way forward")


def _skip_meta(file: BinaryIO) -> None:
    """Step over what is left of group 2, which is explicit whatever follows it."""
    while True:
        place = file.tell()
        tag, length = _element(file, explicit=True)
        if tag >> 16 != 2:
            file.seek(place)
            return
        _skip(file, length, explicit=True)


def _element(file: BinaryIO, *, explicit: bool) -> tuple[int, int]:
    """Tag and length of the next element; its value follows."""
    group, number = struct.unpack("<HH", file.read(4))
    tag = group << 16 | number
    if not explicit or group == _ITEM >> 16:
        return tag, struct.unpack("<I", file.read(4))[0]
    kind = file.read(2)
    if kind in _LONG_KINDS:
        return tag, struct.unpack("<2xI", file.read(6))[0]
    return tag, struct.unpack("<H", file.read(2))[0]


def _skip(file: BinaryIO, length: int, *, explicit: bool, depth: int = 0) -> None:
    """Step over a value; one of undefined length is a sequence, and ends where its last item does."""
    if length != _UNDEFINED:
        file.seek(length, 1)
        return
    if depth > _DEPTH_MAX:
        raise ValueError("sequences within sequences")
    while True:
        tag, size = _element(file, explicit=explicit)
        if tag in (_SEQUENCE_END, _ITEM_END):
            return
        _skip(file, size, explicit=explicit, depth=depth + 1)
