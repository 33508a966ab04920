"""tus 1.0.0 over ASGI: the protocol, interruptions and malformed input."""

import asyncio
import base64
import fcntl
import hashlib
import json
import os
import random
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from slidelift.service.api import request_body as receiving
from slidelift.service.app import create_app
from slidelift.service.errors import Problem, ServiceError
from slidelift.service.settings import Settings
from slidelift.service.uploads.upload import UploadMethod, UploadState

Call = Callable[..., httpx.Response]
TUS = {"Tus-Resumable": "1.0.0"}
PIECE = {**TUS, "Content-Type": "application/offset+octet-stream"}


def named(name: str) -> dict[str, str]:
    return {"Upload-Metadata": f"filename {base64.b64encode(name.encode()).decode()}"}


def begin(call: Call, total: int | None, name: str = "Patient Müller.svs") -> str:
    length = {"Upload-Defer-Length": "1"} if total is None else {"Upload-Length": str(total)}
    answer = call("POST", "/v1/uploads", headers={**TUS, **length, **named(name)})
    assert answer.status_code == 201, answer.text
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert answer.headers["upload-expires"].endswith("GMT")
    return str(answer.headers["location"])


def patch(call: Call, url: str, offset: int, piece: Any, **headers: str) -> httpx.Response:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return call("PATCH", url, content=piece, headers={**PIECE, "Upload-Offset": str(offset), **named})


def offset(call: Call, url: str) -> int:
    answer = call("HEAD", url, headers=TUS)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    return int(answer.headers["upload-offset"])


def folder(settings: Settings, url: str) -> Path:
    return settings.data_dir / "uploads" / url.rpartition("/")[2]


def is_refused(answer: httpx.Response, status: int, code: str) -> bool:
    body = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["tus-resumable"] == "1.0.0"
    return True


def test_upload_in_pieces_becomes_a_slide(call: Call, settings: Settings, tiff: bytes) -> None:
    url = begin(call, len(tiff))
    assert patch(call, url, 0, tiff[:50]).status_code == 204
    assert offset(call, url) == 50
    assert call("GET", url).json()["state"] == "arriving"
    last = patch(call, url, 50, tiff[50:])
    assert (last.status_code, last.headers["upload-offset"]) == (204, str(len(tiff)))
    slide = last.headers["slide-id"]
    assert last.headers["link"] == f'</v1/slides/{slide}>; rel="related"'
    facts = call("GET", f"/v1/slides/{slide}").json()
    assert (facts["name"], facts["sha256"]) == ("Patient Müller.svs", hashlib.sha256(tiff).hexdigest())
    assert (settings.data_dir / "slides" / slide / "slide.svs").read_bytes() == tiff
    seen = call("GET", url).json()
    assert (seen["state"], seen["slide"], seen["bytes"], seen["error"]) == ("landed", slide, len(tiff), None)
    assert not (folder(settings, url) / "data").exists()
    assert "Patient" not in str(list(settings.data_dir.rglob("*")))


def test_options_lists_the_extensions(call: Call, settings: Settings) -> None:
    answer = call("OPTIONS", "/v1/uploads")
    assert answer.status_code == 204
    assert answer.headers["tus-version"] == "1.0.0"
    assert answer.headers["tus-max-size"] == str(settings.max_upload_bytes)
    assert {"creation", "checksum", "expiration", "termination"} <= set(answer.headers["tus-extension"].split(","))
    assert answer.headers["tus-checksum-algorithm"].split(",")[0] == "sha1"


def test_head_returns_the_announced_values(call: Call) -> None:
    answer = call("HEAD", begin(call, 7, "a.svs"), headers=TUS)
    assert (answer.headers["upload-length"], answer.headers["upload-offset"]) == ("7", "0")
    assert answer.headers["upload-metadata"] == named("a.svs")["Upload-Metadata"]
    later = call("HEAD", begin(call, None), headers=TUS)
    assert (later.headers["upload-defer-length"], "upload-length" in later.headers) == ("1", False)


@pytest.mark.parametrize("version", [{}, {"Tus-Resumable": "0.2.2"}])
def test_other_protocol_version_is_refused_and_changes_nothing(call: Call, version: dict[str, str]) -> None:
    url = begin(call, 100)
    headers = {**version, "Content-Type": PIECE["Content-Type"], "Upload-Offset": "0"}
    answers = [
        call("PATCH", url, content=b"abc", headers=headers),
        call("POST", "/v1/uploads", headers={**version, "Upload-Length": "3", **named("a.svs")}),
    ]
    for answer in answers:
        assert is_refused(answer, 412, "upload.tus-version")
        assert answer.headers["tus-version"] == "1.0.0"
    assert call("HEAD", url, headers=version).status_code == 412
    assert offset(call, url) == 0


