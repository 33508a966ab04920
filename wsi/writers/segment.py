"""Segment files: the encoded tiles of one stripe, which survive a crash.

Tiles are appended from any thread as they are encoded. The index, the remainder (raw rows of the first level that the
stripe does not complete) and the stripe's report follow at the end. The file is written under a temporary name, flushed
to disk and renamed, so that a segment under its final name is complete.

    tiles ... | index | remainder | report (JSON) | sizes of these three, shape of the remainder, checksum | magic
"""

import json
import os
import struct
import threading
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from slidelift.durable import sync_folder
from slidelift.wsi.errors import SegmentDamagedError
from slidelift.wsi.slide import Pixels

_MAGIC = b"SLSEG2\n\0"
_SIZES, _CHECK = struct.Struct("<QQQQQ"), struct.Struct("<I8s")
_FOOTER_SIZE = _SIZES.size + _CHECK.size
_INDEX = np.dtype(
    [
        ("level", "<u1"),
        ("part", "<u1"),
        ("blank", "<u1"),
        ("colour", "<u1", 3),
        ("row", "<u4"),
        ("column", "<u4"),
        ("offset", "<u8"),
        ("size", "<u4"),
        ("checksum", "<u4"),
    ]
)


_Record = tuple[int, int, int, tuple[int, int, int], int, int, int, int, int]
"""The fields of `_INDEX`."""


@dataclass(frozen=True, slots=True)
class Blank:
    """A tile of one colour, of which only the colour is stored."""

    colour: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Entry:
    """One part (JPEG stream or plane) of an encoded tile, or a blank tile."""

    level: int
    row: int
    column: int
    part: int
    payload: bytes | Blank


def detect_blank(tile: Pixels) -> Blank | None:
    """Return the colour of a tile, uint8 (H, W, 3), that has only one; None for other tiles."""
    first = tile[0, 0]
    if (tile[-1, -1] == first).all() and (tile[0] == first).all() and (tile == first).all():
        return Blank((int(first[0]), int(first[1]), int(first[2])))
    return None


class SegmentWriter:
    """Writer of one segment. `put` is thread-safe; leaving the context without `finish` deletes the file.

    Temporary names are unique, so two machines may write the same stripe at once; the last one replaces the file.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._partial = path, path.with_suffix(f".{uuid.uuid4().hex[:8]}.part")
        self._file = self._partial.open("wb")
        self._lock = threading.Lock()
        self._records: list[_Record] = []
        self._end = 0

    def put(self, level: int, row: int, column: int, payload: Sequence[bytes] | Blank) -> None:
        """Append a tile, as its encoded parts in order or as a blank tile."""
        with self._lock:
            if isinstance(payload, Blank):
                self._records.append((level, 0, 1, payload.colour, row, column, 0, 0, 0))
                return
            for part, data in enumerate(payload):
                self._file.write(data)
                self._records.append((level, part, 0, (0, 0, 0), row, column, self._end, len(data), zlib.crc32(data)))
                self._end += len(data)

    def finish(self, remainder: Pixels | None, report: dict[str, Any]) -> None:
        """Write index, remainder and report, flush the file to disk and rename it to its final name."""
        index = np.array(self._records, _INDEX)
        index = index[np.lexsort((index["part"], index["column"], index["row"], index["level"]))]
        shape = (0, 0) if remainder is None else remainder.shape[:2]
        tail = [index.tobytes(), b"" if remainder is None else remainder.tobytes(), json.dumps(report).encode()]
        for section in tail:
            self._file.write(section)
        sizes = _SIZES.pack(*(len(section) for section in tail), *shape)
        self._file.write(sizes + _CHECK.pack(zlib.crc32(b"".join([*tail, sizes])), _MAGIC))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.replace(self._path)
        sync_folder(self._path.parent)

    def __enter__(self) -> "SegmentWriter":
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._file.closed:
            with suppress(OSError):  # closing flushes, which fails again on a full disk
                self._file.close()
            self._partial.unlink(missing_ok=True)


class Segment:
    """Reader of a finished segment; entries are sorted by (level, row, column, part).

    Raises
    ------
    SegmentDamagedError
        The file is truncated or was altered.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size < _FOOTER_SIZE:
                raise SegmentDamagedError(path, "the file is cut short")
            file.seek(size - _FOOTER_SIZE)
            packed = file.read(_SIZES.size)
            checksum, magic = _CHECK.unpack(file.read(_CHECK.size))
            index_size, remainder_size, report_size, height, width = _SIZES.unpack(packed)
            tail_size = index_size + remainder_size + report_size
            if magic != _MAGIC or tail_size + _FOOTER_SIZE > size:
                raise SegmentDamagedError(path, "the file is not a finished segment")
            file.seek(size - _FOOTER_SIZE - tail_size)
            tail = file.read(tail_size)
        if zlib.crc32(packed, zlib.crc32(tail)) != checksum:
            raise SegmentDamagedError(path, "its index is damaged")
        if index_size % _INDEX.itemsize or remainder_size != height * width * 3:
            raise SegmentDamagedError(path, "its index has an impossible size")
        self.index: NDArray[np.void] = np.frombuffer(tail[:index_size], _INDEX)
        self.report: dict[str, Any] = self._parse_report(tail[index_size + remainder_size :])
        self.remainder_shape: tuple[int, int, int] = (height, width, 3)
        self._remainder = size - _FOOTER_SIZE - tail_size + index_size, remainder_size

    def _parse_report(self, data: bytes) -> dict[str, Any]:
        try:
            report = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise SegmentDamagedError(self.path, "its report is not valid JSON") from error
        if not isinstance(report, dict):
            raise SegmentDamagedError(self.path, "its report is not a JSON object")
        return report

    def remainder(self) -> Pixels | None:
        """Read the rows of the first incomplete level, uint8 (H, W, 3); None if there are none."""
        offset, size = self._remainder
        if size == 0:
            return None
        with self.path.open("rb") as file:
            file.seek(offset)
            return np.frombuffer(file.read(size), np.uint8).reshape(self.remainder_shape)

    def entries(self, level: int) -> Iterator[Entry]:
        """Read the tiles of one level and compare their checksums."""
        with self.path.open("rb") as file:
            for record in self.index[self.index["level"] == level]:
                row, column, part = (int(record[name]) for name in ("row", "column", "part"))
                yield Entry(level, row, column, part, self._payload(file, record))

    def tile(self, level: int, row: int, column: int) -> Sequence[bytes] | Blank:
        """Read one tile, as passed to `SegmentWriter.put`; raises KeyError if the stripe does not hold it."""
        index = self.index
        rows = index[(index["level"] == level) & (index["row"] == row) & (index["column"] == column)]
        if len(rows) == 0:
            raise KeyError(f"{self.path.name} has no tile {(level, row, column)}")
        with self.path.open("rb") as file:
            parts = [self._payload(file, record) for record in rows]
        return parts[0] if isinstance(parts[0], Blank) else [part for part in parts if isinstance(part, bytes)]

    def _payload(self, file: BinaryIO, record: np.void) -> bytes | Blank:
        if record["blank"]:
            red, green, blue = record["colour"].tolist()
            return Blank((red, green, blue))
        file.seek(int(record["offset"]))
        data = file.read(int(record["size"]))
        if zlib.crc32(data) != record["checksum"]:
            level, row, column = (int(record[name]) for name in ("level", "row", "column"))
            raise SegmentDamagedError(self.path, f"level {level}, tile ({row}, {column}) was altered on disk")
        return data
