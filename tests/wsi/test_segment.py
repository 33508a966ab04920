"""Tests of segment files: order, damage, concurrent writing."""

import threading

import numpy as np
import pytest

from slidelift.wsi.errors import VerificationError
from slidelift.wsi.writers.segment import Blank, Segment, SegmentWriter, detect_blank


def write(path, remainder=None):
    with SegmentWriter(path) as writer:
        writer.put(1, 0, 0, (b"coarse",))
        writer.put(0, 1, 0, Blank((255, 254, 253)))
        writer.put(0, 0, 1, (b"r", b"gg", b"bbb"))
        writer.put(0, 0, 0, (b"first",))
        writer.finish(remainder, {"tissue": 3})
    return Segment(path)


def test_entries_are_sorted(tmp_path) -> None:
    segment = write(tmp_path / "a.segment")
    found = [(entry.row, entry.column, entry.part, entry.payload) for entry in segment.entries(0)]
    assert found == [
        (0, 0, 0, b"first"),
        (0, 1, 0, b"r"),
        (0, 1, 1, b"gg"),
        (0, 1, 2, b"bbb"),
        (1, 0, 0, Blank((255, 254, 253))),
    ]
    assert [entry.payload for entry in segment.entries(1)] == [b"coarse"]


def test_remainder_and_report(tmp_path) -> None:
    remainder = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)
    segment = write(tmp_path / "a.segment", remainder)
    assert (segment.remainder() == remainder).all()
    assert segment.report == {"tissue": 3}


@pytest.mark.parametrize("cut", [1, 40, 100])
def test_truncated_segment_is_refused(tmp_path, cut: int) -> None:
    path = write(tmp_path / "a.segment").path
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(VerificationError):
        Segment(path)


def test_altered_tile_is_detected(tmp_path) -> None:
    path = write(tmp_path / "a.segment").path
    path.write_bytes(path.read_bytes().replace(b"coarse", b"coarsE"))
    with pytest.raises(VerificationError, match="altered"):
        list(Segment(path).entries(1))


def test_unfinished_segment_is_deleted(tmp_path) -> None:
    def fail_halfway() -> None:
        with SegmentWriter(tmp_path / "a.segment") as writer:
            writer.put(0, 0, 0, (b"x",))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []


def test_concurrent_puts(tmp_path) -> None:
    with SegmentWriter(tmp_path / "a.segment") as writer:
        threads = [
            threading.Thread(target=lambda r=row: [writer.put(0, r, c, (bytes([r]) * (c + 1),)) for c in range(50)])
            for row in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.finish(None, {})
    for entry in Segment(tmp_path / "a.segment").entries(0):
        assert entry.payload == bytes([entry.row]) * (entry.column + 1)


def test_detect_blank() -> None:
    tile = np.full((512, 512, 3), (240, 241, 242), np.uint8)
    assert detect_blank(tile) == Blank((240, 241, 242))
    tile[300, 200, 1] += 1
    assert detect_blank(tile) is None