async def never() -> AsyncIterator[bytes]:
    raise AssertionError("the body was read")
    yield b""


def test_wrong_content_type_is_refused_before_the_body_is_read(call: Call, settings: Settings) -> None:
    url = begin(call, 100)
    headers = {**TUS, "Upload-Offset": "0", "Content-Type": "application/octet-stream"}
    assert is_refused(call("PATCH", url, content=never(), headers=headers), 415, "upload.media-type")
    assert (folder(settings, url) / "data").stat().st_size == 0


@pytest.mark.parametrize("wrong", [0, 4, 99])
def test_piece_at_a_wrong_offset_is_refused_and_changes_nothing(call: Call, settings: Settings, wrong: int) -> None:
    url = begin(call, 100)
    patch(call, url, 0, b"abc")
    answer = call("PATCH", url, content=never(), headers={**PIECE, "Upload-Offset": str(wrong)})
    assert is_refused(answer, 409, "upload.offset")
    assert (folder(settings, url) / "data").read_bytes() == b"abc"


def test_more_than_announced_is_refused_and_not_stored(call: Call, settings: Settings) -> None:
    url = begin(call, 10)
    patch(call, url, 0, b"abc")
    answer = call("PATCH", url, content=never(), headers={**PIECE, "Upload-Offset": "3", "Content-Length": "8"})
    assert is_refused(answer, 413, "upload.too-large")

    async def unannounced() -> AsyncIterator[bytes]:
        yield b"12345"
        yield b"678"

    assert is_refused(patch(call, url, 3, unannounced()), 413, "upload.too-large")
    assert (folder(settings, url) / "data").read_bytes() == b"abc"


def test_size_over_the_limit_is_refused_at_once(call: Call, settings: Settings) -> None:
    headers = {**TUS, **named("a.svs"), "Upload-Length": str(settings.max_upload_bytes + 1)}
    assert is_refused(call("POST", "/v1/uploads", headers=headers), 413, "upload.too-large")
    url = begin(call, None)
    over = {"Upload_Length": str(settings.max_upload_bytes + 1)}
    assert is_refused(patch(call, url, 0, b"a", **over), 413, "upload.too-large")
    assert offset(call, url) == 0


def test_deferred_size_can_be_set_once(call: Call, tiff: bytes) -> None:
    url = begin(call, None)
    assert patch(call, url, 0, tiff[:5]).status_code == 204
    assert is_refused(patch(call, url, 5, b"", Upload_Length="4"), 400, "upload.header")
    assert patch(call, url, 5, tiff[5:9], Upload_Length=str(len(tiff))).status_code == 204
    assert is_refused(patch(call, url, 9, b"x", Upload_Length="1000"), 400, "upload.header")
    assert patch(call, url, 9, tiff[9:]).headers["slide-id"]


def test_creation_may_contain_the_first_piece_or_the_whole_file(call: Call, tiff: bytes) -> None:
    headers = {**PIECE, **named("a.svs"), "Upload-Length": str(len(tiff))}
    part = call("POST", "/v1/uploads", content=tiff[:9], headers=headers)
    assert (part.status_code, part.headers["upload-offset"]) == (201, "9")
    assert patch(call, part.headers["location"], 9, tiff[9:]).headers["slide-id"]
    whole = call("POST", "/v1/uploads", content=tiff, headers=headers)
    assert (whole.status_code, whole.headers["upload-offset"]) == (201, str(len(tiff)))
    assert call("GET", f"/v1/slides/{whole.headers['slide-id']}").status_code == 200
    wrong = call("POST", "/v1/uploads", content=b"x", headers={**headers, "Content-Type": "text/plain"})
    assert is_refused(wrong, 415, "upload.media-type")


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "md5"])
def test_piece_with_a_wrong_checksum_is_discarded(call: Call, settings: Settings, tiff: bytes, algorithm: str) -> None:
    def sum_of(data: bytes) -> str:
        value = hashlib.new(algorithm, data, usedforsecurity=False).digest()
        return f"{algorithm} {base64.b64encode(value).decode()}"

    url = begin(call, len(tiff))
    assert patch(call, url, 0, tiff[:50], Upload_Checksum=sum_of(tiff[:50])).status_code == 204
    wrong = patch(call, url, 50, tiff[50:], Upload_Checksum=sum_of(b"other"))
    assert is_refused(wrong, 460, "upload.checksum")
    assert (folder(settings, url) / "data").read_bytes() == tiff[:50]
    assert offset(call, url) == 50
    assert patch(call, url, 50, tiff[50:], Upload_Checksum=sum_of(tiff[50:])).headers["slide-id"]


