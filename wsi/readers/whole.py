"""Refuses a TIFF that ends before its own tables do, which decoders read as if it had never held the rest.

Writers put OME-XML, coarser levels and further pages behind the pixels of the first. A copy that broke off there opens
without a word: with fewer levels, and with another pixel size where the XML had the right one.

Source: TIFF 6.0, section 2, and the BigTIFF design (https://www.awaresystems.be/imaging/tiff/bigtiff.html).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from slidelift.wsi.errors import SlideUnreadableError

_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Of one value, by its type."""
_SUB_IFDS, _HAMAMATSU = 330, 65420
_NEEDED = {258, 270, 273, 279, 282, 283, 320, 324, 325, _SUB_IFDS, 347}
"""Bits, description, strips, resolution, colour map, tiles, sub-directories, JPEG tables: what a slide is read by.
Others may be broken in a file that is whole."""
_MOST_TABLES = 1000


class _CutShortError(Exception):
    """What a table says lies beyond the end."""


@dataclass(frozen=True, slots=True)
class _Form:
    """How numbers are written: classic TIFF or BigTIFF, in one of two byte orders."""

    order: str
    is_big: bool

    @property
    def head(self) -> str:
        """The number of entries."""
        return self.order + ("Q" if self.is_big else "H")

    @property
    def entry(self) -> str:
        """Tag, type, count, and the value or its place."""
        return self.order + ("HHQ8s" if self.is_big else "HHI4s")

    @property
    def place(self) -> str:
        """An offset."""
        return self.order + ("Q" if self.is_big else "I")


def require_whole(path: Path, name: str) -> None:
    """Refuse a TIFF of which a table, or what it leads to, lies beyond the file's end.

    An NDPI is not looked at, since its offsets have more bits than those of a classic TIFF.

    Raises
    ------
    SlideUnreadableError
        It is cut short.
    """
    with path.open("rb") as file:
        form = _form(file.read(4))
        if form is None:
            return
        try:
            _follow(file, form, path.stat().st_size)
        except _CutShortError as error:
            raise SlideUnreadableError(
                f"{name}: it is cut short: its tables lead beyond its end, and levels or metadata are missing; "
                "copy it again, whole"
            ) from error


def _form(signature: bytes) -> _Form | None:
    order = {b"II": "<", b"MM": ">"}.get(signature[:2])
    if order is None or signature[2:] not in (struct.pack(order + "H", 42), struct.pack(order + "H", 43)):
        return None
    return _Form(order, is_big=signature[2:] == struct.pack(order + "H", 43))


def _follow(file: BinaryIO, form: _Form, size: int) -> None:
    """Look at every table, each once."""
    file.seek(8 if form.is_big else 4)
    waiting, seen = [_unpacked(file, form.place)[0]], set[int]()
    while waiting and len(seen) < _MOST_TABLES:
        place = waiting.pop()
        if place == 0 or place in seen:
            continue
        seen.add(place)
        entries = dict(_entries(file, form, place))
        after = _unpacked(file, form.place)[0]
        if _HAMAMATSU in entries:
            return
        waiting.append(after)
        for tag, (kind, count, value) in entries.items():
            waiting += _led_to(file, form, size, tag, (kind, count, value))


def _entries(file: BinaryIO, form: _Form, place: int) -> Iterator[tuple[int, tuple[int, int, bytes]]]:
    file.seek(place)
    count = _unpacked(file, form.head)[0]
    for _ in range(min(count, 1 << 16)):
        tag, kind, values, value = _unpacked(file, form.entry)
        yield tag, (kind, values, value)


def _led_to(file: BinaryIO, form: _Form, size: int, tag: int, entry: tuple[int, int, bytes]) -> list[int]:
    """The tables to which an entry leads, once what it says is known to lie in the file."""
    kind, count, value = entry
    length = _BYTES.get(kind, 1) * count
    if tag not in _NEEDED:
        return []
    place = struct.unpack(form.place, value)[0] if length > len(value) else None
    if place is not None and place + length > size:
        raise _CutShortError
    if tag != _SUB_IFDS or kind not in (4, 13, 16, 18) or count > _MOST_TABLES:
        return []
    if place is not None:
        file.seek(place)
        value = file.read(length)
    return list(struct.unpack(f"{form.order}{count}{'I' if _BYTES[kind] == 4 else 'Q'}", value[:length]))


def _unpacked(file: BinaryIO, form: str) -> tuple[int, int, int, bytes]:
    data = file.read(struct.calcsize(form))
    if len(data) < struct.calcsize(form):
        raise _CutShortError
    found: tuple[int, int, int, bytes] = struct.unpack(form, data)
    return found
