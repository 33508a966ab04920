"""The API and the pipeline refuse the same requests with the same codes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from slidelift.models.errors import ModelError
from slidelift.service.errors import ServiceError
from slidelift.service.pipeline.failures import describe
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.pipeline.upscale import upscale
from slidelift.wsi.errors import WsiError
from slidelift.wsi.roi import Roi

Call = Callable[..., httpx.Response]


def polygon(*points: tuple[int, int]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[*points, points[0]]]}


INSIDE, OUTSIDE = polygon((0, 0), (90, 0), (90, 70)), polygon((9000, 0), (9900, 0), (9900, 70))
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"level": 1}, "request.level"),
    ({"level": 9, "target_mpp": 0.25}, "request.level"),
    ({"model": "auto", "level": 9}, "request.level"),
    ({"region": (2219, 0, 2, 1)}, "request.region"),
    ({"region": (5000, 0, 1, 1)}, "request.region"),
    ({"region": (0, 0, 0, 1)}, "request.region"),
    ({"region": (0, 0, 1, 0), "target_mpp": 0.3}, "request.region"),
    ({"roi": OUTSIDE}, "request.roi"),
    ({"roi": INSIDE, "region": (0, 0, 9, 9)}, "request.roi"),
    ({"roi": {"type": "Point", "coordinates": [1, 1]}}, "request.roi"),
    ({"target_mpp": 0.3}, "request.plan"),
    ({"model": "compact-x4", "target_mpp": 0.25}, "request.plan"),
    ({"model": "auto", "target_mpp": 0.3}, "request.little-to-gain"),
    ({"model": "no-such-model"}, "model.unknown"),
    ({"mpp": 0.0001}, "request.invalid"),
    ({"target_mpp": 5000}, "request.invalid"),
    ({"quality": 0}, "request.invalid"),
    ({"quality": 101}, "request.invalid"),
    ({"entropy": 9}, "request.invalid"),
]


def code_of_pipeline(slide: Path, output: Path, options: dict[str, Any]) -> str:
    with pytest.raises((ServiceError, WsiError, ModelError)) as caught:
        run_pipeline(slide, output, options)
    return describe(caught.value).code


def run_pipeline(slide: Path, output: Path, options: dict[str, Any]) -> None:
    roi = Roi.from_geojson(options["roi"]) if "roi" in options else None
    upscale(UpscaleRequest(slide, output, **{"model": "bicubic", **options, "roi": roi}))


@pytest.mark.parametrize(("options", "code"), REFUSED, ids=[str(options) for options, _ in REFUSED])
def test_api_and_pipeline_refuse_with_the_same_code(
    call: Call, slide_id: str, cmu: Path, tmp_path: Path, options: dict[str, Any], code: str
) -> None:
    answer = call("POST", "/v1/jobs", json={"slide": slide_id, "model": "bicubic", **options})
    assert answer.json()["code"] == code, answer.text
    assert code_of_pipeline(cmu, tmp_path / "o.ome.tiff", options) == code


@pytest.mark.parametrize("model", ["bicubic", "auto"])
def test_a_missing_pixel_size_has_the_same_code(
    call: Call, tiff: bytes, facts: dict[str, Any], write_png: Callable[..., Path], tmp_path: Path, model: str
) -> None:
    facts["mpp"] = None
    slide_id = call("PUT", "/v1/slides/b.tif", content=tiff).json()["id"]
    answer = call("POST", "/v1/jobs", json={"slide": slide_id, "model": model})
    assert answer.json()["code"] == "slide.mpp-missing"
    assert code_of_pipeline(write_png(300, 300), tmp_path / "o.ome.tiff", {"model": model}) == "slide.mpp-missing"