def test_interrupted_piece_with_a_checksum_does_not_count(call: Call, app: FastAPI, settings: Settings) -> None:
    """The state after the process was killed: the bytes are stored but not checked."""
    url = begin(call, 100)
    patch(call, url, 0, b"checked")
    writer = app.state.context.upload_service.inbox.open(url.rpartition("/")[2])
    writer.begin_unchecked()
    writer.append(b" not checked")
    writer.close()
    assert offset(call, url) == 7
    assert patch(call, url, 7, b"!").status_code == 204
    assert (folder(settings, url) / "data").read_bytes() == b"checked!"


@pytest.mark.parametrize("value", ["crc32 AAAA", "sha1", "sha1 AAAA", "sha1 é", "", "sha256 ====", "sha1 \x00"])
def test_malformed_checksum_is_refused(call: Call, value: str) -> None:
    url = begin(call, 100)
    headers = {**PIECE, "Upload-Offset": "0"}
    raw = [(key.encode(), text.encode()) for key, text in headers.items()]
    answer = call("PATCH", url, content=b"a", headers=[*raw, (b"Upload-Checksum", value.encode())])
    assert is_refused(answer, 400, "upload.digest-invalid")
    assert offset(call, url) == 0


def test_second_writer_gets_upload_locked(call: Call, app: FastAPI, settings: Settings) -> None:
    url = begin(call, 100)
    with (folder(settings, url) / "lock").open() as elsewhere:  # as another process would
        fcntl.flock(elsewhere, fcntl.LOCK_EX)
        assert is_refused(patch(call, url, 0, b"abc"), 423, "upload.locked")
        assert is_refused(call("DELETE", url, headers=TUS), 423, "upload.locked")
        assert offset(call, url) == 0
    assert patch(call, url, 0, b"abc").status_code == 204


def test_deleted_upload_is_unknown(call: Call, settings: Settings) -> None:
    url = begin(call, 100)
    assert call("DELETE", url, headers=TUS).status_code == 204
    assert not folder(settings, url).exists()
    assert is_refused(patch(call, url, 0, b"abc"), 404, "upload.unknown")
    assert is_refused(call("DELETE", url, headers=TUS), 404, "upload.unknown")
    assert is_refused(call("GET", url), 404, "upload.unknown")
    assert call("HEAD", url, headers=TUS).status_code == 404


@pytest.mark.parametrize("odd", ["x", "%2e%2e", "..%2f..%2fslides", "%00", "A" * 32, "0" * 32, "é", "٣" * 32])
def test_malformed_id_is_unknown(call: Call, odd: str) -> None:
    assert call("GET", f"/v1/uploads/{odd}").status_code == 404
    assert call("HEAD", f"/v1/uploads/{odd}", headers=TUS).status_code == 404


def grow_old(settings: Settings, url: str) -> None:
    long_ago = time.time() - settings.upload_expiry_seconds - 5
    for path in folder(settings, url).iterdir():
        os.utime(path, (long_ago, long_ago))


def test_untouched_upload_expires(call: Call, app: FastAPI, settings: Settings) -> None:
    old, young = begin(call, 100), begin(call, 100)
    patch(call, old, 0, b"abc")
    grow_old(settings, old)
    assert is_refused(patch(call, old, 3, b"abc"), 410, "upload.expired")
    assert call("HEAD", old, headers=TUS).status_code == 410
    app.state.context.upload_service.delete_expired()
    assert (folder(settings, old).exists(), folder(settings, young).exists()) == (False, True)
    assert is_refused(patch(call, old, 3, b"abc"), 404, "upload.unknown")


