"""Damaged files of an interrupted run are made anew; the result has the bytes of an undisturbed run."""

import json
import math
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from slidelift.service.errors import Cancelled
from slidelift.service.pipeline.progress import CancelToken, Stage
from slidelift.service.pipeline.report import StripesReport
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.pipeline.upscale import upscale
from slidelift.wsi.errors import SegmentDamagedError
from slidelift.wsi.writers.segment import Blank, Segment, SegmentWriter

STRIPES = 2


@dataclass(frozen=True)
class Left:
    """Workspace of a run that was stopped with all its stripes, and the bytes of an undisturbed run."""

    slide: Path
    folder: Path
    truth: bytes

    def copied_to(self, place: Path) -> tuple[UpscaleRequest, Path]:
        """Return the request, and the workspace that it would continue."""
        place.mkdir()
        shutil.copytree(self.folder, place / self.folder.name)
        return _request(self.slide, place), place / self.folder.name


def _request(slide: Path, place: Path) -> UpscaleRequest:
    return UpscaleRequest(slide, place / "o.ome.tiff", model="bicubic", mpp=1.0, target_mpp=0.5)


def _stop_at_the_join(request: UpscaleRequest) -> None:
    token = CancelToken()
    with pytest.raises(Cancelled):
        upscale(request, lambda progress: token.cancel() if progress.stage is Stage.JOINING else None, token)


@pytest.fixture(scope="module")
def left(tmp_path_factory) -> Left:
    folder = tmp_path_factory.mktemp("left")
    pixels = np.random.default_rng(5).integers(0, 255, (2100, 60, 3), dtype=np.uint8)
    pixels[:900, :30] = 244  # some tiles of one colour, some rejected
    slide = folder / "slide.png"
    Image.fromarray(pixels).save(slide)
    (folder / "whole").mkdir()
    upscale(_request(slide, folder / "whole"))
    (folder / "stopped").mkdir()
    _stop_at_the_join(_request(slide, folder / "stopped"))
    (workspace,) = (folder / "stopped").glob(".slidelift-*")
    return Left(slide, workspace, (folder / "whole" / "o.ome.tiff").read_bytes())


def test_undamaged_work_is_continued(left, tmp_path) -> None:
    request, _ = left.copied_to(tmp_path / "a")
    assert upscale(request).stripes == StripesReport(STRIPES, STRIPES)
    assert request.output.read_bytes() == left.truth


TEXTS = [b"", b"\xff", b"\xff" * 400, b"null", b"[]", b"{}", b"3", b'"x"', b"NaN", b"[" * 100_000, b"\x00" * 50]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:9]))
@pytest.mark.parametrize("name", ["plan.json", "stripe-00000.segment"])
def test_overwritten_file_is_made_anew(left, tmp_path, name, text) -> None:
    request, workspace = left.copied_to(tmp_path / "a")
    (workspace / name).write_bytes(text)
    assert upscale(request).stripes.resumed == (0 if name == "plan.json" else STRIPES - 1)
    assert request.output.read_bytes() == left.truth
    assert [path.name for path in request.output.parent.glob(".*")] == []


@pytest.mark.parametrize("name", ["plan.json", "stripe-00001.segment"])
def test_file_replaced_by_a_folder_is_made_anew(left, tmp_path, name) -> None:
    request, workspace = left.copied_to(tmp_path / "a")
    (workspace / name).unlink()
    (workspace / name / "in").mkdir(parents=True)
    upscale(request)
    assert request.output.read_bytes() == left.truth


WRONG: list[Any] = [None, True, -1, 10**30, math.nan, math.inf, "", "1", [], {}, [None], 0.5]


