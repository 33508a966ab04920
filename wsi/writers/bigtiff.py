"""A small BigTIFF writer: tiles in any order, tables last, header patched at close.

Until `close` the header points nowhere, so that an unfinished file can't be taken for a result. Every level is in
the SubIFDs of the first one, where QuPath looks, and also chained in the main list, where OpenSlide does.

Source: the BigTIFF design (Aware Systems), TIFF 6.0, and Adobe's TIFF Technical Note 1 (SubIFDs).
"""

import os
import struct
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from slidelift.wsi.geometry import Size

_BYTE, _ASCII, _SHORT, _LONG, _RATIONAL, _UNDEFINED, _LONG8, _IFD8 = 1, 2, 3, 4, 5, 7, 16, 18
_FORMATS = {_SHORT: "H", _LONG: "I", _LONG8: "Q", _IFD8: "Q"}


@dataclass(slots=True)
class TiffLevel:
    """One level's tile table; every cell must be filled before the file is closed."""

    size: Size
    tile: int
    offsets: list[int] = field(init=False)
    sizes: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.offsets = [0] * (self.columns * -(-self.size.height // self.tile))
        self.sizes = [0] * len(self.offsets)

    @property
    def columns(self) -> int:
        """Tiles in a row."""
        return -(-self.size.width // self.tile)


class BigTiffWriter:
    """Writes one pyramidal BigTIFF of 8-bit YCbCr JPEG tiles (4:2:0).

    Parameters
    ----------
    sizes
        Of the levels, finest first.
    """

    def __init__(self, path: Path, sizes: tuple[Size, ...], tile: int) -> None:
        self.levels = [TiffLevel(size, tile) for size in sizes]
        self._shared: dict[bytes, tuple[int, int]] = {}
        self._file = path.open("wb")
        self._file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
        self._end = 16

    def put(self, level: int, row: int, column: int, data: bytes, *, shared: bool = False) -> None:
        """Write one tile; equal `shared` tiles are written once and pointed at by all."""
        place = self._shared.get(data) if shared else None
        if place is None:
            place = self._append(data), len(data)
            if shared:
                self._shared[data] = place
        table = self.levels[level]
        index = row * table.columns + column
        if table.sizes[index]:
            raise RuntimeError(f"level {level}, tile ({row}, {column}) was written twice")
        table.offsets[index], table.sizes[index] = place

    def close(
        self, description: str, software: str, pixels_per_cm: tuple[float, float] | None, icc_profile: bytes | None
    ) -> None:
        """Write the tables, patch the header, flush to disk.

        Raises
        ------
        RuntimeError
            A tile is missing.
        """
        empty = sum(level.sizes.count(0) for level in self.levels)
        if empty:
            raise RuntimeError(f"{empty} tiles were never written")
        following = 0
        sub_ifds: list[int] = []
        for number in range(len(self.levels) - 1, 0, -1):
            following = self._ifd(self._tags(number, software, pixels_per_cm, icc_profile), following)
            sub_ifds.insert(0, following)
        tags = self._tags(0, software, pixels_per_cm, icc_profile)
        tags[270] = (_ASCII, description.encode() + b"\0")
        if sub_ifds:
            tags[330] = (_IFD8, tuple(sub_ifds))
        first = self._ifd(tags, following)
        self._file.seek(8)
        self._file.write(struct.pack("<Q", first))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Close without tables; the file stays unreadable."""
        self._file.close()

    def _append(self, data: bytes) -> int:
        if self._end % 2:
            self._file.write(b"\0")
            self._end += 1
        offset = self._end
        self._file.write(data)
        self._end += len(data)
        return offset

    def _tags(
        self, number: int, software: str, pixels_per_cm: tuple[float, float] | None, icc_profile: bytes | None
    ) -> dict[int, tuple[int, bytes | tuple[int, ...]]]:
        level, full = self.levels[number], self.levels[0].size
        tags: dict[int, tuple[int, bytes | tuple[int, ...]]] = {
            254: (_LONG, (1 if number else 0,)),
            256: (_LONG, (level.size.width,)),
            257: (_LONG, (level.size.height,)),
            258: (_SHORT, (8, 8, 8)),
            259: (_SHORT, (7,)),  # JPEG
            262: (_SHORT, (6,)),  # YCbCr
            277: (_SHORT, (3,)),
            284: (_SHORT, (1,)),
            305: (_ASCII, software.encode() + b"\0"),
            322: (_LONG, (level.tile,)),
            323: (_LONG, (level.tile,)),
            324: (_LONG8, tuple(level.offsets)),
            325: (_LONG8, tuple(level.sizes)),
            530: (_SHORT, (2, 2)),  # never (1, 1): Bio-Formats would convert the colours twice
        }
        if pixels_per_cm is not None:
            tags[282] = (_RATIONAL, _rational(pixels_per_cm[0] * level.size.width / full.width))
            tags[283] = (_RATIONAL, _rational(pixels_per_cm[1] * level.size.height / full.height))
            tags[296] = (_SHORT, (3,))  # centimetre
        if icc_profile is not None:
            tags[34675] = (_UNDEFINED, icc_profile)
        return tags

    def _ifd(self, tags: dict[int, tuple[int, bytes | tuple[int, ...]]], following: int) -> int:
        entries = []
        for tag, (kind, values) in sorted(tags.items()):
            if isinstance(values, bytes):
                packed, count = values, len(values)
            elif kind == _RATIONAL:
                packed, count = struct.pack(f"<{len(values)}I", *values), len(values) // 2
            else:
                packed, count = struct.pack(f"<{len(values)}{_FORMATS[kind]}", *values), len(values)
            field_bytes = packed.ljust(8, b"\0") if len(packed) <= 8 else struct.pack("<Q", self._append(packed))
            entries.append(struct.pack("<HHQ", tag, kind, count) + field_bytes)
        return self._append(struct.pack("<Q", len(entries)) + b"".join(entries) + struct.pack("<Q", following))


def _rational(value: float) -> tuple[int, int]:
    """Numerator and denominator in 32 bits."""
    denominator = 1_000_000
    while denominator > 1 and round(value * denominator) >= 1 << 32:
        denominator //= 10
    exact = Fraction(round(value * denominator), denominator)
    return exact.numerator, exact.denominator
