"""Disk space is reserved by received bytes, so that announcements alone do not block other owners."""

import base64
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from slidelift.service.auth.tokens import Scope, Token, hash_of
from slidelift.service.errors import ServiceError
from slidelift.service.settings import Settings
from slidelift.service.uploads.reservations import (
    RESERVED_AHEAD_BYTES,
    STALLED_SECONDS,
    UnfinishedUpload,
    reserved_bytes,
)
from slidelift.service.uploads.upload import UploadMethod
from slidelift.service.uploads.upload_service import UploadService

MIB, GIB = 2**20, 2**30
TUS = {"Tus-Resumable": "1.0.0"}


@pytest.fixture
def upload_service(app: FastAPI) -> UploadService:
    """With 64 GiB of free space."""
    found: UploadService = app.state.context.upload_service
    set_room(found, 64 * GIB)
    return found


def set_room(upload_service: UploadService, room: int) -> None:
    """Set the free disk space."""
    most = {"max_upload_bytes": 1024 * GIB}
    upload_service.admission.settings, upload_service.inbox.max_bytes = (
        upload_service.admission.settings.model_copy(update=most),
        1024 * GIB,
    )
    upload_service.storage.free_bytes = lambda: room  # type: ignore[method-assign]


def stall(settings: Settings, upload_id: str, seconds: float = STALLED_SECONDS + 5) -> None:
    for file in (settings.data_dir / "uploads" / upload_id).iterdir():
        os.utime(file, (time.time() - seconds,) * 2)


def test_announced_bytes_that_are_not_sent_block_no_other_owner(upload_service: UploadService) -> None:
    for _ in range(2):
        upload_service.begin("a.svs", UploadMethod.TUS, owner="attacker", total_bytes=31 * GIB).close()
    for way in (UploadMethod.PUT, UploadMethod.TUS):
        upload_service.begin("b.svs", way, owner="honest", total_bytes=30 * GIB).close()
    unknown = upload_service.begin("c.svs", UploadMethod.URI, owner="third")
    unknown.append(b"x")
    upload_service.set_total_bytes(unknown, 60 * GIB)
    unknown.close()


def test_many_announcements_of_one_owner_reserve_little(upload_service: UploadService) -> None:
    for _ in range(150):
        upload_service.begin("a.svs", UploadMethod.TUS, owner="attacker", total_bytes=400 * MIB).close()
    upload_service.begin("b.svs", UploadMethod.PUT, owner="honest", total_bytes=64 * GIB - RESERVED_AHEAD_BYTES).close()


def test_received_bytes_reserve_space_against_other_owners(upload_service: UploadService) -> None:
    coming = upload_service.begin("a.svs", UploadMethod.PUT, owner="a", total_bytes=40 * GIB)
    os.truncate(coming.data, 20 * GIB)  # a sparse file, as if the bytes had been received
    with pytest.raises(ServiceError) as error:
        upload_service.begin("b.svs", UploadMethod.PUT, owner="b", total_bytes=45 * GIB)
    assert (error.value.problem.code, error.value.problem.status) == ("storage.full", 507)
    coming.discard()


def test_announcements_of_one_owner_do_not_exceed_free_space(upload_service: UploadService) -> None:
    upload_service.begin("a.svs", UploadMethod.TUS, owner="a", total_bytes=40 * GIB).close()
    with pytest.raises(ServiceError, match="reserve"):
        upload_service.begin("b.svs", UploadMethod.TUS, owner="a", total_bytes=40 * GIB)


def test_upload_larger_than_free_space_is_refused_at_once(upload_service: UploadService) -> None:
    with pytest.raises(ServiceError) as error:
        upload_service.begin("a.svs", UploadMethod.TUS, owner="a", total_bytes=65 * GIB)
    assert error.value.problem.status == 507


def test_stalled_upload_reserves_nothing(upload_service: UploadService, settings: Settings) -> None:
    writer = upload_service.begin("a.svs", UploadMethod.TUS, total_bytes=40 * GIB)
    writer.close()
    stall(settings, writer.upload.id)
    upload_service.begin("b.svs", UploadMethod.TUS, total_bytes=40 * GIB).discard()


def patch(call: Callable[..., httpx.Response], url: str, offset: int, piece: bytes) -> httpx.Response:
    kind = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": str(offset)}
    return call("PATCH", url, content=piece, headers={**TUS, **kind})


