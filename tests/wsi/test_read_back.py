"""Reading a result back detects altered or missing bytes of any tile."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from slidelift.wsi.errors import VerificationError
from slidelift.wsi.geometry import Size
from slidelift.wsi.ome_xml import ImageMetadata
from slidelift.wsi.pyramid import TILE
from slidelift.wsi.writers.assembly import assemble_levels
from slidelift.wsi.writers.formats import FORMATS, OutputFormat
from slidelift.wsi.writers.read_back import read_back
from slidelift.wsi.writers.segment import Blank, Entry, Segment, SegmentWriter

QUALITY = 90
SIZES = (Size(2 * TILE, TILE), Size(TILE, TILE // 2))


@pytest.fixture(params=FORMATS, ids=lambda one: one.name)
def output_format(request: pytest.FixtureRequest) -> OutputFormat:
    return request.param


@pytest.fixture
def segment(tmp_path: Path, output_format: OutputFormat) -> Segment:
    """Segment with two tiles of noise and a blank one."""
    encode, draw = output_format.encoder(QUALITY), np.random.default_rng(0)
    with SegmentWriter(tmp_path / "s.segment") as writer:
        for column in range(2):
            writer.put(0, 0, column, encode(draw.integers(0, 256, (TILE, TILE, 3), dtype=np.uint8)))
        writer.put(1, 0, 0, Blank((255, 255, 250)))
        writer.finish(None, {})
    return Segment(tmp_path / "s.segment")


@pytest.fixture
def result(tmp_path: Path, output_format: OutputFormat, segment: Segment) -> Path:
    target = tmp_path / f"result{output_format.suffixes[0]}"
    metadata = ImageMetadata(
        uuid="urn:uuid:12345678-1234-4234-8234-123456789012",
        name="n",
        software="s",
        description="d",
        sizes=SIZES,
        mpp=(0.25, 0.25),
        objective=40.0,
        annotations=(),
        icc_profile=None,
    )
    output_format.write(target, levels(segment), metadata, QUALITY, lambda: None)
    return target


def levels(segment: Segment) -> Iterator[Iterator[Entry]]:
    return assemble_levels([segment], None, 2 * TILE, SIZES, 2, lambda: None)


def files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file() and one.name.isdigit())


def test_written_result_is_accepted(result: Path, output_format: OutputFormat, segment: Segment) -> None:
    read_back(result, output_format, levels(segment), QUALITY)


def test_one_altered_byte_of_any_tile_is_detected(result: Path, output_format: OutputFormat, segment: Segment) -> None:
    for entries in levels(segment):
        for entry in entries:
            for _, data in output_format.stored_parts(entry, QUALITY):
                (file,) = (one for one in files(result) if data in one.read_bytes())
                data_before = file.read_bytes()
                offset = data_before.index(data) + len(data) // 2
                file.write_bytes(data_before[:offset] + bytes([data_before[offset] ^ 1]) + data_before[offset + 1 :])
                with pytest.raises(VerificationError, match=rf"level {entry.level}, tile \(0, {entry.column}\)"):
                    read_back(result, output_format, levels(segment), QUALITY)
                file.write_bytes(data_before)
    read_back(result, output_format, levels(segment), QUALITY)


def test_missing_tile_data_are_detected(result: Path, output_format: OutputFormat, segment: Segment) -> None:
    if result.is_dir():
        for chunk in files(result):
            chunk.write_bytes(b"")
    else:
        data_before = result.read_bytes()
        first = next(next(levels(segment))).payload
        assert isinstance(first, bytes)
        offset = data_before.index(first)
        result.write_bytes(data_before[:offset] + bytes(len(first)) + data_before[offset + len(first) :])
    with pytest.raises(VerificationError, match="level 0, tile"):
        read_back(result, output_format, levels(segment), QUALITY)
