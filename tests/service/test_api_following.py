"""Long polling, server-sent events, idempotency keys, batches."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from slidelift.service.errors import problem
from slidelift.service.jobs.job import JobState, Outcome
from slidelift.service.jobs.sql_store import SqlStore
from slidelift.service.pipeline.progress import Progress, Stage
from slidelift.service.settings import Settings

Call = Callable[..., httpx.Response]
FAILED = Outcome(JobState.FAILED, problem("slide.unreadable", "no"))


@pytest.fixture
def store(app: FastAPI) -> SqlStore:
    found: SqlStore = app.state.context.store
    return found


@pytest.fixture
def ask(call: Call, slide_id: str) -> Call:
    return lambda headers=None, **wanted: call(
        "POST", "/v1/jobs", json={"slide": slide_id, **wanted}, headers=headers or {}
    )


def later(seconds: float, act: Callable[[], Any]) -> threading.Timer:
    timer = threading.Timer(seconds, act)
    timer.start()
    return timer


def events(app: FastAPI, url: str, headers: dict[str, str] | None = None) -> list[tuple[int, dict[str, Any]]]:
    """Ids and data of the events of a stream, read to its end."""

    async def read() -> str:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=20) as client:
            answer = await client.get(url, headers=headers)
            assert answer.headers["content-type"].startswith("text/event-stream")
            return answer.text

    found = []
    for block in asyncio.run(read()).split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields.get("event") == "job":
            found.append((int(fields["id"]), json.loads(fields["data"])))
    return found


def test_prefer_wait_waits_for_the_end_of_the_job(store: SqlStore, ask: Call, call: Call) -> None:
    address = ask().headers["location"]
    job_id = address.rsplit("/", 1)[1]
    store.claim("w")
    timer = later(0.5, lambda: store.settle(job_id, 1, FAILED))
    started = time.monotonic()
    answer = call("GET", address, headers={"Prefer": "respond-async, wait=20"})
    assert answer.json()["state"] == "failed"
    assert time.monotonic() - started < 15
    timer.join()


def test_prefer_wait_respects_its_limit(ask: Call, call: Call) -> None:
    started = time.monotonic()
    assert call("GET", ask().headers["location"], headers={"Prefer": "wait=1"}).json()["state"] == "queued"
    assert 0.9 < time.monotonic() - started < 10


@pytest.mark.parametrize("prefer", ["wait=", "wait=-1", "wait=abc", "wait=9999999999", "xwait=30", '"', "wait=0"])
def test_invalid_preference_does_not_wait(ask: Call, call: Call, prefer: str) -> None:
    started = time.monotonic()
    assert call("GET", ask().headers["location"], headers={"Prefer": prefer}).status_code == 200
    assert time.monotonic() - started < 5


def test_prefer_wait_with_an_etag_waits_for_a_change(store: SqlStore, ask: Call, call: Call) -> None:
    address = ask().headers["location"]
    etag = call("GET", address).headers["etag"]
    timer = later(0.3, lambda: store.claim("w"))
    answer = call("GET", address, headers={"Prefer": "wait=20", "If-None-Match": etag})
    assert (answer.status_code, answer.json()["state"]) == (200, "running")
    timer.join()
    etag = answer.headers["etag"]
    assert call("GET", address, headers={"Prefer": "wait=1", "If-None-Match": etag}).status_code == 304


def test_create_job_can_wait_for_the_end(app: FastAPI, store: SqlStore, ask: Call) -> None:
    def finish() -> None:
        while (job := store.claim("w")) is None:
            time.sleep(0.02)
        store.settle(job.id, job.attempt, FAILED)

    worker = threading.Thread(target=finish)
    worker.start()
    answer = ask({"Prefer": "wait=20"})
    worker.join()
    assert (answer.status_code, answer.json()["state"]) == (200, "failed")


def test_event_stream_contains_each_change_until_the_end(app: FastAPI, store: SqlStore, ask: Call) -> None:
    job_id = ask().json()["id"]

    def work() -> None:
        store.claim("w")
        for tiles in (1, 2):
            time.sleep(0.4)
            store.advance(job_id, 1, Progress(Stage.UPSCALING, tiles, 2))
        time.sleep(0.4)
        store.settle(job_id, 1, FAILED)

    worker = later(0.3, work)
    seen = events(app, f"/v1/jobs/{job_id}/events")
    worker.join()
    assert [number for number, _ in seen] == sorted({number for number, _ in seen})
    assert seen[0][1]["state"] == "queued"
    assert {job["progress"]["tiles_done"] for _, job in seen} == {0, 1, 2}
    assert seen[-1][1]["state"] == "failed"


def test_event_stream_continues_after_last_event_id(app: FastAPI, store: SqlStore, ask: Call) -> None:
    job_id = ask().json()["id"]
    store.claim("w")
    store.settle(job_id, 1, FAILED)
    address = f"/v1/jobs/{job_id}/events"
    ((last, job),) = events(app, address)
    assert job["state"] == "failed"
    assert events(app, address, {"Last-Event-ID": str(last)}) == []
    assert len(events(app, address, {"Last-Event-ID": str(last - 1)})) == 1
    for odd in ("", "x", "-1", "99999999999999999999", "9" * 5000):
        assert len(events(app, address, {"Last-Event-ID": odd})) == 1


def test_shutdown_releases_waiting_requests(app: FastAPI, ask: Call, call: Call) -> None:
    address = ask().headers["location"]
    timer = later(0.5, app.state.context.job_changes.close)
    started = time.monotonic()
    assert call("GET", address, headers={"Prefer": "wait=30"}).json()["state"] == "queued"
    assert len(events(app, f"{address}/events")) == 1
    assert time.monotonic() - started < 10
    timer.join()


def test_same_request_with_the_same_key_is_one_job(ask: Call, call: Call) -> None:
    key = {"Idempotency-Key": "3f-7"}
    first, again = ask(key, model="bicubic"), ask(key, model="bicubic")
    assert first.json()["id"] == again.json()["id"]
    assert again.status_code == 202
    assert again.headers["location"] == first.headers["location"]
    other = ask(key, model="nearest")
    assert (other.status_code, other.json()["code"]) == (422, "request.idempotency-key")
    assert len(call("GET", "/v1/jobs").json()["jobs"]) == 1
    assert ask({"Idempotency-Key": "x" * 256}).status_code == 422
    call("DELETE", first.headers["location"])
    assert call("DELETE", f"/v1/slides/{first.json()['slide']}").status_code == 204
    late = ask(key, model="bicubic")
    assert (late.status_code, late.json()["id"], late.json()["state"]) == (200, first.json()["id"], "cancelled")


def test_batch_creates_and_cancels_one_job_per_slide(store: SqlStore, call: Call, slide_id: str, tiff: bytes) -> None:
    other = call("PUT", "/v1/slides/b.svs", content=tiff).json()["id"]
    wanted = {"slides": [slide_id, other], "model": "bicubic"}
    answer = call("POST", "/v1/batches", json=wanted, headers={"Idempotency-Key": "k"})
    body = answer.json()
    assert (answer.status_code, body["total"], body["states"], body["ended"]) == (202, 2, {"queued": 2}, False)
    assert call("POST", "/v1/batches", json=wanted, headers={"Idempotency-Key": "k"}).json() == body
    listed = call("GET", body["jobs"]).json()["jobs"]
    assert {job["slide"] for job in listed} == {slide_id, other}
    assert {job["batch"] for job in listed} == {body["id"]}
    job = store.claim("w")
    assert job is not None
    store.settle(job.id, 1, FAILED)
    cancelled = call("DELETE", answer.headers["location"]).json()
    assert (cancelled["states"], cancelled["ended"]) == ({"failed": 1, "cancelled": 1}, True)


def test_batch_with_an_unusable_slide_queues_nothing(call: Call, slide_id: str) -> None:
    answer = call("POST", "/v1/batches", json={"slides": [slide_id, "gone"]})
    assert (answer.status_code, answer.json()["code"]) == (404, "slide.unknown")
    assert "gone" in answer.json()["detail"]
    assert call("GET", "/v1/jobs").json()["jobs"] == []
    assert call("GET", "/v1/batches/none").status_code == 404


def test_jobs_are_paused_resumed_and_retried(store: SqlStore, ask: Call, call: Call) -> None:
    address = ask().headers["location"]
    paused = call("POST", f"{address}/pause")
    assert (paused.status_code, paused.json()["state"]) == (200, "paused")
    assert call("POST", f"{address}/pause").json()["code"] == "job.state"
    assert call("POST", f"{address}/retry").json()["code"] == "job.state"
    assert call("POST", f"{address}/resume").json()["state"] == "queued"
    job = store.claim("w")
    assert job is not None
    running = call("POST", f"{address}/pause")
    assert (running.status_code, running.json()["pause_requested"]) == (202, True)
    store.settle(job.id, 1, FAILED)
    again = call("POST", f"{address}/retry")
    assert (again.status_code, again.json()["state"], again.json()["error"]) == (202, "queued", None)


def test_jobs_are_listed_by_slide(ask: Call, call: Call, slide_id: str) -> None:
    ask()
    assert len(call("GET", f"/v1/jobs?slide={slide_id}").json()["jobs"]) == 1
    assert call("GET", "/v1/jobs?slide=other").json()["jobs"] == []


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace the free disk space by the first number of a list, which the test can change."""
    room = [10**10]
    monkeypatch.setattr("slidelift.service.storage.files.Storage.free_bytes", lambda _: room[0])
    return room


