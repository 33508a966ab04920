"""A stripe's encoded tiles in one file: what a crash does not lose.

Tiles are appended from any thread as they are encoded; the index, the raw rows of the first unfinished level and
the stripe's report follow at the end. The file is written beside, flushed to disk and renamed, so that one that has
its name is whole.

    tiles ... | index | rest | report (JSON) | their three sizes, the rest's shape, a checksum of all these | magic
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


@dataclass(frozen=True, slots=True)
class Blank:
    """A tile of one colour; stored as the colour alone."""

    colour: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Entry:
    """One encoded tile, or one of its parts (planes), of a segment."""

    level: int
    row: int
    column: int
    part: int
    payload: bytes | Blank


def detect_blank(tile: Pixels) -> Blank | None:
    """The colour of a tile that has only one, else None."""
    first = tile[0, 0]
    if (tile[-1, -1] == first).all() and (tile[0] == first).all() and (tile == first).all():
        return Blank((int(first[0]), int(first[1]), int(first[2])))
    return None


class SegmentWriter:
    """Writes one segment; `put` may be called from any thread. Nothing is left behind unless `finish` is reached.

    Two that write the same stripe, on two machines, don't meet before the last of them takes the name.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._partial = path, path.with_suffix(f".{uuid.uuid4().hex[:8]}.part")
        self._file = self._partial.open("wb")
        self._lock = threading.Lock()
        self._rows: list[tuple[Any, ...]] = []
        self._end = 0

    def put(self, level: int, row: int, column: int, payload: Sequence[bytes] | Blank) -> None:
        """Append a tile: its encoded parts in order, or its one colour."""
        with self._lock:
            if isinstance(payload, Blank):
                self._rows.append((level, 0, 1, payload.colour, row, column, 0, 0, 0))
                return
            for part, data in enumerate(payload):
                self._file.write(data)
                self._rows.append((level, part, 0, (0, 0, 0), row, column, self._end, len(data), zlib.crc32(data)))
                self._end += len(data)

    def finish(self, remainder: Pixels | None, report: dict[str, Any]) -> None:
        """Write the index and the rest, flush to disk, take the final name."""
        index = np.array(self._rows, _INDEX)
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
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._file.closed:
            with suppress(OSError):  # closing flushes, and a full disk says so once more
                self._file.close()
            self._partial.unlink(missing_ok=True)


class Segment:
    """A finished segment, opened for reading; entries come in the order (level, row, column, part).

    Raises
    ------
    SegmentDamagedError
        The file is cut short or altered.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size < _FOOTER_SIZE:
                raise SegmentDamagedError(path, "cut short")
            file.seek(size - _FOOTER_SIZE)
            packed = file.read(_SIZES.size)
            checksum, magic = _CHECK.unpack(file.read(_CHECK.size))
            index_size, remainder_size, report_size, height, width = _SIZES.unpack(packed)
            tail_size = index_size + remainder_size + report_size
            if magic != _MAGIC or tail_size + _FOOTER_SIZE > size:
                raise SegmentDamagedError(path, "not a finished segment")
            file.seek(size - _FOOTER_SIZE - tail_size)
            tail = file.read(tail_size)
        if zlib.crc32(packed, zlib.crc32(tail)) != checksum:
            raise SegmentDamagedError(path, "its index is damaged")
        if index_size % _INDEX.itemsize or remainder_size != height * width * 3:
            raise SegmentDamagedError(path, "its index is none")
        self.index: NDArray[Any] = np.frombuffer(tail[:index_size], _INDEX)
        self.report: dict[str, Any] = self._report(tail[index_size + remainder_size :])
        self.remainder_shape: tuple[int, int, int] = (height, width, 3)
        self._remainder = size - _FOOTER_SIZE - tail_size + index_size, remainder_size

    def _report(self, told: bytes) -> dict[str, Any]:
        try:
            report = json.loads(told)
        except (ValueError, RecursionError) as error:
            raise SegmentDamagedError(self.path, "its report is none") from error
        if not isinstance(report, dict):
            raise SegmentDamagedError(self.path, "its report is none")
        return report

    def remainder(self) -> Pixels | None:
        """Raw rows of the first level that the stripe does not complete; read from disk at each call."""
        offset, size = self._remainder
        if size == 0:
            return None
        with self.path.open("rb") as file:
            file.seek(offset)
            return np.frombuffer(file.read(size), np.uint8).reshape(self.remainder_shape)

    def entries(self, level: int) -> Iterator[Entry]:
        """Tiles of one level; each checksum is compared as it is read."""
        with self.path.open("rb") as file:
            for row in self.index[self.index["level"] == level]:
                yield Entry(level, int(row["row"]), int(row["column"]), int(row["part"]), self._payload(file, row))

    def tile(self, level: int, row: int, column: int) -> Sequence[bytes] | Blank:
        """One tile, as `SegmentWriter.put` was given it; KeyError if it is not of this stripe."""
        index = self.index
        rows = index[(index["level"] == level) & (index["row"] == row) & (index["column"] == column)]
        if len(rows) == 0:
            raise KeyError(f"{self.path.name} has no tile {(level, row, column)}")
        with self.path.open("rb") as file:
            parts = [self._payload(file, one) for one in rows]
        return parts[0] if isinstance(parts[0], Blank) else [part for part in parts if isinstance(part, bytes)]

    def _payload(self, file: BinaryIO, row: Any) -> bytes | Blank:  # a record of `_INDEX`
        if row["blank"]:
            red, green, blue = row["colour"].tolist()
            return Blank((red, green, blue))
        file.seek(int(row["offset"]))
        data = file.read(int(row["size"]))
        if zlib.crc32(data) != row["checksum"]:
            where = tuple(int(row[name]) for name in ("level", "row", "column", "part"))
            raise SegmentDamagedError(self.path, f"tile {where} was altered on disk")
        return data
