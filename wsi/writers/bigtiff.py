"""BigTIFF writer that takes tiles in any order, and writes the IFDs last.

Until `close` the header points to no IFD, so that an unfinished file can't be mistaken for a result. The coarser levels
are both SubIFDs of the first level, where QuPath looks for them, and in the main chain of IFDs, where OpenSlide does.

Source: the BigTIFF design (Aware Systems), TIFF 6.0, and Adobe's TIFF Technical Note 1 (SubIFDs).
"""

import os
import struct
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from slidelift.wsi.geometry import Size

_ASCII, _SHORT, _LONG, _RATIONAL, _UNDEFINED, _LONG8, _IFD8 = 2, 3, 4, 5, 7, 16, 18
Tags = dict[int, tuple[int, bytes | tuple[int, ...]]]
"""Type and values by tag number; values of type RATIONAL are numerators and denominators in turn."""
_FORMATS = {_SHORT: "H", _LONG: "I", _LONG8: "Q", _IFD8: "Q"}


@dataclass(slots=True)
class TiffLevel:
    """Offsets and byte counts of one level's tiles; 0 until a tile is written."""

    size: Size
    tile: int
    offsets: list[int] = field(init=False)
    byte_counts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.offsets = [0] * (self.columns * -(-self.size.height // self.tile))
        self.byte_counts = [0] * len(self.offsets)

    @property
    def columns(self) -> int:
        """Number of tiles in a row."""
        return -(-self.size.width // self.tile)


class BigTiffWriter:
    """Writer of one pyramidal BigTIFF with 8-bit YCbCr JPEG tiles (4:2:0).

    Parameters
    ----------
    sizes
        Sizes of the levels, finest first.
    """

    def __init__(self, path: Path, sizes: tuple[Size, ...], tile: int) -> None:
        self.levels = [TiffLevel(size, tile) for size in sizes]
        self._shared: dict[bytes, tuple[int, int]] = {}
        self._file = path.open("wb")
        self._file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
        self._end = 16

    def put(self, level: int, row: int, column: int, data: bytes, *, shared: bool = False) -> None:
        """Write one tile; tiles with `shared` and equal data are stored once."""
        stored = self._shared.get(data) if shared else None
        if stored is None:
            stored = self._append(data), len(data)
            if shared:
                self._shared[data] = stored
        table = self.levels[level]
        index = row * table.columns + column
        if table.byte_counts[index]:
            raise RuntimeError(f"level {level}, tile ({row}, {column}) was written twice")
        table.offsets[index], table.byte_counts[index] = stored

    def close(
        self, description: str, software: str, pixels_per_cm: tuple[float, float] | None, icc_profile: bytes | None
    ) -> None:
        """Write the IFDs, patch the header and flush the file to disk.

        Raises
        ------
        RuntimeError
            A tile is missing.
        """
        missing = sum(level.byte_counts.count(0) for level in self.levels)
        if missing:
            raise RuntimeError(f"{missing} tiles were not written")
        next_ifd = 0
        sub_ifds: list[int] = []
        for number in range(len(self.levels) - 1, 0, -1):
            next_ifd = self._write_ifd(self._tags(number, software, pixels_per_cm, icc_profile), next_ifd)
            sub_ifds.insert(0, next_ifd)
        tags = self._tags(0, software, pixels_per_cm, icc_profile)
        tags[270] = (_ASCII, description.encode() + b"\0")
        if sub_ifds:
            tags[330] = (_IFD8, tuple(sub_ifds))
        first = self._write_ifd(tags, next_ifd)
        self._file.seek(8)
        self._file.write(struct.pack("<Q", first))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Close the file without IFDs, so that it stays unreadable; does nothing after `close`."""
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
    ) -> Tags:
        level, full = self.levels[number], self.levels[0].size
        tags: Tags = {
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
            325: (_LONG8, tuple(level.byte_counts)),
            530: (_SHORT, (2, 2)),  # never (1, 1): Bio-Formats would convert the colours twice
        }
        if pixels_per_cm is not None:
            tags[282] = (_RATIONAL, _rational(pixels_per_cm[0] * level.size.width / full.width))
            tags[283] = (_RATIONAL, _rational(pixels_per_cm[1] * level.size.height / full.height))
            tags[296] = (_SHORT, (3,))  # centimetre
        if icc_profile is not None:
            tags[34675] = (_UNDEFINED, icc_profile)
        return tags

    def _write_ifd(self, tags: Tags, next_ifd: int) -> int:
        """Append an IFD and return its offset."""
        entries = []
        for tag, (tag_type, values) in sorted(tags.items()):
            if isinstance(values, bytes):
                packed, count = values, len(values)
            elif tag_type == _RATIONAL:
                packed, count = struct.pack(f"<{len(values)}I", *values), len(values) // 2
            else:
                packed, count = struct.pack(f"<{len(values)}{_FORMATS[tag_type]}", *values), len(values)
            field_bytes = packed.ljust(8, b"\0") if len(packed) <= 8 else struct.pack("<Q", self._append(packed))
            entries.append(struct.pack("<HHQ", tag, tag_type, count) + field_bytes)
        return self._append(struct.pack("<Q", len(entries)) + b"".join(entries) + struct.pack("<Q", next_ifd))


def _rational(value: float) -> tuple[int, int]:
    """Approximate a number by a numerator and a denominator of 32 bits each."""
    denominator = 1_000_000
    while denominator > 1 and round(value * denominator) >= 1 << 32:
        denominator //= 10
    exact = Fraction(round(value * denominator), denominator)
    return exact.numerator, exact.denominator
