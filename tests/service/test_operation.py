"""Operation of the service: metrics, logs, the docs page, a proxy's prefix, retention."""

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from slidelift.service.errors import problem
from slidelift.service.jobs.job import JobState, Outcome, Result
from slidelift.service.jobs.store import WorkerStatus
from slidelift.service.logs import JsonFormatter, logged_job
from slidelift.service.settings import Settings
from slidelift.service.storage.retention import delete_expired
from slidelift.service.storage.retention_clock import RetentionClock

Call = Callable[..., httpx.Response]


def samples(call: Call) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = call("GET", "/metrics").text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_include_queue_speed_bytes_and_failures(app: FastAPI, call: Call, slide_id: str, tiff: bytes) -> None:
    store = app.state.context.store
    call("POST", "/v1/jobs", json={"slide": slide_id})
    failed = call("POST", "/v1/jobs", json={"slide": slide_id}).json()["id"]
    first = store.claim("w")
    store.settle(first.id, 1, Outcome(JobState.FAILED, problem("slide.unreadable", "no")))
    store.record_worker(WorkerStatus("w", 0, "cuda:0", 0.9, 12.5))
    found = samples(call)
    assert found["slidelift_jobs", (("state", "queued"),)] == 1
    assert found["slidelift_jobs", (("state", "failed"),)] == 1
    assert found["slidelift_jobs", (("state", "running"),)] == 0
    assert found["slidelift_job_failures_total", (("code", "slide.unreadable"),)] == 1
    assert found["slidelift_worker_tiles_per_second", (("worker", "w"),)] == 12.5
    assert found["slidelift_worker_device_busy_ratio", (("device", "cuda:0"), ("worker", "w"))] == 0.9
    assert found["slidelift_slides_bytes", ()] == len(tiff)
    assert found["slidelift_uploaded_bytes_total", ()] == len(tiff)
    assert found["slidelift_disk_free_bytes", ()] > 0
    labels = (("method", "POST"), ("route", "/v1/jobs"), ("status", "202"))
    assert found["slidelift_requests_total", labels] == 2
    assert failed not in str(found), "an id in a label would create a series per job"


def test_unknown_http_method_appears_in_no_metric_and_no_log(call: Call, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for number in range(20):
            assert call(f"SECRET{number}", "/v1/jobs").status_code == 405
    assert "SECRET" not in call("GET", "/metrics").text
    assert "SECRET" not in "".join(record.getMessage() for record in caplog.records if record.name != "httpx")


def test_number_of_reported_validation_errors_is_limited(call: Call) -> None:
    answer = call("POST", "/v1/jobs", json={f"k{number}": 1 for number in range(100_000)})
    assert (answer.status_code, answer.json()["code"], len(answer.json()["errors"])) == (422, "request.invalid", 20)


def test_bytes_of_all_upload_methods_are_counted(call: Call, tiff: bytes) -> None:
    call("PUT", "/v1/slides/a.svs", content=tiff)
    call("POST", "/v1/slides", files={"file": ("b.svs", tiff)})
    piece = {"Upload-Length": str(len(tiff)), "Content-Type": "application/offset+octet-stream"}
    headers = {"Tus-Resumable": "1.0.0", "Upload-Metadata": "filename Yy5zdnM=", **piece}
    assert call("POST", "/v1/uploads", headers=headers, content=tiff).status_code == 201
    assert samples(call)["slidelift_uploaded_bytes_total", ()] == 3 * len(tiff)


def test_requests_are_logged_with_ids_and_never_with_names(
    call: Call, tiff: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        answer = call("PUT", "/v1/slides/Patient Müller.svs", content=tiff)
        call("GET", f"/v1/slides/{answer.json()['id']}")
        call("GET", "/Patient Müller")
    logged = [record for record in caplog.records if record.name == "slidelift.service.api.request_log"]
    assert [record.status for record in logged] == [201, 200, 404]  # type: ignore[attr-defined]
    assert answer.headers["x-request-id"] in logged[0].getMessage()
    assert answer.json()["id"] in logged[1].getMessage()
    everything = "".join(JsonFormatter().format(record) for record in caplog.records if record.name != "httpx")
    assert "Patient" not in everything
    assert "ller" not in everything


def test_json_log_line_contains_the_job_and_the_traceback() -> None:
    try:
        raise ValueError("no")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "it %s", ("broke",), (ValueError, error, None))
    with logged_job("j1"):
        line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["level"], line["job"]) == ("it broke", "ERROR", "j1")
    assert "ValueError: no" in line["exception"]
    assert "job" not in json.loads(JsonFormatter().format(record))


