"""Routes of slides: upload, get, delete."""

import asyncio
import base64
import errno
import hashlib
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from slidelift.service.app import create_app
from slidelift.service.errors import ServiceError
from slidelift.service.settings import Settings
from slidelift.service.uploads.names import stored_file_name
from slidelift.service.uploads.upload import UploadMethod

Call = Callable[..., httpx.Response]


def leftovers(settings: Settings) -> list[Path]:
    folders = [settings.data_dir / "slides", settings.data_dir / "uploads"]
    return [path for folder in folders for path in folder.iterdir() if path.name != ".lock"]


def is_problem(answer: httpx.Response, status: int, code: str) -> bool:
    body = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert body.keys() >= {"type", "title", "detail", "instance"}
    return True


def test_uploaded_slide_is_stored_hashed_and_described(call: Call, settings: Settings, tiff: bytes) -> None:
    answer = call("PUT", "/v1/slides/Patient%20M%C3%BCller.OME.tif", content=tiff)
    assert answer.status_code == 201
    slide = answer.json()
    assert answer.headers["location"] == f"/v1/slides/{slide['id']}"
    assert (slide["name"], slide["bytes"]) == ("Patient Müller.OME.tif", len(tiff))
    assert slide["sha256"] == hashlib.sha256(tiff).hexdigest()
    assert (slide["width"], slide["height"], slide["mpp"], slide["objective"]) == (2220, 2967, [0.499, 0.499], 20.0)
    stored = settings.data_dir / "slides" / slide["id"] / "slide.ome.tif"
    assert stored.read_bytes() == tiff
    assert call("GET", f"/v1/slides/{slide['id']}").json() == slide
    assert call("GET", "/v1/slides").json() == {"slides": [slide], "next": None}


def test_slides_name_is_not_in_any_path(call: Call, settings: Settings, slide_id: str) -> None:
    assert [path for path in settings.data_dir.rglob("*") if "Patient" in str(path)] == []


@pytest.mark.parametrize(
    "name", ["a%2Fb.svs", "..%2F..%2Fetc%2Fpasswd", "%2e%2e", "a%5Cb.svs", "a%00.svs", "a%07.svs", "x" * 256, "%20", ""]
)
def test_invalid_file_name_is_refused(call: Call, settings: Settings, tiff: bytes, name: str) -> None:
    assert is_problem(call("PUT", f"/v1/slides/{name}", content=tiff), 422, "upload.name")
    assert leftovers(settings) == []


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        *[("a.svs", "slide.svs"), ("A.SVS", "slide.svs"), ("a.ome.tiff", "slide.ome.tiff"), ("a.b.tif", "slide.tif")],
        *[
            ("a", "slide"),
            ("a.exe", "slide"),
            ("a.svs.sh", "slide"),
            ("svs", "slide"),
            ("x" * 251 + ".svs", "slide.svs"),
        ],
    ],
)
def test_only_a_known_suffix_reaches_the_disk(name: str, stored: str) -> None:
    assert stored_file_name(name) == stored


def test_format_of_several_files_is_refused_with_advice(call: Call) -> None:
    answer = call("PUT", "/v1/slides/a.mrxs", content=b"x")
    assert is_problem(answer, 422, "slide.multi-file")
    assert "slidelift upscale" in answer.json()["detail"]


def test_unreadable_slide_is_refused_by_its_name_and_removed(call: Call, settings: Settings) -> None:
    answer = call("PUT", "/v1/slides/mine.svs", content=b"not a slide")
    assert is_problem(answer, 422, "slide.unreadable")
    assert answer.json()["detail"].startswith("mine.svs: ")
    assert str(settings.data_dir) not in answer.text
    assert leftovers(settings) == []
    assert call("GET", "/v1/slides").json()["slides"] == []


def test_empty_body_is_refused(call: Call, settings: Settings) -> None:
    assert is_problem(call("PUT", "/v1/slides/a.svs", content=b""), 422, "upload.empty")
    assert leftovers(settings) == []


def test_content_range_is_refused(call: Call, tiff: bytes) -> None:
    answer = call("PUT", "/v1/slides/a.svs", content=tiff, headers={"Content-Range": "bytes 0-9/10"})
    assert is_problem(answer, 400, "upload.content-range")


def test_form_is_refused_with_the_right_command(call: Call) -> None:
    answer = call("PUT", "/v1/slides/a.svs", files={"file": b"x"})
    assert is_problem(answer, 415, "upload.multipart")
    assert "curl -T" in answer.json()["detail"]


def test_announced_size_over_the_limit_is_refused_before_the_body_is_read(call: Call, settings: Settings) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    length = {"Content-Length": str(settings.max_upload_bytes + 1)}
    answer = call("PUT", "/v1/slides/a.svs", content=never(), headers=length)
    assert is_problem(answer, 413, "upload.too-large")
    assert leftovers(settings) == []