def test_job_that_does_not_fit_on_the_disk_is_refused(
    small_disk: list[int], store: SqlStore, ask: Call, call: Call
) -> None:
    first = ask()
    (job,) = store.jobs(9).entries
    assert job.reserved_bytes > 2220 * 2967 * 4 * 0.5
    small_disk[0] = round(job.reserved_bytes * 1.5)
    refused = ask()
    assert (refused.status_code, refused.json()["code"]) == (507, "storage.full")
    assert ask(region=[0, 0, 256, 256]).status_code == 202
    call("DELETE", first.headers["location"])
    assert ask().status_code == 202


def test_written_bytes_are_those_that_the_worker_reported(
    small_disk: list[int], store: SqlStore, ask: Call, call: Call, settings: Settings
) -> None:
    """Measuring a folder of 80,000 chunks inside the transaction would be slow and would race with deletions."""
    address = ask().headers["location"]
    job = store.claim("w")
    assert job is not None
    small_disk[0] = job.reserved_bytes
    folder = settings.data_dir / "jobs" / job.id / "attempt-1"
    folder.mkdir(parents=True)
    (folder / "stripe").write_bytes(bytes(job.reserved_bytes))
    assert ask().status_code == 507
    store.advance(job.id, 1, Progress(Stage.UPSCALING, 1, 2, bytes_written=job.reserved_bytes))
    assert ask().status_code == 202
    store.settle(job.id, 1, Outcome(JobState.FAILED, problem("storage.full", "no")))
    small_disk[0] = job.reserved_bytes - 1
    assert call("POST", f"{address}/retry").status_code == 507  # the bytes are reserved for the second job
    small_disk[0] = job.reserved_bytes
    assert call("POST", f"{address}/retry").status_code == 202
