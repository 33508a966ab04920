"""The report as JSON: round trip, validation, schema in the OpenAPI document."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from slidelift.service.pipeline.report import Report, ReportError

REAL = (Path(__file__).parent.parent / "report.json").read_bytes()


def test_round_trip_keeps_every_byte() -> None:
    assert Report.from_bytes(REAL).as_bytes() == REAL


def test_unknown_members_are_ignored() -> None:
    values = json.loads(REAL)
    values["slide"]["path"] = "/slides/a.svs"
    values["slidelift"] = {"sha256": "ab"}
    assert Report.from_dict(values) == Report.from_bytes(REAL)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 9999, "not JSON"),
        (b"[]", "not an object"),
        (b"null", "not an object"),
        (b"{}", "summary is missing"),
    ],
)
def test_other_files_are_refused(text: bytes, words: str) -> None:
    with pytest.raises(ReportError, match=words):
        Report.from_bytes(text)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("output", "sha256"), None, "output.sha256 is not of type str"),
        (("output", "levels"), [[1, 2, 3]], r"output.levels\[0\] has 3 values instead of 2"),
        (("output", "levels"), {}, "output.levels is not a list"),
        (("tiles", "total"), True, "tiles.total is not of type int"),
        (("tiles", "total"), 1.0, "tiles.total is not of type int"),
        (("tiles", "few_enhanced"), 0, "tiles.few_enhanced is not of type bool"),
        (("seconds",), float("nan"), "seconds is not of type float"),
        (("seconds",), 10**400, "seconds is not of type float"),
        (("plan", "source"), [0, 0, 1, 1], "plan.source is not an object"),
        (("tiles", "consistency", "worst", "rmse"), "1", "tiles.consistency.worst.rmse is not of type float"),
    ],
)
def test_error_names_the_wrong_member(place: tuple[str, ...], value: Any, words: str) -> None:
    values = json.loads(REAL)
    parent = values
    for name in place[:-1]:
        parent = parent[name]
    parent[place[-1]] = value
    with pytest.raises(ReportError, match=words):
        Report.from_dict(values)


def test_every_missing_member_is_detected() -> None:
    def cut(values: Any, chance: random.Random) -> None:
        name = chance.choice(sorted(values))
        if isinstance(values[name], dict) and chance.random() < 0.7:
            cut(values[name], chance)
        else:
            del values[name]

    for seed in range(50):
        values = json.loads(REAL)
        cut(values, random.Random(seed))
        with pytest.raises(ReportError, match="is missing"):
            Report.from_dict(values)


def test_openapi_document_has_the_schema(open_app: Callable[..., FastAPI]) -> None:
    document = open_app().openapi()
    answer = document["paths"]["/v1/jobs/{job}/report"]["get"]["responses"]["200"]
    assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Report"}
    schemas, values = document["components"]["schemas"], json.loads(REAL)
    assert list(schemas["Report"]["properties"]) == schemas["Report"]["required"] == list(values)
    for member, name in (("tiles", "TilesReport"), ("slide", "SlideReport"), ("seconds_by_stage", "StageSeconds")):
        assert schemas["Report"]["properties"][member]["$ref"].endswith(f"/{name}")
        assert list(schemas[name]["properties"]) == list(values[member])
    assert "tissue tiles" in schemas["Report"]["properties"]["summary"]["description"]