def _altered(value: Any, chance: random.Random) -> Any:
    """Replace, remove or cut one value of a JSON value."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(sorted(value))
        rest = {name: one for name, one in value.items() if name != key}
        return rest if chance.random() < 0.15 else {**rest, key: _altered(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        place = chance.randrange(len(value))
        kept = [] if chance.random() < 0.15 else [_altered(value[place], chance)]
        return [*value[:place], *kept, *value[place + 1 :]]
    if isinstance(value, str) and value and chance.random() < 0.5:
        place = chance.randrange(len(value))
        return value[:place] + chance.choice(["", "0", "1", "t", "é", "x"]) + value[place + 1 :]
    return chance.choice(WRONG)


def test_altered_plan_is_made_anew_or_changes_no_pixel(left, tmp_path) -> None:
    """40 seeded alterations; warnings may differ, pixels may not."""
    state = json.loads((left.folder / "plan.json").read_bytes())
    for seed in range(40):
        request, workspace = left.copied_to(tmp_path / str(seed))
        altered = _altered(state, random.Random(seed))
        (workspace / "plan.json").write_text(json.dumps(altered))
        resumed = upscale(request).stripes.resumed
        assert request.output.read_bytes() == left.truth, (seed, altered)
        same_pixels = isinstance(altered, dict) and all(
            altered.get(name) == state[name] for name in ("key", "precision", "plan", "checksum")
        )
        assert resumed in ((0, STRIPES) if same_pixels else (0,)), (seed, altered)


def test_every_altered_byte_of_a_segment_is_detected(left, tmp_path) -> None:
    """Every seventh byte from the index on, and 300 of the tiles, which are checked when read."""
    whole = (left.folder / "stripe-00000.segment").read_bytes()
    segment = Segment(left.folder / "stripe-00000.segment")
    tiles = int((segment.index["offset"] + segment.index["size"]).max())
    path, chance = tmp_path / "a.segment", random.Random(0)
    places = [
        *(chance.randrange(tiles) for _ in range(300)),
        *range(tiles, len(whole), 7),
        *range(len(whole) - 60, len(whole)),
    ]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= chance.randrange(1, 256)
        path.write_bytes(damaged)
        with pytest.raises(SegmentDamagedError):
            list(_tiles(Segment(path)))


def test_truncated_segment_is_detected(left, tmp_path) -> None:
    whole, path, chance = (left.folder / "stripe-00001.segment").read_bytes(), tmp_path / "a.segment", random.Random(1)
    for size in [*range(130), *(chance.randrange(len(whole)) for _ in range(200))]:
        for part in (whole[:size], whole[len(whole) - size :]):
            path.write_bytes(part)
            if len(part) < len(whole):
                with pytest.raises(SegmentDamagedError):
                    list(_tiles(Segment(path)))


def _rewritten(path: Path, report: Any, keep: Callable[[int, Any], bool] = lambda _number, _entry: True) -> None:
    """Rewrite a segment with a valid checksum, another record, and only some of its tiles."""
    old = Segment(path)
    rest, entries = old.remainder(), list(_tiles(old))
    with SegmentWriter(path) as writer:
        for number, (level, row, column, payload) in enumerate(entries):
            if keep(number, payload):
                writer.put(level, row, column, payload)
        writer.finish(rest, report)


def _tiles(segment: Segment) -> Iterator[tuple[int, int, int, Any]]:
    for level in range(8):
        for entry in segment.entries(level):
            payload = entry.payload if isinstance(entry.payload, Blank) else (entry.payload,)
            yield level, entry.row, entry.column, payload


def test_stripe_with_an_altered_record_is_made_anew(left, tmp_path) -> None:
    """40 seeded alterations with a valid checksum, as another program or a bug would leave them."""
    report = Segment(left.folder / "stripe-00000.segment").report
    taken = 0
    for seed in range(40):
        request, workspace = left.copied_to(tmp_path / str(seed))
        altered = _altered(report, random.Random(1000 + seed))
        _rewritten(workspace / "stripe-00000.segment", altered)
        taken += upscale(request).stripes.resumed == STRIPES
        assert request.output.read_bytes() == left.truth, (seed, altered)
    assert taken < 15  # another valid count or letter can't be detected


@pytest.mark.parametrize("report", [None, [], {}, 3, "x"])
def test_stripe_with_a_record_of_another_type_is_made_anew(left, tmp_path, report) -> None:
    request, workspace = left.copied_to(tmp_path / "a")
    _rewritten(workspace / "stripe-00001.segment", report)
    assert upscale(request).stripes.resumed == STRIPES - 1
    assert request.output.read_bytes() == left.truth


def test_another_stripes_segment_or_missing_tiles_are_made_anew(left, tmp_path) -> None:
    request, workspace = left.copied_to(tmp_path / "other")
    shutil.copy(workspace / "stripe-00000.segment", workspace / "stripe-00001.segment")
    assert upscale(request).stripes.resumed == STRIPES - 1
    assert request.output.read_bytes() == left.truth
    request, workspace = left.copied_to(tmp_path / "fewer")
    path = workspace / "stripe-00000.segment"
    _rewritten(path, Segment(path).report, lambda number, _payload: number != 1)
    assert upscale(request).stripes.resumed == STRIPES - 1
    assert request.output.read_bytes() == left.truth
