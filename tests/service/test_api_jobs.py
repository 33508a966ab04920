"""Routes of jobs: create, poll, cancel, download."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import FileResponse

from slidelift.models.zoo.catalog import catalog
from slidelift.service.errors import problem
from slidelift.service.jobs.job import JobState, Outcome, Result, UnloadedRoi
from slidelift.service.pipeline.progress import Progress, Stage
from slidelift.service.settings import Settings

Call = Callable[..., httpx.Response]
PIXELS = bytes(range(256)) * 10


def is_problem(answer: httpx.Response, status: int, code: str) -> bool:
    body = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return True


@pytest.fixture
def ask(call: Call, slide_id: str) -> Call:
    """Create a job for the uploaded slide."""
    return lambda **wanted: call("POST", "/v1/jobs", json={"slide": slide_id, **wanted})


@pytest.fixture
def finished(app: FastAPI, ask: Call, settings: Settings) -> str:
    """The id of a job whose result is ready."""
    job_id = str(ask().json()["id"])
    store, folder = app.state.context.store, settings.data_dir / "jobs" / job_id / "attempt-1"
    claimed = store.claim("w")
    folder.mkdir(parents=True)
    (folder / "result.ome.tiff").write_bytes(PIXELS)
    (folder / "report.json").write_text('{"tiles": 4}')
    (folder / "result.report.html").write_text("<!DOCTYPE html>")
    (folder / "result.tissue.geojson").write_text("{}")
    result = Result("result.ome.tiff", len(PIXELS), "5ha", "The model enhanced 14 of 62 tissue tiles.", True)
    done = Outcome(JobState.SUCCEEDED, result=result, warnings=("pale",))
    store.settle(job_id, claimed.attempt, done)
    return job_id


def test_job_is_queued_with_the_requested_options(ask: Call, call: Call, slide_id: str) -> None:
    wanted = {"model": "bicubic", "mpp": 0.5, "target_mpp": 0.25, "level": 0, "region": [1, 2, 30, 40]}
    wanted |= {"format": "ome-zarr", "on_bad_tile": "mark", "entropy": 4.5, "quality": 80}
    answer = ask(**wanted)
    body = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{body['id']}"
    assert int(answer.headers["retry-after"]) >= 1
    assert {key: body[key] for key in wanted} == wanted
    assert (body["slide"], body["state"], body["stage"], body["result"]) == (slide_id, "queued", None, None)
    assert body["progress"] == dict.fromkeys(("tiles_per_second", "eta_seconds", "device_busy")) | dict.fromkeys(
        ("tiles_done", "tiles_total", "resumed_tiles"), 0
    )
    assert call("GET", answer.headers["location"]).json() == body


def test_job_without_a_model_uses_the_recommended_one_with_the_reason(ask: Call, call: Call, slide_id: str) -> None:
    job, advice = ask().json(), call("GET", f"/v1/slides/{slide_id}/recommendation").json()
    assert (job["model"], job["level"]) == (advice["model"], advice["level"]) == ("compact-x2", 0)
    assert job["chosen_because"] == advice["reason"]
    assert "0.249 µm per pixel" in advice["reason"]
    assert ask(model="compact-x2").json()["chosen_because"] is None


def test_recommendation_depends_on_effort_and_resolution(
    call: Call, ask: Call, tiff: bytes, facts: dict[str, Any]
) -> None:
    facts["mpp"] = [1.0, 1.0]
    slide = call("PUT", "/v1/slides/b.tif", content=tiff).json()["id"]
    chosen = {effort: ask(slide=slide, effort=effort).json()["model"] for effort in ("fast", "balanced", "best")}
    assert chosen == {"fast": "compact-x4-fast", "balanced": "compact-x4", "best": "realesrgan-x4"}
    assert ask(slide=slide, target_mpp=0.5).json()["model"] == "compact-x2"
    recommended = call("GET", f"/v1/slides/{slide}/recommendation?target_mpp=0.5&effort=best").json()
    assert (recommended["model"], recommended["scale"], recommended["mpp"]) == ("compact-x2", 2, 0.5)


@pytest.mark.parametrize(
    ("changed", "says"),
    [({"mpp": [0.25, 0.25]}, "little to gain"), ({"is_dark": True}, "fluorescence")],
)
def test_slide_that_no_model_would_improve_is_refused_with_the_reason(
    call: Call, ask: Call, tiff: bytes, facts: dict[str, Any], changed: dict[str, Any], says: str
) -> None:
    facts |= changed
    slide = call("PUT", "/v1/slides/b.tif", content=tiff).json()["id"]
    advice = call("GET", f"/v1/slides/{slide}/recommendation").json()
    assert advice["model"] is None
    assert says in advice["reason"]
    answer = ask(slide=slide)
    assert is_problem(answer, 422, "request.little-to-gain")
    assert says in answer.json()["detail"]
    assert ask(slide=slide, model="compact-x4").status_code == 202


def test_slide_includes_its_compression(call: Call, tiff: bytes, facts: dict[str, Any]) -> None:
    facts["compression"] = {"codec": "jpeg", "quality": 30, "sampling": "RGB"}
    slide = call("PUT", "/v1/slides/b.tif", content=tiff).json()
    assert slide["compression"] == facts["compression"]
    assert call("GET", f"/v1/slides/{slide['id']}").json() == slide


def test_recommendation_needs_a_pixel_size_and_an_existing_level(
    call: Call, tiff: bytes, facts: dict[str, Any], slide_id: str
) -> None:
    assert is_problem(call("GET", f"/v1/slides/{slide_id}/recommendation?level=9"), 422, "request.level")
    assert is_problem(call("GET", "/v1/slides/nope/recommendation"), 404, "slide.unknown")
    facts["mpp"] = None
    slide = call("PUT", "/v1/slides/b.tif", content=tiff).json()["id"]
    assert is_problem(call("GET", f"/v1/slides/{slide}/recommendation"), 422, "slide.mpp-missing")
    assert call("GET", f"/v1/slides/{slide}/recommendation?mpp=1.0").json()["model"] == "compact-x4"


def test_unknown_slide_is_refused(call: Call) -> None:
    assert is_problem(call("POST", "/v1/jobs", json={"slide": "nope"}), 404, "slide.unknown")


@pytest.mark.parametrize("model", ["nope", "/etc/passwd", "models/zoo/weights/compact-x4.safetensors", "../x.pth", ""])
def test_only_available_models_are_accepted(ask: Call, model: str) -> None:
    answer = ask(model=model)
    assert is_problem(answer, 422, "model.unknown")
    assert "bicubic" in answer.json()["detail"]


def test_network_without_weights_is_not_available(ask: Call, call: Call) -> None:
    offer = {model["name"] for model in call("GET", "/v1/models").json()["models"]}
    bare = {name for name, card in catalog().items() if card.kind == "network" and card.weights is None}
    assert offer == set(catalog()) - bare
    for name in bare:
        assert is_problem(ask(model=name), 422, "model.unknown")


def test_missing_pixel_size_is_refused(call: Call, ask: Call, tiff: bytes, facts: dict[str, Any]) -> None:
    facts["mpp"] = None
    slide = call("PUT", "/v1/slides/b.tif", content=tiff).json()["id"]
    answer = ask(slide=slide)
    assert is_problem(answer, 422, "slide.mpp-missing")
    assert "pass it as mpp" in answer.json()["detail"]
    assert ask(slide=slide, mpp=0.5).status_code == 202


@pytest.mark.parametrize("mpp", [[0.01, 0.01], [249.0, 249.0], [0.5, 100.0]])
def test_implausible_pixel_size_must_be_confirmed(
    call: Call, ask: Call, tiff: bytes, facts: dict[str, Any], mpp: list[float]
) -> None:
    facts["mpp"] = mpp
    slide = call("PUT", "/v1/slides/b.tif", content=tiff).json()["id"]
    assert is_problem(ask(slide=slide), 422, "slide.mpp-implausible")
    assert ask(slide=slide, mpp=0.5).status_code == 202


def test_resolution_that_no_level_can_reach_is_refused(ask: Call) -> None:
    answer = ask(model="compact-x4", target_mpp=0.3)
    assert is_problem(answer, 422, "request.plan")
    assert "0.1247" in answer.json()["detail"]
    answer = ask(target_mpp=0.3)
    assert is_problem(answer, 422, "request.little-to-gain")
    assert "within reach: 0.125, 0.249" in answer.json()["detail"]


@pytest.mark.parametrize("region", [[2219, 0, 2, 1], [0, 2966, 1, 2], [5000, 0, 1, 1], [0, 0, 0, 1], [0, 0, 1, 0]])
def test_region_outside_the_slide_is_refused(ask: Call, region: list[int]) -> None:
    assert is_problem(ask(region=region), 422, "request.region")


def test_missing_level_is_refused(ask: Call) -> None:
    assert is_problem(ask(level=1), 422, "request.level")


@pytest.mark.parametrize(
    ("place", "wanted"),
    [
        ("body.regoin", {"regoin": [0, 0, 1, 1]}),
        ("body.region", {"region": [0, 0, 1]}),
        ("body.region.2", {"region": [0, 0, "1", 1]}),
        ("body.quality", {"quality": 80.5}),
        ("body.region.0", {"region": [-1, 0, 1, 1]}),
        ("body.mpp", {"mpp": 0}),
        ("body.mpp", {"mpp": "wide"}),
        ("body.target_mpp", {"target_mpp": -1}),
        ("body.level", {"level": True}),
        ("body.format", {"format": "jpeg"}),
        ("body.on_bad_tile", {"on_bad_tile": "ignore"}),
        ("body.entropy", {"entropy": 9}),
        ("body.quality", {"quality": 101}),
        ("body.slide", {"slide": 7}),
    ],
)
def test_invalid_request_names_the_member(ask: Call, place: str, wanted: dict[str, Any]) -> None:
    answer = ask(**wanted)
    assert is_problem(answer, 422, "request.invalid")
    assert place in [".".join(map(str, error["loc"])) for error in answer.json()["errors"]]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b'{"slide": NaN}', b'{"slide":"s","mpp":NaN}'])
def test_invalid_body_is_a_problem(call: Call, body: bytes) -> None:
    answer = call("POST", "/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


def test_running_job_has_progress_and_retry_after(app: FastAPI, ask: Call, call: Call) -> None:
    job_id = ask().json()["id"]
    store = app.state.context.store
    store.claim("w")
    store.advance(job_id, 1, Progress(Stage.UPSCALING, 30, 90, 2.0, 120.0, 10, 0.5))
    answer = call("GET", f"/v1/jobs/{job_id}")
    body = answer.json()
    assert (body["state"], body["stage"], body["attempt"]) == ("running", "upscaling", 1)
    assert body["progress"] == {
        "tiles_done": 30,
        "tiles_total": 90,
        "tiles_per_second": 2.0,
        "eta_seconds": 120.0,
        "resumed_tiles": 10,
        "device_busy": 0.5,
    }
    assert answer.headers["retry-after"] == "12"


def test_unchanged_job_is_304(app: FastAPI, ask: Call, call: Call) -> None:
    address = ask().headers["location"]
    etag = call("GET", address).headers["etag"]
    again = call("GET", address, headers={"If-None-Match": f'"x", {etag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert "retry-after" in again.headers
    app.state.context.store.claim("w")
    assert call("GET", address, headers={"If-None-Match": etag}).status_code == 200


def test_queued_job_is_cancelled_immediately(ask: Call, call: Call) -> None:
    address = ask().headers["location"]
    answer = call("DELETE", address)
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert is_problem(call("DELETE", address), 409, "job.state")


def test_worker_of_a_running_job_receives_the_cancellation(app: FastAPI, ask: Call, call: Call) -> None:
    address = ask().headers["location"]
    app.state.context.store.claim("w")
    answer = call("DELETE", address)
    assert (answer.status_code, answer.json()["state"], answer.json()["cancel_requested"]) == (202, "running", True)


def test_failed_job_contains_its_problem(app: FastAPI, ask: Call, call: Call) -> None:
    job_id = ask().json()["id"]
    store = app.state.context.store
    store.claim("w")
    store.settle(job_id, 1, Outcome(JobState.FAILED, problem("slide.unreadable", "strip 3 is damaged")))
    answer = call("GET", f"/v1/jobs/{job_id}")
    error = answer.json()["error"]
    assert (error["code"], error["status"], error["detail"]) == ("slide.unreadable", 422, "strip 3 is damaged")
    assert error["instance"] == f"/v1/jobs/{job_id}"
    assert "retry-after" not in answer.headers
    for thing in ("result", "report"):
        assert is_problem(call("GET", f"/v1/jobs/{job_id}/{thing}"), 409, "job.no-result")


def test_unfinished_job_has_no_result_yet(ask: Call, call: Call) -> None:
    address = ask().headers["location"]
    for method in ("GET", "HEAD", "DELETE"):
        assert call(method, f"{address}/result").status_code == 409
    assert is_problem(call("GET", f"{address}/result"), 409, "job.not-finished")
    assert is_problem(call("GET", f"{address}/report"), 409, "job.not-finished")


def test_result_is_downloaded_completely_or_in_ranges(call: Call, finished: str) -> None:
    job = call("GET", f"/v1/jobs/{finished}").json()
    assert job["result"] == {
        "href": f"/v1/jobs/{finished}/result",
        "format": "ome-tiff",
        "bytes": len(PIXELS),
        "sha256": "5ha",
        "media_type": "image/tiff",
        "summary": "The model enhanced 14 of 62 tissue tiles.",
        "few_enhanced": True,
    }
    whole = call("GET", job["result"]["href"])
    assert whole.content == PIXELS
    assert whole.headers["content-type"] == "image/tiff"
    assert whole.headers["etag"] == '"5ha"'
    assert whole.headers["content-disposition"] == f'attachment; filename="{finished}.ome.tiff"'
    part = call("GET", job["result"]["href"], headers={"Range": "bytes=256-511", "If-Range": '"5ha"'})
    assert (part.status_code, part.content) == (206, PIXELS[256:512])
    assert part.headers["content-range"] == f"bytes 256-511/{len(PIXELS)}"
    stale = call("GET", job["result"]["href"], headers={"Range": "bytes=256-511", "If-Range": '"old"'})
    assert (stale.status_code, stale.content) == (200, PIXELS)
    known = call("GET", job["result"]["href"], headers={"If-None-Match": '"5ha"'})
    assert (known.status_code, known.content) == (304, b"")
    head = call("HEAD", job["result"]["href"])
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(PIXELS)), b"")


@pytest.mark.parametrize(("range_header", "status"), [("bytes=99999-", 416), ("pages=1-2", 400), ("bytes=9-1", 400)])
def test_invalid_range_is_a_problem(call: Call, finished: str, range_header: str, status: int) -> None:
    answer = call("GET", f"/v1/jobs/{finished}/result", headers={"Range": range_header})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    if status == 416:
        assert answer.headers["content-range"] == f"bytes */{len(PIXELS)}"
        assert answer.json()["code"] == "request.range"


def test_deleting_a_result_keeps_the_job_and_its_report(call: Call, finished: str, settings: Settings) -> None:
    folder: Path = settings.data_dir / "jobs" / finished / "attempt-1"
    for _ in range(2):
        assert call("DELETE", f"/v1/jobs/{finished}/result").status_code == 204
    assert is_problem(call("GET", f"/v1/jobs/{finished}/result"), 410, "result.deleted")
    job = call("GET", f"/v1/jobs/{finished}").json()
    assert (job["state"], job["result"], job["report"]) == ("succeeded", None, f"/v1/jobs/{finished}/report")
    assert call("GET", job["report"]).json() == {"tiles": 4}
    assert [path.name for path in folder.iterdir()] == ["report.json"]


def test_report_page_and_tissue_are_deleted_with_the_result(call: Call, finished: str) -> None:
    job = call("GET", f"/v1/jobs/{finished}").json()
    page, tissue = call("GET", job["report_html"]), call("GET", job["tissue"])
    assert (page.status_code, page.headers["content-type"].split(";")[0]) == (200, "text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert (tissue.json(), tissue.headers["content-type"]) == ({}, "application/geo+json")
    call("DELETE", f"/v1/jobs/{finished}/result")
    for address in (job["report_html"], job["tissue"]):
        assert is_problem(call("GET", address), 410, "result.deleted")
    job = call("GET", f"/v1/jobs/{finished}").json()
    assert (job["report_html"], job["tissue"]) == (None, None)


TRIANGLE = {"type": "Polygon", "coordinates": [[[10, 10], [900, 10], [10, 700], [10, 10]]]}


def test_region_of_interest_is_stored_unchanged(app: FastAPI, ask: Call, call: Call) -> None:
    feature = {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": TRIANGLE, "properties": {}}]}
    body = ask(roi=feature).json()
    assert (body["roi_points"], body["region"]) == (4, None)
    job = app.state.context.store.job(body["id"])
    assert (job.order.roi, job.order.roi_points) == (UnloadedRoi(), 4), "the polygons are stored in another column"
    assert job.reserved_bytes < app.state.context.store.job(ask().json()["id"]).reserved_bytes
    claimed = app.state.context.store.claim("w")
    assert claimed.order.roi.polygons == (((((10.0, 10.0), (900.0, 10.0), (10.0, 700.0), (10.0, 10.0))),),)


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"roi": {"type": "Point", "coordinates": [1, 1]}}, "request.roi"),
        ({"roi": {}}, "request.roi"),
        ({"roi": TRIANGLE, "region": [0, 0, 9, 9]}, "request.roi"),
        ({"roi": {"type": "Polygon", "coordinates": [[[9000, 0], [9900, 0], [9900, 9], [9000, 0]]]}}, "request.roi"),
        (
            {"roi": {"type": "Polygon", "coordinates": [[[n % 2000, n % 7] for n in range(20_001)] + [[0, 0]]]}},
            "request.roi",
        ),
    ],
)
def test_invalid_region_of_interest_is_refused(ask: Call, wanted: dict[str, Any], code: str) -> None:
    assert is_problem(ask(**wanted), 422, code)


def test_finished_job_remains_after_its_slide_is_deleted(call: Call, finished: str, slide_id: str) -> None:
    assert call("DELETE", f"/v1/slides/{slide_id}").status_code == 204
    assert call("GET", f"/v1/jobs/{finished}/result").content == PIXELS


def test_unknown_job_is_a_problem_in_every_route(call: Call) -> None:
    for method, rest in [("GET", ""), ("DELETE", ""), ("GET", "/result"), ("DELETE", "/result"), ("GET", "/report")]:
        assert is_problem(call(method, f"/v1/jobs/nope{rest}"), 404, "job.unknown")


def test_jobs_are_listed_in_pages_and_by_state(ask: Call, call: Call) -> None:
    ids = [ask().json()["id"] for _ in range(3)][::-1]
    call("DELETE", f"/v1/jobs/{ids[0]}")
    page = call("GET", "/v1/jobs?limit=2").json()
    assert [job["id"] for job in page["jobs"]] == ids[:2]
    assert [job["id"] for job in call("GET", page["next"]).json()["jobs"]] == ids[2:]
    assert [job["id"] for job in call("GET", "/v1/jobs?state=cancelled").json()["jobs"]] == ids[:1]
    assert is_problem(call("GET", "/v1/jobs?limit=0"), 422, "request.invalid")


def test_models_are_listed_with_their_properties(call: Call) -> None:
    body = call("GET", "/v1/models").json()
    assert body["default"] == "auto"
    assert {model["effort"] for model in body["models"]} == {"fast", "balanced", "best", None}
    bicubic = next(model for model in body["models"] if model["name"] == "bicubic")
    assert 4 in bicubic["scales"]
    assert "/" not in str(bicubic["scales"])


FILES = [
    ("result", PIXELS),
    ("report", b'{"tiles": 4}'),
    ("report.html", b"<!DOCTYPE html>"),
    ("tissue.geojson", b"{}"),
]


@pytest.mark.parametrize(("name", "_content"), FILES)
@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=1-3"}])
def test_file_deleted_before_the_response_starts_is_410(
    call: Call,
    finished: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    _content: bytes,
    headers: dict[str, str],
) -> None:
    make = FileResponse.__init__

    def deleting(self: FileResponse, *given: Any, **options: Any) -> None:
        make(self, *given, **options)
        shutil.rmtree(settings.data_dir / "jobs" / finished)

    for method in ("HEAD", "GET"):
        with monkeypatch.context() as patched:
            patched.setattr(FileResponse, "__init__", deleting)
            answer = call(method, f"/v1/jobs/{finished}/{name}", headers=headers)
        assert answer.status_code == 410
        (settings.data_dir / "jobs" / finished).mkdir(exist_ok=True)
    assert is_problem(answer, 410, "result.deleted")


@pytest.mark.parametrize(("name", "content"), FILES)
@pytest.mark.parametrize("part", [None, slice(1, 12)])
def test_file_deleted_after_the_response_started_is_sent_completely(
    app: FastAPI, finished: str, settings: Settings, name: str, content: bytes, part: slice | None
) -> None:
    part = part and slice(1, min(12, len(content)))
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            shutil.rmtree(settings.data_dir / "jobs" / finished)
        sent.append(message)

    path = f"/v1/jobs/{finished}/{name}"
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "root_path": ""}
    scope |= {"scheme": "http", "query_string": b"", "server": ("test", 80), "http_version": "1.1"}
    headers = [(b"range", f"bytes={part.start}-{part.stop - 1}".encode())] if part else []
    scope |= {"asgi": {"version": "3.0", "spec_version": "2.3"}, "headers": [(b"host", b"localhost"), *headers]}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == (206 if part else 200)
    assert b"".join(message.get("body", b"") for message in sent) == content[part or slice(None)]
    opened = [one.readlink() for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
    assert not [one for one in opened if finished in str(one)]