def test_stalled_upload_is_admitted_again_when_it_continues(
    call: Callable[..., httpx.Response], upload_service: UploadService, settings: Settings, tiff: bytes
) -> None:
    name = {"Upload-Metadata": f"filename {base64.b64encode(b'a.svs').decode()}"}
    url = call("POST", "/v1/uploads", headers={**TUS, **name, "Upload-Length": str(len(tiff))}).headers["location"]
    assert patch(call, url, 0, tiff[:9]).status_code == 204
    stall(settings, url.rpartition("/")[2])
    set_room(upload_service, 5)
    refused = patch(call, url, 9, tiff[9:])
    assert (refused.status_code, refused.json()["code"]) == (507, "storage.full")
    assert "9 bytes received so far are kept" in refused.json()["detail"]
    set_room(upload_service, GIB)
    assert call("HEAD", url, headers=TUS).headers["upload-offset"] == "9"
    assert patch(call, url, 9, tiff[9:]).status_code == 204
    assert call("GET", url).json()["state"] == "landed"


def test_resumed_upload_reserves_space_again(upload_service: UploadService, settings: Settings) -> None:
    writer = upload_service.begin("a.svs", UploadMethod.TUS, total_bytes=40 * GIB)
    stall(settings, writer.upload.id)
    upload_service.resume(writer)
    with pytest.raises(ServiceError, match="reserve"):
        upload_service.begin("b.svs", UploadMethod.TUS, total_bytes=40 * GIB)
    writer.close()


def test_full_disk_is_reported_before_the_body_is_read(
    call: Callable[..., httpx.Response], upload_service: UploadService, tiff: bytes
) -> None:
    set_room(upload_service, len(tiff) - 1)
    answer = call("PUT", "/v1/slides/a.svs", content=tiff)
    assert (answer.status_code, answer.json()["code"]) == (507, "storage.full")


def test_announcements_of_one_token_do_not_block_another_token(
    open_app: Callable[..., FastAPI], client: Any, tiff: bytes
) -> None:
    """One token announces 62 of 64 GiB; another token uploads a slide."""
    app = open_app(auth="on")
    for name in ("attacker", "honest"):
        everything = frozenset({Scope.READ, Scope.WRITE})
        app.state.context.store.add_token(Token(name, name, hash_of(name), everything, time.time(), None))
    call, upload_service = client(app), app.state.context.upload_service
    set_room(upload_service, 64 * GIB)
    name = {"Upload-Metadata": f"filename {base64.b64encode(b'a.svs').decode()}"}
    for _ in range(2):
        headers = {**TUS, **name, "Upload-Length": str(31 * GIB), "Authorization": "Bearer attacker"}
        assert call("POST", "/v1/uploads", headers=headers).status_code == 201
    headers = {**TUS, **name, "Upload-Length": str(50 * GIB), "Authorization": "Bearer honest"}
    assert call("POST", "/v1/uploads", headers=headers).status_code == 201
    answer = call("PUT", "/v1/slides/b.svs", content=tiff, headers={"Authorization": "Bearer honest"})
    assert answer.status_code == 201, answer.text


OWNERS = st.sampled_from([None, "a", "b", "c"])
SIZES = st.integers(0, 10 * GIB)
UPLOADS = st.lists(
    st.builds(
        lambda owner, received, more, stalled: UnfinishedUpload(owner, received + more, received, stalled),
        *(OWNERS, SIZES, SIZES, st.booleans()),
    ),
    max_size=20,
)


@given(UPLOADS, OWNERS)
def test_reservations_of_other_owners_are_limited_by_received_bytes(
    unfinished: list[UnfinishedUpload], asker: str | None
) -> None:
    claimed = reserved_bytes(unfinished, asker)
    own = sum(one.remaining_bytes for one in unfinished if one.owner == asker and not one.is_stalled)
    sent = sum(one.received_bytes for one in unfinished if one.owner != asker and not one.is_stalled)
    assert own <= claimed <= own + sent + 3 * RESERVED_AHEAD_BYTES
    assert claimed <= sum(one.remaining_bytes for one in unfinished)
    assert reserved_bytes([replace(one, is_stalled=True) for one in unfinished], asker) == 0


def test_upload_folder_that_is_being_deleted_is_not_counted(app: FastAPI, settings: Settings, tmp_path: Path) -> None:
    """A folder without a record causes no error."""
    upload_service = app.state.context.upload_service
    writer = upload_service.begin("a.svs", UploadMethod.TUS, total_bytes=5)
    (settings.data_dir / "uploads" / writer.upload.id / "info.json").unlink()
    assert upload_service.inbox.unfinished() == []
    writer.discard()