def test_docs_page_loads_nothing_from_other_hosts(call: Call) -> None:
    page = call("GET", "/docs")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.status_code == 200
    used = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(used) == 4
    for address in used:
        if address != "data:,":
            assert address.startswith("/docs/assets/")
            assert call("GET", address).status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]


def test_every_url_has_the_prefix_of_the_proxy(open_app: Callable[..., FastAPI], client: Any, tiff: bytes) -> None:
    call = client(open_app(root_path="/apps/slidelift/"))
    prefix = "/apps/slidelift"
    for shown in ("", prefix):  # whether or not the proxy removes it
        answer = call("PUT", f"{shown}/v1/slides/a.svs", content=tiff)
        assert answer.headers["location"].startswith(f"{prefix}/v1/slides/")
        job = call("POST", f"{shown}/v1/jobs", json={"slide": answer.json()["id"]})
        assert job.headers["location"] == f"{prefix}/v1/jobs/{job.json()['id']}"
        assert job.json()["events"] == f"{job.headers['location']}/events"
        assert call("GET", f"{shown}/v1/jobs?limit=1").json()["jobs"][0]["id"] == job.json()["id"]
    assert call("GET", "/v1/jobs?limit=1").json()["next"].startswith(f"{prefix}/v1/jobs?")
    assert call("GET", "/openapi.json").json()["servers"] == [{"url": prefix}]
    assert f'src="{prefix}/docs/assets/start.js"' in call("GET", "/docs").text


