"""The options of an upscale have one definition: every layer offers the same names with the same defaults."""

import argparse
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from slidelift.service import cli
from slidelift.service.api.schemas import BatchIn, JobIn, JobOut
from slidelift.service.api.slides import _Wanted as RecommendationIn
from slidelift.service.client import values as client_values
from slidelift.service.jobs.job import JobOrder, ResultFormat, UnloadedRoi
from slidelift.service.pipeline.options import DEFAULTS, OPTION_NAMES, BadTilePolicy, Effort, UpscaleOptions
from slidelift.service.pipeline.request import UpscaleRequest
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


def test_each_option_has_another_value_in_these_tests() -> None:
    assert set(OTHER) == OPTIONS
    assert all(OTHER[name] != getattr(DEFAULTS, name) for name in OPTIONS)


@pytest.mark.parametrize(("schema", "more"), [(JobIn, {"slide", "roi", "format"}), (BatchIn, {"slides", "format"})])
def test_the_api_has_the_same_options_and_defaults(schema: Any, more: set[str]) -> None:
    assert set(schema.model_fields) == OPTIONS | more
    assert {name: schema.model_fields[name].default for name in OPTIONS} == DEFAULTS.option_values()
    assert schema.model_fields["format"].default == JobOrder("s").format


def test_a_recommendation_takes_some_of_the_options_with_their_defaults() -> None:
    assert set(RecommendationIn.model_fields) < OPTIONS
    for name, field in RecommendationIn.model_fields.items():
        assert field.default == getattr(DEFAULTS, name)
    assert set(get_type_hints(client_values.RecommendationOptions)) == set(RecommendationIn.model_fields)


def test_the_client_has_the_same_options() -> None:
    hints = get_type_hints(client_values.JobOptions)
    assert set(hints) == set(JobIn.model_fields) - {"slide"}
    assert set(get_args(hints["effort"])) == set(Effort)
    assert set(get_args(hints["on_bad_tile"])) == set(BadTilePolicy)
    assert set(get_args(hints["format"])) == set(ResultFormat)


def test_a_job_tells_every_option_but_the_effort() -> None:
    assert set(JobOut.model_fields) >= OPTIONS - {"effort"}
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


def test_a_job_hands_every_option_to_the_pipeline() -> None:
    order = JobOrder("s", roi=ROI, **{**OTHER, "region": None})
    request = order.request(Path("a.svs"), Path("b.ome.tiff"), device="cpu", scheduler=None, slide_sha256="0")
    assert request.option_values() == {**OTHER, "region": None}
    assert (request.roi, order.roi_points) == (ROI, 4)


def test_an_api_request_becomes_an_order_with_every_option() -> None:
    body = json.loads(json.dumps({"slide": "s", "format": "ome-zarr", **OTHER}))
    order = JobIn.model_validate(body).order()
    assert order.option_values() == OTHER
    assert (order.slide, order.format, order.roi) == ("s", ResultFormat.OME_ZARR, None)
    del body["slide"]
    assert BatchIn.model_validate({**body, "slides": ["s", "t"]}).orders() == [order, replace(order, slide="t")]


def test_a_request_survives_the_way_to_the_child_process() -> None:
    for options in ({}, OTHER, {"roi": ROI}):
        request = UpscaleRequest(Path("a.svs"), Path("b.ome.tiff"), **options)
        assert UpscaleRequest.from_dict(json.loads(json.dumps(request.as_dict()))) == request


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
