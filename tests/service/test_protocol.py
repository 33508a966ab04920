"""Messages between a process and its children: each is decoded as it was encoded, and malformed ones are refused."""

import json
from pathlib import Path
from typing import get_args

import pytest

from slidelift.service.errors import ServiceError, problem
from slidelift.service.pipeline.image_source import ImageSource, TileFormat
from slidelift.service.pipeline.options import BadTilePolicy, Effort
from slidelift.service.pipeline.progress import Progress, Stage
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.processes.protocol import (
    Answer,
    Cancel,
    DecodeTile,
    Failed,
    MalformedMessageError,
    MapRead,
    Probed,
    ProbeSlide,
    ProgressChanged,
    ReadMap,
    ReadSize,
    Request,
    RunUpscale,
    SizeRead,
    TileDecoded,
    UnpackArchive,
    Unpacked,
    Upscaled,
    decode_answer,
    decode_request,
    encode,
)
from slidelift.wsi.roi import Roi

SQUARE = Roi.from_geojson({"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9.5], [0, 9], [0, 0]]]})
IMAGE = ImageSource("stripes", Path("/data/r.ome.tiff"), "result", "ome-tiff", Path("/data/s.svs"), (0.5, 0.25))
REQUESTS: list[Request] = [
    RunUpscale(
        UpscaleRequest(
            Path("/data/\udce9.svs"),
            Path("out.ome.tiff"),
            effort=Effort.BEST,
            mpp=1,
            roi=SQUARE,
            on_bad_tile=BadTilePolicy.MARK,
            slide_name="Müller",
        )
    ),
    RunUpscale(UpscaleRequest(Path("a.svs"), Path("out.ome.tiff"), region=(0, 1, 2, 3))),
    Cancel(),
    ProbeSlide(Path("/data/a.svs"), "a\nb"),
    UnpackArchive(Path("a.zip"), "zip", Path("out"), 10, 20),
    DecodeTile(IMAGE, 9, 1, 2, TileFormat.PNG),
    ReadSize(ImageSource("slide", Path("a.svs"), "slide 1")),
    ReadMap(IMAGE),
]
ANSWERS: list[Answer] = [
    ProgressChanged(Progress(Stage.UPSCALING, 1, 2, 0.5)),
    Upscaled({"tiles": {"map": ["tt"]}, "warnings": []}),
    Probed({"width": 3}),
    Unpacked("slide.svs"),
    TileDecoded(bytes(range(256))),
    SizeRead(3, 4),
    MapRead({"map": ["."], "bad": []}),
    Failed(problem("slide.unreadable", "a.svs: no")),
]


@pytest.mark.parametrize("message", REQUESTS, ids=lambda message: type(message).__name__)
def test_request_is_decoded_as_it_was_encoded(message: Request) -> None:
    line = encode(message)
    assert line.count("\n") == 1
    assert decode_request(line) == message
    with pytest.raises(MalformedMessageError):
        decode_answer(line)


@pytest.mark.parametrize("message", ANSWERS, ids=lambda message: type(message).__name__)
def test_answer_is_decoded_as_it_was_encoded(message: Answer) -> None:
    assert decode_answer(encode(message)) == message
    with pytest.raises(MalformedMessageError):
        decode_request(encode(message))


def test_every_kind_of_message_is_tested() -> None:
    assert {type(message) for message in REQUESTS} == set(get_args(Request))
    assert {type(message) for message in ANSWERS} == set(get_args(Answer))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "words of a library",
        "[]",
        "null",
        "[" * 99_999,
        "{}",
        '{"kind": "Unheard"}',
        '{"kind": ["Unpacked"]}',
        '{"kind": "Unpacked"}',
        '{"kind": "Unpacked", "file": 3}',
        '{"kind": "Unpacked", "file": "a", "more": 1}',
        '{"kind": "SizeRead", "width": 3, "height": "4"}',
        '{"kind": "SizeRead", "width": 3, "height": true}',
        '{"kind": "SizeRead", "width": 3, "height": 4.5}',
        '{"kind": "TileDecoded", "data": "no base64!"}',
        '{"kind": "TileDecoded", "data": null}',
        '{"kind": "Upscaled", "report": []}',
        '{"kind": "ProgressChanged", "progress": {"stage": "upscaling"}}',
        '{"kind": "Failed", "problem": "no"}',
    ],
)
def test_malformed_answer_is_refused(line: str) -> None:
    with pytest.raises(MalformedMessageError):
        decode_answer(line)


def changed(message: Request, path: str, value: object) -> str:
    values = json.loads(encode(message))
    *parents, last = path.split(".")
    inner = values
    for name in parents:
        inner = inner[name]
    inner[last] = value
    return json.dumps(values)


@pytest.mark.parametrize(
    ("message", "path", "value"),
    [
        (REQUESTS[0], "request.effort", "utmost"),
        (REQUESTS[0], "request.slide", None),
        (REQUESTS[0], "request.roi.polygons", [[[1, 2]]]),
        (REQUESTS[1], "request.region", [1, 2, 3]),
        (REQUESTS[1], "request.region", "1234"),
        (REQUESTS[5], "image_format", "gif"),
        (REQUESTS[5], "source.kind", "folder"),
        (REQUESTS[5], "source.mpp", [0.5, "0.5"]),
    ],
)
def test_member_of_another_type_is_named(message: Request, path: str, value: object) -> None:
    with pytest.raises(MalformedMessageError, match=path.rpartition(".")[2]):
        decode_request(changed(message, path, value))


def test_value_out_of_range_is_refused_with_the_problem_of_the_request() -> None:
    with pytest.raises(ServiceError) as error:
        decode_request(changed(REQUESTS[1], "request.quality", 0))
    assert error.value.problem.code == "request.invalid"