def test_cors_allows_only_configured_origins(open_app: Callable[..., FastAPI], client: Any) -> None:
    preflight = {"Origin": "https://viewer.example", "Access-Control-Request-Method": "GET"}
    closed = client(open_app())("OPTIONS", "/v1/jobs", headers=preflight)
    assert "access-control-allow-origin" not in closed.headers
    opened = client(open_app(cors_origins=("https://viewer.example",), auth="on"))
    answer = opened("OPTIONS", "/v1/jobs", headers=preflight)
    assert answer.headers["access-control-allow-origin"] == "https://viewer.example"
    other = opened("OPTIONS", "/v1/jobs", headers=preflight | {"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


def test_large_json_is_refused(call: Call) -> None:
    answer = call("POST", "/v1/jobs", content=b" " * (3 * 2**20), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "request.too-large")


def test_unavailable_database_is_503(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from slidelift.service.jobs.store import StoreUnavailableError

    def gone(*_: Any, **__: Any) -> None:
        raise StoreUnavailableError("the database does not answer")

    monkeypatch.setattr("slidelift.service.jobs.sql_store.SqlStore.jobs", gone)
    answer = call("GET", "/v1/jobs")
    assert (answer.status_code, answer.json()["code"]) == (503, "store.unavailable")
    assert int(answer.headers["retry-after"]) > 0


def test_sweep_deletes_only_what_has_expired(
    app: FastAPI, call: Call, settings: Settings, slide_id: str, tiff: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, passed = app.state.context, 0.0
    store, folder = context.store, settings.data_dir / "jobs"
    idle = call("PUT", "/v1/slides/idle.svs", content=tiff).json()["id"]
    done, failed, waiting = (call("POST", "/v1/jobs", json={"slide": slide_id}).json()["id"] for _ in range(3))
    for job_id, outcome in (
        (done, Outcome(JobState.SUCCEEDED, result=Result("result.ome.tiff", 1, "ab"))),
        (failed, Outcome(JobState.FAILED, problem("storage.full", "no"))),
    ):
        store.claim("w")
        attempt = folder / job_id / "attempt-1"
        (attempt / ".slidelift-0").mkdir(parents=True)
        (attempt / ("result.ome.tiff" if job_id == done else "scrap")).write_bytes(b"x")
        if job_id == done:
            (attempt / "report.json").write_text("{}")
        store.settle(job_id, 1, outcome)

    def files() -> set[str]:
        return {f"{path.parent.parent.name}/{path.name}" for path in folder.glob("*/*/*")}

    clock = RetentionClock(store, lambda: passed)
    delete_expired(settings, store, context.storage, clock)
    assert files() == {f"{done}/result.ome.tiff", f"{done}/report.json", f"{failed}/.slidelift-0"}
    short = settings.model_copy(
        update={"keep_results_seconds": 100.0, "keep_slides_seconds": 100.0, "keep_stripes_seconds": 200.0}
    )
    monkeypatch.setattr(store._database, "now", lambda: time.time() + passed)
    passed = 150
    delete_expired(short, store, context.storage, clock)
    assert files() == {f"{done}/report.json", f"{failed}/.slidelift-0"}
    assert call("GET", f"/v1/jobs/{done}/result").json()["code"] == "result.deleted"
    assert call("GET", f"/v1/jobs/{done}/report").status_code == 200
    assert call("GET", f"/v1/slides/{idle}").status_code == 404
    assert call("GET", f"/v1/slides/{slide_id}").status_code == 200, "the slide of an unfinished job must be kept"
    passed = 250
    delete_expired(short, store, context.storage, clock)
    assert files() == {f"{done}/report.json"}
    assert call("GET", f"/v1/jobs/{waiting}").json()["state"] == "queued"


def test_job_that_is_retried_during_the_sweep_does_not_stop_it(
    app: FastAPI, call: Call, settings: Settings, slide_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, passed = app.state.context, 0.0
    store = context.store
    retried, other = (call("POST", "/v1/jobs", json={"slide": slide_id}).json()["id"] for _ in range(2))
    for job_id in (retried, other):
        store.claim("w")
        (settings.data_dir / "jobs" / job_id / "attempt-1" / ".slidelift-0").mkdir(parents=True)
        store.settle(job_id, 1, Outcome(JobState.FAILED, problem("storage.full", "no")))
    find = store.ended

    def ended(*arguments: Any) -> Any:
        found = find(*arguments)
        if any(job.id == retried for job in found):
            store.retry(retried)
        return found

    monkeypatch.setattr(store, "ended", ended)
    clock = RetentionClock(store, lambda: passed)
    passed = 1000
    monkeypatch.setattr(store._database, "now", lambda: time.time() + passed)
    delete_expired(settings.model_copy(update={"keep_stripes_seconds": 100.0}), store, context.storage, clock)
    assert [path.parent.parent.name for path in (settings.data_dir / "jobs").glob("*/*/.slidelift-0")] == [retried]
    assert store.job(retried).state is JobState.QUEUED


def test_clock_that_jumps_ahead_does_not_expire_anything(
    app: FastAPI, call: Call, settings: Settings, slide_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = app.state.context
    store, passed, ahead = context.store, 0.0, 0.0
    monkeypatch.setattr(store._database, "now", lambda: time.time() + passed + ahead)
    clock = RetentionClock(store, lambda: passed)
    kept = settings.model_copy(update={"keep_slides_seconds": 3600.0})
    ahead, passed = 86400.0, 300.0
    delete_expired(kept, store, context.storage, clock)
    assert store.slide(slide_id) is not None
    restarted = RetentionClock(store, lambda: passed)
    delete_expired(kept, store, context.storage, restarted)
    assert store.slide(slide_id) is not None, "the limit must also apply after a restart"
    ahead, passed = 0.0, 3900.0
    delete_expired(kept, store, context.storage, restarted)
    assert store.slide(slide_id) is None, "its hour is over, by any clock"


def test_vendored_scripts_are_listed_in_the_notice() -> None:
    root = Path(__file__).resolve().parents[2]
    named = dict(re.findall(r"sha256 ([0-9a-f]{64})  (\S+)", (root / "NOTICE").read_text("utf-8")))
    found = {
        path.name: path for path in (root / "service" / "web" / "vendor").rglob("*") if path.suffix in (".js", ".css")
    }
    assert set(named.values()) == set(found)
    for digest, name in named.items():
        assert hashlib.sha256(found[name].read_bytes()).hexdigest() == digest, name


def test_doctor_reports_whether_the_service_is_safe_on_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres: str
) -> None:
    from slidelift.service.commands.diagnostics import _service

    def found() -> dict[str, tuple[bool, str]]:
        return {one.subject: (one.ok, one.detail) for one in _service()}

    monkeypatch.setenv("SLIDELIFT_DATA_DIR", str(tmp_path / "data"))
    assert list(found()) == ["data folder"]
    assert not (tmp_path / "data").exists()
    (tmp_path / "data").mkdir()
    assert all(ok for ok, _ in found().values())
    monkeypatch.setenv("SLIDELIFT_HOST", "0.0.0.0")
    assert not found()["address"][0]
    monkeypatch.setenv("SLIDELIFT_DATABASE_URL", postgres)
    assert found()["database"][0]
    monkeypatch.setenv("SLIDELIFT_DATABASE_URL", "mysql://x")
    ok, word = found()["database"]
    assert not ok
    assert "postgresql://" in word
