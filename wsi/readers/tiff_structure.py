"""Detection of truncated TIFF files by their IFDs.

Writers put OME-XML, coarser levels and further pages after the pixels of the first page. Decoders open a file that was
truncated there without an error, but with fewer levels, or with another pixel size if the XML held the right one.

Source: TIFF 6.0, section 2, and the BigTIFF design (https://www.awaresystems.be/imaging/tiff/bigtiff.html).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from slidelift.wsi.errors import SlideUnreadableError

_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of one value, by TIFF type."""
_OFFSET_TYPES = (4, 13, 16, 18)
_SUB_IFDS, _NDPI_FORMAT = 330, 65420
_CHECKED_TAGS = {258, 270, 273, 279, 282, 283, 320, 324, 325, _SUB_IFDS, 347}
"""Tags that readers need: BitsPerSample, ImageDescription, strips, resolution, ColorMap, tiles, SubIFDs, JPEGTables.
The values of others may lie beyond the end of a file that is complete."""
_MAX_IFDS = 1000


class _TruncatedError(Exception):
    """An IFD, or a value that it points to, lies beyond the end of the file."""


class _Entry(NamedTuple):
    """An IFD entry; `value` holds the value itself, or its offset if it is longer."""

    tag: int
    type: int
    value_count: int
    value: bytes


@dataclass(frozen=True, slots=True)
class _Format:
    """Byte order and variant (classic TIFF or BigTIFF), as formats for `struct`."""

    byte_order: str
    is_big: bool

    @property
    def entry_count(self) -> str:
        return self.byte_order + ("Q" if self.is_big else "H")

    @property
    def entry(self) -> str:
        return self.byte_order + ("HHQ8s" if self.is_big else "HHI4s")

    @property
    def offset(self) -> str:
        return self.byte_order + ("Q" if self.is_big else "I")


def require_complete_tiff(path: Path, name: str) -> None:
    """Raise if an IFD of a TIFF, or a value that an IFD points to, lies beyond the end of the file.

    Other files pass. NDPI files are not checked, because their offsets have more bits than those of a classic TIFF.

    Raises
    ------
    SlideUnreadableError
        The file is truncated.
    """
    with path.open("rb") as file:
        tiff_format = _detect_format(file.read(4))
        if tiff_format is None:
            return
        try:
            _check_ifds(file, tiff_format, path.stat().st_size)
        except _TruncatedError as error:
            raise SlideUnreadableError(
                f"{name}: the file is cut short: its TIFF directories point beyond its end, so levels or "
                "metadata are missing; copy the whole slide again"
            ) from error


def _detect_format(signature: bytes) -> _Format | None:
    order = {b"II": "<", b"MM": ">"}.get(signature[:2])
    if order is None or signature[2:] not in (struct.pack(order + "H", 42), struct.pack(order + "H", 43)):
        return None
    return _Format(order, is_big=signature[2:] == struct.pack(order + "H", 43))


def _check_ifds(file: BinaryIO, tiff_format: _Format, file_size: int) -> None:
    """Walk through all IFDs and SubIFDs, each once."""
    file.seek(8 if tiff_format.is_big else 4)
    pending, visited = [_read_offset(file, tiff_format)], set[int]()
    while pending and len(visited) < _MAX_IFDS:
        offset = pending.pop()
        if offset == 0 or offset in visited:
            continue
        visited.add(offset)
        entries = {entry.tag: entry for entry in _read_ifd(file, tiff_format, offset)}
        next_ifd = _read_offset(file, tiff_format)
        if _NDPI_FORMAT in entries:
            return
        pending.append(next_ifd)
        for entry in entries.values():
            pending += _check_entry(file, tiff_format, file_size, entry)


def _read_ifd(file: BinaryIO, tiff_format: _Format, offset: int) -> Iterator[_Entry]:
    file.seek(offset)
    (count,) = _unpack(file, tiff_format.entry_count)
    for _ in range(min(count, 1 << 16)):
        data = _read(file, struct.calcsize(tiff_format.entry))
        yield _Entry(*struct.unpack(tiff_format.entry, data))


def _check_entry(file: BinaryIO, tiff_format: _Format, file_size: int, entry: _Entry) -> list[int]:
    """Raise if the entry's value lies beyond the end of the file; return the offsets of the SubIFDs that it lists."""
    length = _TYPE_SIZES.get(entry.type, 1) * entry.value_count
    if entry.tag not in _CHECKED_TAGS:
        return []
    value = entry.value
    offset = struct.unpack(tiff_format.offset, value)[0] if length > len(value) else None
    if offset is not None and offset + length > file_size:
        raise _TruncatedError
    if entry.tag != _SUB_IFDS or entry.type not in _OFFSET_TYPES or entry.value_count > _MAX_IFDS:
        return []
    if offset is not None:
        file.seek(offset)
        value = file.read(length)
    code = "I" if _TYPE_SIZES[entry.type] == 4 else "Q"
    return list(struct.unpack(f"{tiff_format.byte_order}{entry.value_count}{code}", value[:length]))


def _read_offset(file: BinaryIO, tiff_format: _Format) -> int:
    return _unpack(file, tiff_format.offset)[0]


def _unpack(file: BinaryIO, code: str) -> tuple[int, ...]:
    values: tuple[int, ...] = struct.unpack(code, _read(file, struct.calcsize(code)))
    return values


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise _TruncatedError
    return data
