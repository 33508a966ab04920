"""The options of an upscale have one definition: every layer offers the same names with the same defaults."""

import argparse
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import httpx
import pytest
from fastapi import FastAPI

from slidelift.service import cli
from slidelift.service.client import values as client_values
from slidelift.service.jobs.job import JobOrder, ResultFormat, UnloadedRoi
from slidelift.service.pipeline.options import DEFAULTS, OPTION_NAMES, BadTilePolicy, Effort, UpscaleOptions
from slidelift.wsi.roi import Roi

OPTIONS = set(OPTION_NAMES)
ROI = Roi((((((0.5, 1.0), (9.0, 1.0), (9.0, 7.0), (0.5, 1.0))),),))
OTHER: dict[str, Any] = {
    "model": "bicubic",
    "effort": Effort.BEST,
    "mpp": 0.5,
    "target_mpp": 0.125,
    "level": 1,
    "region": (1, 2, 3, 4),
    "entropy": 2.5,
    "quality": 70,
    "on_bad_tile": BadTilePolicy.MARK,
}
"""A value other than the default for each option."""


def test_these_tests_have_a_non_default_value_for_each_option() -> None:
    assert set(OTHER) == OPTIONS
    assert all(OTHER[name] != getattr(DEFAULTS, name) for name in OPTIONS)


@pytest.fixture
def openapi(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def schema_of(openapi: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """The schema of a JSON body."""
    name = content["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    schema: dict[str, Any] = openapi["components"]["schemas"][name]
    return schema


@pytest.mark.parametrize(
    ("path", "more"), [("/v1/jobs", {"slide", "roi", "format"}), ("/v1/batches", {"slides", "format"})]
)
def test_the_api_has_the_same_options_and_defaults(openapi: dict[str, Any], path: str, more: set[str]) -> None:
    members = schema_of(openapi, openapi["paths"][path]["post"]["requestBody"])["properties"]
    assert set(members) == OPTIONS | more
    assert {name: members[name].get("default") for name in OPTIONS} == DEFAULTS.option_values()
    assert members["format"]["default"] == JobOrder("s").format


def test_parameters_of_a_recommendation_are_options_with_the_same_defaults(openapi: dict[str, Any]) -> None:
    parameters = openapi["paths"]["/v1/slides/{slide}/recommendation"]["get"]["parameters"]
    defaults = {one["name"]: one["schema"].get("default") for one in parameters if one["in"] == "query"}
    assert set(defaults) < OPTIONS
    assert defaults == {name: getattr(DEFAULTS, name) for name in defaults}
    assert set(get_type_hints(client_values.RecommendationOptions)) == set(defaults)


def test_the_client_has_the_same_options() -> None:
    hints = get_type_hints(client_values.JobOptions)
    assert set(hints) == OPTIONS | {"roi", "format"}
    assert set(get_args(hints["effort"])) == set(Effort)
    assert set(get_args(hints["on_bad_tile"])) == set(BadTilePolicy)
    assert set(get_args(hints["format"])) == set(ResultFormat)


def test_a_job_has_every_option_except_the_effort(openapi: dict[str, Any]) -> None:
    members = schema_of(openapi, openapi["paths"]["/v1/jobs"]["post"]["responses"]["202"])["properties"]
    assert set(members) >= OPTIONS - {"effort"}
    assert {field.name for field in fields(client_values.Job)} >= OPTIONS - {"effort"}


@pytest.mark.parametrize("command", ["upscale", "submit"])
def test_the_command_line_has_the_same_options(command: str) -> None:
    below = next(one for one in cli._parser()._actions if isinstance(one, argparse._SubParsersAction))
    actions = {action.dest: action for action in below.choices[command]._actions}
    assert set(actions) >= OPTIONS
    # `submit` sends only what was given, and the service fills in its own defaults.
    wanted = DEFAULTS.option_values() if command == "upscale" else dict.fromkeys(OPTIONS)
    assert {name: actions[name].default for name in OPTIONS} == wanted
    assert set(actions["effort"].choices or ()) == set(Effort)
    assert set(actions["on_bad_tile"].choices or ()) == set(BadTilePolicy)


def test_a_job_passes_every_option_to_the_pipeline() -> None:
    order = JobOrder("s", roi=ROI, **{**OTHER, "region": None})
    request = order.request(Path("a.svs"), Path("b.ome.tiff"), device="cpu", scheduler=None, slide_sha256="0")
    assert request.option_values() == {**OTHER, "region": None}
    assert (request.roi, order.roi_points) == (ROI, 4)


@pytest.mark.parametrize(("path", "slides"), [("/v1/jobs", "slide"), ("/v1/batches", "slides")])
def test_an_api_request_becomes_an_order_with_every_option(
    app: FastAPI, call: Callable[..., httpx.Response], facts: dict[str, Any], tiff: bytes, path: str, slides: str
) -> None:
    facts["levels"].append({"width": 1110, "height": 1483, "downsample": 2.0})
    slide_id = call("PUT", "/v1/slides/b.tif", content=tiff).json()["id"]
    options = {**OTHER, "target_mpp": 0.25, "format": "ome-zarr"}  # 0.5 µm per pixel, level 1, x4
    answer = call("POST", path, json={slides: slide_id if slides == "slide" else [slide_id], **options})
    assert answer.status_code == 202, answer.text
    order = app.state.context.store.claim("w").order
    assert order.option_values() == {**OTHER, "target_mpp": 0.25}
    assert (order.slide, order.format, order.roi) == (slide_id, ResultFormat.OME_ZARR, None)


def test_an_order_without_a_region_of_interest_differs_from_one_that_is_not_loaded() -> None:
    none, unloaded = JobOrder("s"), JobOrder("s", roi_points=4)
    assert (none.roi, none.loaded_roi(), none.roi_points) == (None, None, None)
    assert unloaded.roi == UnloadedRoi()
    with pytest.raises(ValueError, match="not loaded"):
        unloaded.request(Path("a"), Path("b.ome.tiff"), device="cpu", scheduler=None, slide_sha256="0")
    assert replace(unloaded, roi=ROI).loaded_roi() == ROI


def test_options_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        UpscaleOptions("bicubic")  # type: ignore[misc]
