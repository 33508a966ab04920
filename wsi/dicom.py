"""Series and SOP class of a DICOM file, parsed from the start of its data set.

Source: DICOM PS3.10 (file format) and PS3.5, section 7 (data elements). Sequences are skipped, because they may hold
the SeriesInstanceUID of a referenced series before the file's own.
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
_LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_UNDEFINED = 0xFFFF_FFFF
_MAX_UID_BYTES = 64
_MAX_DEPTH = 16


@dataclass(frozen=True, slots=True)
class Instance:
    """SeriesInstanceUID and SOPClassUID of a DICOM file."""

    series: str
    sop_class: str

    @property
    def is_slide(self) -> bool:
        """Whether the file is a VL Whole Slide Microscopy Image: a level, label or overview image."""
        return self.sop_class == WHOLE_SLIDE_IMAGE


def is_dicom(path: Path) -> bool:
    """Whether the file has the signature of PS3.10."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_instance(path: Path) -> Instance | None:
    """Read the UIDs of a file; None if it is not a DICOM file, or can't be parsed."""
    try:
        if not is_dicom(path):
            return None
        with path.open("rb") as file:
            file.seek(132)
            elements = dict(_read_uids(file))
    except (struct.error, ValueError, PermissionError):
        return None
    series = elements.get(_SERIES)
    return Instance(series, elements.get(_SOP_CLASS, "")) if series else None


def _read_uids(file: BinaryIO) -> Iterator[tuple[int, str]]:
    """Yield the UIDs up to the SeriesInstanceUID; raises ValueError if the transfer syntax is not supported."""
    syntax = ""
    while True:
        start = file.tell()
        explicit = syntax != _IMPLICIT
        tag, length = _element(file, explicit=explicit)
        if not syntax and tag >> 16 > 2:
            raise ValueError("no transfer syntax")
        if tag in (_TRANSFER_SYNTAX, _SOP_CLASS, _SERIES) and length <= _MAX_UID_BYTES:
            value = file.read(length).decode("ascii").rstrip("\0 ")
            syntax = value if tag == _TRANSFER_SYNTAX else syntax
            if syntax in (_BIG_ENDIAN, _DEFLATED):
                raise ValueError("big-endian or deflated transfer syntax")
            yield tag, value
        else:
            _skip(file, length, explicit=explicit)
        if tag >= _SERIES:
            return
        if syntax == _IMPLICIT and tag == _TRANSFER_SYNTAX:
            _skip_meta(file)
        if file.tell() <= start:
            raise ValueError("elements overlap")


def _skip_meta(file: BinaryIO) -> None:
    """Skip the rest of group 2, which has explicit VRs even if the data set has implicit ones."""
    while True:
        start = file.tell()
        tag, length = _element(file, explicit=True)
        if tag >> 16 != 2:
            file.seek(start)
            return
        _skip(file, length, explicit=True)


def _element(file: BinaryIO, *, explicit: bool) -> tuple[int, int]:
    """Read tag and length of the next element, up to its value."""
    group, number = struct.unpack("<HH", file.read(4))
    tag = group << 16 | number
    if not explicit or group == _ITEM >> 16:
        return tag, struct.unpack("<I", file.read(4))[0]
    vr = file.read(2)
    if vr in _LONG_VRS:
        return tag, struct.unpack("<2xI", file.read(6))[0]
    return tag, struct.unpack("<H", file.read(2))[0]


def _skip(file: BinaryIO, length: int, *, explicit: bool, depth: int = 0) -> None:
    """Skip a value; a value of undefined length is a sequence, which ends with its last item."""
    if length != _UNDEFINED:
        file.seek(length, 1)
        return
    if depth > _MAX_DEPTH:
        raise ValueError("too many nested sequences")
    while True:
        tag, size = _element(file, explicit=explicit)
        if tag in (_SEQUENCE_END, _ITEM_END):
            return
        _skip(file, size, explicit=explicit, depth=depth + 1)
