"""The REST API as a whole: health, errors, HEAD, the OpenAPI document, imports."""

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI

from slidelift.service.api import readiness
from slidelift.service.errors import CODES
from slidelift.service.jobs.store import WorkerStatus
from slidelift.service.settings import Settings

Call = Callable[..., httpx.Response]


def is_problem(answer: httpx.Response, status: int, code: str) -> bool:
    body = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return True


def test_liveness(call: Call) -> None:
    assert call("GET", "/health/live").json() == {"status": "live"}


def test_service_is_ready_only_with_a_running_worker(
    app: FastAPI, call: Call, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = call("GET", "/health/ready")
    assert is_problem(answer, 503, "service.not-ready")
    assert {name: check["ok"] for name, check in answer.json()["checks"].items()} == {
        "database": True,
        "disk": True,
        "worker": False,
    }
    assert "slidelift worker" in answer.json()["detail"]
    app.state.context.store.record_worker(WorkerStatus("w", 0, "cpu"))
    assert call("GET", "/health/ready").json()["status"] == "ready"
    assert "1 alive, on cpu" in call("GET", "/health/ready").json()["checks"]["worker"]["detail"]
    late = time.time() + settings.lease_seconds + 1
    monkeypatch.setattr("slidelift.service.jobs.sql_store.SqlStore.now", lambda _: late)
    assert is_problem(call("GET", "/health/ready"), 503, "service.not-ready")


def test_health_responds_while_all_threads_wait_for_a_locked_database(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a locked database, or a locked uploads folder, each request blocks a thread of the pool for ten seconds."""
    unlocked, checks = threading.Event(), []

    def locked(_: Any) -> None:
        checks.append(1)
        assert unlocked.wait(60)

    monkeypatch.setattr("slidelift.service.jobs.sql_store.SqlStore.check", locked)
    monkeypatch.setattr(readiness, "ANSWER_SECONDS", 0.2)

    async def test() -> None:
        pool = anyio.to_thread.current_default_thread_limiter()
        waiting = [object() for _ in range(int(pool.available_tokens))]
        for one in waiting:
            pool.acquire_on_behalf_of_nowait(one)
        transport = httpx.ASGITransport(app)
        async with (
            asyncio.timeout(20),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            assert (await client.get("/health/live")).status_code == 200
            answers = await asyncio.gather(*(client.get("/health/ready") for _ in range(5)))
            assert all(is_problem(answer, 503, "service.not-ready") for answer in answers)
            assert "database: no answer within 0.2 s" in answers[0].json()["detail"]
            assert answers[0].json()["checks"]["disk"]["ok"]
            assert len(checks) == 1
            unlocked.set()
            while "database" in (answer := await client.get("/health/ready")).json()["detail"]:
                pass
            assert "worker: no worker has ever run" in answer.json()["detail"]
        for one in waiting:
            pool.release_on_behalf_of(one)

    asyncio.run(test())


def test_readiness_names_a_full_disk_and_a_broken_database(
    app: FastAPI, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise OSError("/secret/path is read-only")

    app.state.context.store.record_worker(WorkerStatus("w", 0, "cpu"))
    monkeypatch.setattr("slidelift.service.storage.files.Storage.has_reserve", lambda _: False)
    monkeypatch.setattr("slidelift.service.jobs.sql_store.SqlStore.check", broken)
    answer = call("GET", "/health/ready")
    assert is_problem(answer, 503, "service.not-ready")
    assert "database:" in answer.json()["detail"]
    assert "disk:" in answer.json()["detail"]
    assert "secret" not in answer.text


def test_unknown_address_and_method_are_problems(call: Call) -> None:
    assert is_problem(call("GET", "/nope"), 404, "route.unknown")
    answer = call("PATCH", "/v1/jobs")
    assert is_problem(answer, 405, "method.not-allowed")
    assert "GET" in answer.headers["allow"] or "POST" in answer.headers["allow"]


def test_unexpected_error_is_logged_and_discloses_nothing(
    call: Call, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret words")

    monkeypatch.setattr("slidelift.service.jobs.sql_store.SqlStore.slides", broken)
    with caplog.at_level(logging.ERROR):
        answer = call("GET", "/v1/slides")
    assert is_problem(answer, 500, "internal")
    assert "secret" not in answer.text
    assert "secret words" in caplog.text


def test_log_of_a_failed_upload_does_not_contain_the_slides_name(
    call: Call, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("slidelift.service.uploads.upload_service.UploadService.begin", broken)
    assert call("PUT", "/v1/slides/Patient.svs", content=b"x").status_code == 500
    assert caplog.records
    assert "Patient" not in caplog.text


def test_full_store_is_507(call: Call, slide_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from slidelift.service.jobs.store import StoreFullError

    def full(*_: Any, **__: Any) -> None:
        raise StoreFullError("the disk is full")

    monkeypatch.setattr("slidelift.service.jobs.sql_store.SqlStore.add_jobs", full)
    assert is_problem(call("POST", "/v1/jobs", json={"slide": slide_id}), 507, "storage.full")


def test_head_works_wherever_get_does(call: Call, slide_id: str) -> None:
    job = call("POST", "/v1/jobs", json={"slide": slide_id}).json()["id"]
    for address in (
        "/v1/slides",
        f"/v1/slides/{slide_id}",
        "/v1/jobs",
        f"/v1/jobs/{job}",
        "/v1/models",
        "/health/live",
    ):
        get, head = call("GET", address), call("HEAD", address)
        assert (head.status_code, head.headers["content-length"]) == (200, get.headers["content-length"])


VERBS = ["append", "cancel", "create", "delete", "get", "list", "pause", "resume", "retry", "sign", "stream", "upload"]


def test_every_operation_is_named_after_a_verb_and_documents_its_errors(call: Call) -> None:
    document = call("GET", "/openapi.json").json()
    operations = [one for path in document["paths"].values() for one in path.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    for one in operations:
        assert one["operationId"].partition("_")[0] in VERBS
        assert one["summary"]
        assert one["tags"]
        assert "422" not in one["responses"], "FastAPI's own error format is never sent"
        for status in ("4XX", "5XX"):
            problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
            assert one["responses"][status]["content"] == {"application/problem+json": problem}
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_schemas_have_plain_names(call: Call) -> None:
    names = set(call("GET", "/openapi.json").json()["components"]["schemas"])
    assert {"Batch", "Job", "JobRequest", "Problem", "Slide", "SlideSource", "Upload"} <= names
    assert [name for name in names if name.endswith(("In", "Out", "-Input", "-Output"))] == []


def test_each_code_has_a_status_of_its_kind() -> None:
    for code, entry in CODES.items():
        assert 400 <= entry.status < 600, code
        assert entry.title[0].isupper(), code


def test_api_and_worker_import_neither_torch_nor_a_decoder() -> None:
    script = (
        "import sys, slidelift.service.app, slidelift.service.worker;"
        "heavy = 'torch openslide tifffile tiffslide imagecodecs PIL zarr dask numcodecs skimage scipy'.split();"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_settings_are_read_from_the_environment_and_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIDELIFT_PORT", "8123")
    monkeypatch.setenv("SLIDELIFT_DATA_DIR", "elsewhere")
    settings = Settings()
    assert (settings.port, settings.data_dir.is_absolute(), settings.host) == (8123, True, "127.0.0.1")
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1