def test_unannounced_size_over_the_limit_is_refused(call: Call, settings: Settings) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(2**20)

    assert is_problem(call("PUT", "/v1/slides/a.svs", content=endless()), 413, "upload.too-large")
    assert leftovers(settings) == []


@pytest.mark.parametrize("header", ["Repr-Digest", "Content-Digest"])
def test_digest_is_verified(call: Call, settings: Settings, tiff: bytes, header: str) -> None:
    right = base64.b64encode(hashlib.sha256(tiff).digest()).decode()
    wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    for value, status in ((f"crc32c=:AAAA:, sha-256=:{right}:", 201), ("md5=:AAAA:", 201)):
        assert call("PUT", "/v1/slides/a.svs", content=tiff, headers={header: value}).status_code == status
    before = leftovers(settings)
    answer = call("PUT", "/v1/slides/a.svs", content=tiff, headers={header: f"sha-256=:{wrong}:"})
    assert is_problem(answer, 400, "upload.digest-mismatch")
    answer = call("PUT", "/v1/slides/a.svs", content=tiff, headers={header: f"sha-256={right}"})
    assert is_problem(answer, 400, "upload.digest-invalid")
    assert leftovers(settings) == before


async def _put(app: FastAPI, messages: list[dict[str, Any]], headers: list[tuple[bytes, bytes]]) -> list[Any]:
    """Call the application by ASGI directly, to simulate clients that disconnect."""
    scope = {"type": "http", "method": "PUT", "path": "/v1/slides/a.svs", "query_string": b"", "headers": headers}
    scope |= {"http_version": "1.1", "scheme": "http", "server": ("test", 80), "root_path": ""}
    sent: list[Any] = []
    waiting = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(waiting)

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def test_disconnected_client_leaves_no_files(app: FastAPI, settings: Settings, tiff: bytes) -> None:
    messages = [{"type": "http.request", "body": tiff, "more_body": True}, {"type": "http.disconnect"}]
    sent = asyncio.run(_put(app, messages, [(b"content-length", b"5000")]))
    assert sent[0]["status"] == 400
    assert leftovers(settings) == []


def test_incomplete_upload_leaves_no_files(app: FastAPI, settings: Settings, tiff: bytes) -> None:
    messages = [{"type": "http.request", "body": tiff, "more_body": False}]
    sent = asyncio.run(_put(app, messages, [(b"content-length", b"5000")]))
    assert sent[0]["status"] == 400
    assert b"upload.incomplete" in sent[1]["body"]
    assert leftovers(settings) == []


def test_upload_that_would_use_the_disk_reserve_is_refused(settings: Settings, facts: dict[str, Any]) -> None:
    free = shutil.disk_usage(settings.data_dir.parent).free
    most = {"data_dir": settings.data_dir, "max_upload_bytes": 10**18}
    for reserve, announced in ((free * 2, 10), (0, free * 2)):
        app = create_app(Settings(**most, disk_reserve_bytes=reserve), lambda *_: facts)
        with pytest.raises(ServiceError, match="reserve"):
            app.state.context.upload_service.begin("a.svs", UploadMethod.PUT, total_bytes=announced)
        app.state.context.store.close()