def test_clock_that_jumps_a_day_ahead_expires_no_upload(
    call: Call, app: FastAPI, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, clock = begin(call, 100), time.time
    patch(call, url, 0, b"abc")
    monkeypatch.setattr(time, "time", lambda: clock() + settings.upload_expiry_seconds + 100)
    app.state.context.upload_service.delete_expired()
    assert patch(call, url, 3, b"abc").status_code == 204


def test_piece_postpones_the_expiry(call: Call, app: FastAPI, settings: Settings) -> None:
    url = begin(call, 100)
    info = folder(settings, url) / "info.json"
    nearly = time.time() - settings.upload_expiry_seconds + 30
    for path in (info, folder(settings, url) / "data"):
        os.utime(path, (nearly, nearly))
    before = call("GET", url).json()["expires"]
    patch(call, url, 0, b"")
    assert call("GET", url).json()["expires"] > before


def test_upload_that_another_process_writes_is_not_deleted(call: Call, app: FastAPI, settings: Settings) -> None:
    url = begin(call, 100)
    grow_old(settings, url)
    with (folder(settings, url) / "lock").open() as elsewhere:
        fcntl.flock(elsewhere, fcntl.LOCK_EX)
        app.state.context.upload_service.delete_expired()
        assert folder(settings, url).exists()
    app.state.context.upload_service.delete_expired()
    assert not folder(settings, url).exists()


def test_upload_whose_creation_was_interrupted_is_deleted(app: FastAPI, settings: Settings) -> None:
    half = settings.data_dir / "uploads" / ("0" * 32)
    half.mkdir()
    (half / "lock").touch()
    app.state.context.upload_service.delete_expired()
    assert not half.exists()


def test_refused_slide_is_reported_and_recorded(call: Call, settings: Settings) -> None:
    url = begin(call, 11, "mine.svs")
    refused = patch(call, url, 0, b"not a slide")
    assert is_refused(refused, 422, "slide.unreadable")
    assert refused.json()["detail"].startswith("mine.svs: ")
    seen = call("GET", url).json()
    assert (seen["state"], seen["error"]["code"], seen["slide"]) == ("failed", "slide.unreadable", None)
    assert str(settings.data_dir) not in json.dumps(seen)
    assert not (folder(settings, url) / "data").exists()
    assert is_refused(patch(call, url, 11, b""), 422, "slide.unreadable")
    assert list((settings.data_dir / "slides").glob("*/")) == []


def test_upload_can_be_retried_after_an_internal_error(
    call: Call, settings: Settings, facts: dict[str, Any], tiff: bytes
) -> None:
    faults = iter([ServiceError(Problem("runner.crashed", "no memory", 500)), None])

    def probe(*_: Any) -> dict[str, Any]:
        fault = next(faults)
        if fault is not None:
            raise fault
        return facts

    app = create_app(settings, probe)
    call = type(call)(app)
    url = begin(call, len(tiff))
    assert is_refused(patch(call, url, 0, tiff), 500, "runner.crashed")
    assert call("GET", url).json()["state"] == "failed"
    assert patch(call, url, len(tiff), b"").headers["slide-id"]
    app.state.context.store.close()


def test_interrupted_finishing_is_completed_on_request(
    call: Call, app: FastAPI, settings: Settings, tiff: bytes
) -> None:
    url = begin(call, len(tiff))
    writer = app.state.context.upload_service.inbox.open(url.rpartition("/")[2])
    writer.append(tiff)
    writer.mark_complete()
    (writer.folder / "slide").mkdir()  # the state after an interruption
    writer.close()
    assert call("GET", url).json()["state"] == "checking"
    seen = call("GET", url, headers={"Prefer": "wait=20"}).json()
    assert seen["state"] == "landed"
    assert call("GET", f"/v1/slides/{seen['slide']}").status_code == 200


def test_upload_interrupted_after_the_last_byte_becomes_a_slide(call: Call, app: FastAPI, tiff: bytes) -> None:
    """A client sends no more requests after HEAD has reported the full size."""
    url = begin(call, len(tiff))
    writer = app.state.context.upload_service.inbox.open(url.rpartition("/")[2])
    writer.append(tiff)
    writer.close()
    assert offset(call, url) == len(tiff)
    for _ in range(200):
        if call("GET", "/v1/slides").json()["slides"]:
            break
        time.sleep(0.02)
    assert call("GET", "/v1/slides").json()["slides"][0]["bytes"] == len(tiff)


def test_empty_upload_fails_at_once(call: Call) -> None:
    url = begin(call, 0)
    call("GET", url)
    seen = call("GET", url, headers={"Prefer": "wait=20"}).json()
    assert (seen["state"], seen["error"]["code"]) == ("failed", "upload.empty")


def test_upload_interrupted_between_commit_and_record_gives_one_slide(
    call: Call, app: FastAPI, settings: Settings, tiff: bytes
) -> None:
    """The slide is committed, the upload's record is not updated yet."""
    url = begin(call, len(tiff))
    slide = patch(call, url, 0, tiff).headers["slide-id"]
    info = folder(settings, url) / "info.json"
    record = json.loads(info.read_text())
    info.write_text(json.dumps({**record, "slide": None, "bytes": None}))
    (folder(settings, url) / "data").write_bytes(tiff)
    app.state.context.upload_service.delete_expired()
    seen = call("GET", url, headers={"Prefer": "wait=20"}).json()
    assert (seen["state"], seen["slide"]) == ("landed", slide)
    assert len(call("GET", "/v1/slides").json()["slides"]) == 1


def test_two_uploads_do_not_reserve_the_same_space(app: FastAPI, settings: Settings) -> None:
    upload_service = app.state.context.upload_service
    free = upload_service.storage.free_bytes()
    roomy = settings.model_copy(update={"max_upload_bytes": free * 4})
    upload_service.admission.settings, upload_service.inbox.max_bytes = roomy, free * 4
    first = upload_service.begin("a.svs", UploadMethod.TUS, total_bytes=free * 6 // 10)
    with pytest.raises(ServiceError, match="reserve"):
        upload_service.begin("b.svs", UploadMethod.PUT, total_bytes=free * 6 // 10)
    later = upload_service.begin("c.svs", UploadMethod.TUS)
    with pytest.raises(ServiceError, match="reserve"):
        upload_service.set_total_bytes(later, free * 6 // 10)
    first.discard()
    upload_service.set_total_bytes(later, free * 6 // 10)
    later.discard()


def test_upload_of_unknown_size_does_not_use_reserved_space(app: FastAPI, settings: Settings) -> None:
    upload_service = app.state.context.upload_service
    promised = upload_service.begin("a.svs", UploadMethod.TUS, total_bytes=1)
    unknown = upload_service.begin("b.svs", UploadMethod.TUS)
    promised.save(replace(promised.upload, expected_bytes=2 * upload_service.storage.free_bytes()))
    with pytest.raises(ServiceError, match="reserve"):
        unknown.append(b"x")
    promised.discard()
    unknown.append(b"x")
    unknown.discard()


def speak(app: FastAPI, url: str, headers: dict[str, str], messages: list[dict[str, Any]]) -> list[Any]:
    """Call the app with ASGI messages: a client that disconnects, or is silent after the last message."""
    scope = {"type": "http", "method": "PATCH", "path": url, "query_string": b"", "http_version": "1.1"}
    scope |= {"scheme": "http", "server": ("test", 80), "root_path": ""}
    scope["headers"] = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
    sent: list[Any] = []
    waiting = iter(messages)

    async def receive() -> dict[str, Any]:
        for message in waiting:
            return message
        await asyncio.sleep(60)
        raise AssertionError("waited for ever")

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


BROKEN = [{"type": "http.request", "body": b"abc", "more_body": True}, {"type": "http.disconnect"}]


def test_bytes_before_a_broken_connection_are_kept(call: Call, app: FastAPI, settings: Settings) -> None:
    url = begin(call, 100)
    speak(app, url, {**PIECE, "Upload-Offset": "0", "Content-Length": "50"}, BROKEN)
    assert (folder(settings, url) / "data").read_bytes() == b"abc"
    assert offset(call, url) == 3
    assert patch(call, url, 3, b"def").status_code == 204


def test_broken_piece_with_a_checksum_is_not_kept(call: Call, app: FastAPI, settings: Settings) -> None:
    url = begin(call, 100)
    whole = base64.b64encode(hashlib.sha1(b"abcdef").digest()).decode()
    headers = {**PIECE, "Upload-Offset": "0", "Upload-Checksum": f"sha1 {whole}"}
    speak(app, url, headers, BROKEN)
    assert offset(call, url) == 0


def test_silent_sender_keeps_its_bytes_and_loses_the_lock(
    call: Call, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "IDLE_SECONDS", 0.2)
    url = begin(call, 100)
    sent = speak(app, url, {**PIECE, "Upload-Offset": "0"}, BROKEN[:1])
    assert (sent[0]["status"], b"upload.incomplete" in sent[1]["body"]) == (400, True)
    assert patch(call, url, 3, b"def").status_code == 204


def odd_texts(seed: int) -> list[bytes]:
    fixed = [
        b"",
        b" ",
        b"-1",
        b"+1",
        b"1_0",
        b"1e3",
        b"0x10",
        b"9" * 400,
        b"1, 2",
        b"\xb2",
        b"\xd9\xa3",
        b"\x00",
        b"\xff\xfe",
    ]
    metadata = [
        b"filename",
        b"filename =",
        b"filename a",
        b"filename /w==",
        b"filename \xff",
        b"a b,a b",
        b",",
        b"=,=",
        b"\xa0",
    ]
    names = [base64.b64encode(name) for name in (b"", b"\x00.svs", b"../a", b"\xed\xa0\x80.svs", b"x" * 300, b"a.mrxs")]
    chance = random.Random(seed)
    noise = [bytes(chance.randrange(1, 256) for _ in range(chance.randrange(1, 40))) for _ in range(10)]
    return [*fixed, *metadata, *(b"filename " + name for name in names), *noise, b"filename " + b"A" * 9000]


@pytest.mark.parametrize(
    "header",
    ["Upload-Length", "Upload-Defer-Length", "Upload-Metadata", "Upload-Checksum", "Content-Length", "Tus-Resumable"],
)
def test_odd_creation_headers_cause_no_internal_error(call: Call, header: str) -> None:
    usual = {**TUS, "Upload-Length": "10", **named("a.svs")}
    for text in odd_texts(1):
        raw = [(key.encode(), value.encode()) for key, value in usual.items() if key != header]
        status = call("POST", "/v1/uploads", headers=[*raw, (header.encode(), text)]).status_code
        assert status == 201 or 400 <= status < 500, text


@pytest.mark.parametrize(
    "header", ["Upload-Offset", "Upload-Length", "Upload-Checksum", "Content-Type", "Content-Length", "Tus-Resumable"]
)
def test_odd_piece_headers_cause_no_internal_error(call: Call, header: str) -> None:
    url = begin(call, 10)
    for text in odd_texts(2):
        raw = [
            (key.encode(), value.encode()) for key, value in {**PIECE, "Upload-Offset": "0"}.items() if key != header
        ]
        status = call("PATCH", url, headers=[*raw, (header.encode(), text)]).status_code
        assert status == 204 or 400 <= status < 500, text


@pytest.mark.parametrize("header", ["Content-Length", "Content-Digest", "Repr-Digest", "Content-Type", "Content-Range"])
def test_odd_put_headers_cause_no_internal_error(call: Call, tiff: bytes, header: str) -> None:
    for text in odd_texts(3):
        status = call("PUT", "/v1/slides/a.svs", content=tiff, headers=[(header.encode(), text)]).status_code
        assert status == 201 or 400 <= status < 500, text


def test_states_of_an_upload() -> None:
    assert {str(state) for state in UploadState} == {"arriving", "checking", "landed", "failed"}


@pytest.mark.parametrize("way", ["tus", "put", "form"])
def test_upload_is_kept_and_can_be_checked_again_after_its_probe_was_killed(
    settings: Settings, facts: dict[str, Any], tiff: bytes, client: Callable[[FastAPI], Call], way: str
) -> None:
    killed = Problem("slide.not-checked", "a.svs: the process was killed", 503, by_user=False)
    outcomes: list[Any] = [ServiceError(killed), ServiceError(killed), facts]

    def probe(slide: Path, name: str, _: Callable[[], None]) -> Any:
        if isinstance(found := outcomes.pop(0), ServiceError):
            raise found
        return found

    app = create_app(settings, probe)
    call = client(app)
    if way == "tus":
        answer = patch(call, begin(call, len(tiff), "a.svs"), 0, tiff)
    elif way == "put":
        answer = call("PUT", "/v1/slides/a.svs", content=tiff)
    else:
        answer = call("POST", "/v1/slides", files={"file": ("a.svs", tiff)})
    assert (answer.status_code, answer.json()["code"]) == (503, "slide.not-checked")
    assert "retry-after" in answer.headers
    url = re.search(r"/v1/uploads/[0-9a-f]{32}", answer.json()["detail"])[0]  # type: ignore[index]
    app.state.context.upload_service.delete_expired()
    assert patch(call, url, len(tiff), b"").status_code == 503
    assert patch(call, url, len(tiff), b"").status_code == 204
    slide = call("GET", url).json()["slide"]
    assert call("GET", f"/v1/slides/{slide}").json()["sha256"] == hashlib.sha256(tiff).hexdigest()
    app.state.context.store.close()