def test_full_disk_is_reported_and_leaves_no_files(
    call: Call, settings: Settings, tiff: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("slidelift.service.uploads.inbox.os.fsync", full)
    assert is_problem(call("PUT", "/v1/slides/a.svs", content=tiff), 507, "storage.full")
    assert leftovers(settings) == []


def test_slide_whose_row_was_not_written_leaves_no_file(
    app: FastAPI, call: Call, settings: Settings, tiff: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("secret words")

    monkeypatch.setattr("slidelift.service.jobs.sql_store.SqlStore.add_slide", broken)
    answer = call("PUT", "/v1/slides/a.svs", content=tiff)
    assert is_problem(answer, 500, "internal")
    assert "secret" not in answer.text
    assert leftovers(settings) == []


def test_deleting_a_slide_removes_its_files(call: Call, settings: Settings, slide_id: str) -> None:
    assert call("DELETE", f"/v1/slides/{slide_id}").status_code == 204
    assert is_problem(call("GET", f"/v1/slides/{slide_id}"), 404, "slide.unknown")
    assert is_problem(call("DELETE", f"/v1/slides/{slide_id}"), 404, "slide.unknown")
    assert leftovers(settings) == []


def test_slide_of_an_unfinished_job_cannot_be_deleted(call: Call, settings: Settings, slide_id: str) -> None:
    job = call("POST", "/v1/jobs", json={"slide": slide_id}).json()
    assert is_problem(call("DELETE", f"/v1/slides/{slide_id}"), 409, "slide.in-use")
    call("DELETE", f"/v1/jobs/{job['id']}")
    assert call("DELETE", f"/v1/slides/{slide_id}").status_code == 204


def test_slides_are_listed_in_pages(call: Call, tiff: bytes) -> None:
    ids = [call("PUT", f"/v1/slides/{n}.svs", content=tiff).json()["id"] for n in range(3)][::-1]
    page = call("GET", "/v1/slides?limit=2").json()
    assert [slide["id"] for slide in page["slides"]] == ids[:2]
    rest = call("GET", page["next"]).json()
    assert [slide["id"] for slide in rest["slides"]] == ids[2:]
    assert rest["next"] is None


def test_slide_with_an_invalid_row_is_skipped_in_lists_and_can_be_deleted(
    app: FastAPI, call: Call, settings: Settings, slide_id: str, tiff: bytes
) -> None:
    bad = call("PUT", "/v1/slides/bad.svs", content=tiff).json()["id"]
    with app.state.context.store._database.writing() as db:
        (document,) = db.execute("SELECT document FROM slides WHERE id = ?", (bad,)).fetchone()
        spoilt = document.replace("[0.499,0.499]", "[NaN,null]")
        assert spoilt != document
        db.execute("UPDATE slides SET document = ? WHERE id = ?", (spoilt.replace("NaN", "null"), bad))
    assert [one["id"] for one in call("GET", "/v1/slides").json()["slides"]] == [slide_id]
    assert call("GET", f"/v1/slides/{bad}").status_code == 404
    assert call("DELETE", f"/v1/slides/{bad}").status_code == 204
    assert [path.name for path in leftovers(settings)] == [slide_id]
    assert call("DELETE", f"/v1/slides/{bad}").status_code == 404


@pytest.mark.parametrize(
    "wrong",
    [
        {"mpp": [float("nan"), 0.5]},
        {"mpp": [float("inf"), 0.5]},
        {"mpp": [0, 0.5]},
        {"mpp": [-1, 0.5]},
        {"mpp": [True, True]},
        {"mpp": ["0,5", "0,5"]},
        {"objective": float("nan")},
        {"objective": "20x"},
        {"width": 0},
        {"height": 2**40},
        {"levels": [{"width": 1, "height": 1, "downsample": float("inf")}]},
        {"levels": None},
        {"warnings": [7]},
        {"vendor": ["aperio"]},
    ],
    ids=str,
)
def test_invalid_metadata_is_not_stored(call: Call, tiff: bytes, facts: dict[str, Any], wrong: dict[str, Any]) -> None:
    facts.update(wrong)
    answer = call("PUT", "/v1/slides/a.svs", content=tiff)
    assert (answer.status_code, answer.json()["code"]) == (422, "slide.unreadable"), answer.text
    assert call("GET", "/v1/slides").json()["slides"] == []


def test_sweep_moves_leftovers_of_a_crash_aside_and_keeps_the_rest(
    app: FastAPI, settings: Settings, slide_id: str
) -> None:
    context = app.state.context
    half = settings.data_dir / "slides" / "half"
    half.mkdir()
    (half / "arriving").write_bytes(b"ha")
    lost = settings.data_dir / "jobs" / "lost"
    lost.mkdir()
    context.storage.clean_up(context.store, 1000)
    assert (half.exists(), lost.exists()) == (False, False)
    assert [path.name for path in leftovers(settings)] == [slide_id]
    aside = sorted(path.name for path in (settings.data_dir / "set-aside").iterdir())
    assert aside == ["1000-job-lost", "1000-slide-half"]


def test_sweep_keeps_a_running_upload(app: FastAPI, settings: Settings) -> None:
    upload_service = app.state.context.upload_service
    arriving = upload_service.begin("a.svs", UploadMethod.PUT, total_bytes=3)
    arriving.append(b"abc")
    upload_service.delete_expired()
    assert arriving.data.read_bytes() == b"abc"
    arriving.close()
    upload_service.delete_expired()
    assert leftovers(settings) == []


def test_probe_sees_the_stored_file_off_the_event_loop(settings: Settings, facts: Mapping[str, Any]) -> None:
    seen: list[Path] = []

    def probe(slide: Path, name: str, between: Callable[[], None]) -> Mapping[str, Any]:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        seen.append(slide)
        return facts

    app = create_app(settings, probe)

    async def put() -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return (await client.put("/v1/slides/a.ndpi", content=b"x")).status_code

    assert asyncio.run(put()) == 201
    assert [path.name for path in seen] == ["slide.ndpi"]
    app.state.context.store.close()
