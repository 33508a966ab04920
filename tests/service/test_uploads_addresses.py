"""Fetching slides from addresses: allowed and refused sources."""

import contextlib
import http.server
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import trustme
from fastapi import FastAPI

from slidelift.service.app import create_app
from slidelift.service.errors import ServiceError
from slidelift.service.settings import Settings
from slidelift.service.uploads import https
from slidelift.service.uploads.sources import CheckedSource
from slidelift.service.uploads.upload import UploadMethod, UploadState
from slidelift.service.uploads.upload_service import UploadService

Call = Callable[..., httpx.Response]
WAIT = {"Prefer": "wait=20"}


@pytest.fixture
def root(tmp_path: Path, tiff: bytes) -> Path:
    folder = tmp_path / "scanner"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "Fall 7.svs").write_bytes(tiff)
    (tmp_path / "secret.svs").write_bytes(tiff)
    (folder / "out.svs").symlink_to(tmp_path / "secret.svs")
    (folder / "outside").symlink_to(tmp_path)
    (folder / "in.svs").symlink_to(folder / "deep" / "Fall 7.svs")
    os.mkfifo(folder / "pipe.svs")
    return folder


@pytest.fixture
def settings(settings: Settings, root: Path) -> Settings:
    return settings.model_copy(update={"upload_roots": (root,)})


def ask(call: Call, uri: Any, **more: Any) -> httpx.Response:
    return call("POST", "/v1/slides", json={"uri": uri, **more}, headers=WAIT)


def is_refused(answer: httpx.Response, status: int, code: str) -> bool:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    return True


@pytest.mark.parametrize("name", ["deep/Fall%207.svs", "in.svs", "deep/../deep/Fall%207.svs"])
def test_file_below_a_root_becomes_a_slide(call: Call, settings: Settings, root: Path, tiff: bytes, name: str) -> None:
    answer = ask(call, f"file://{root}/{name}", name="mine.svs")
    assert answer.status_code == 202, answer.text
    uploaded = answer.json()
    assert answer.headers["location"] == f"/v1/uploads/{uploaded['id']}"
    assert (uploaded["state"], uploaded["bytes"], uploaded["total_bytes"]) == ("landed", len(tiff), len(tiff))
    slide = call("GET", f"/v1/slides/{uploaded['slide']}").json()
    assert (slide["name"], slide["bytes"]) == ("mine.svs", len(tiff))
    assert call("GET", answer.headers["location"]).json() == uploaded


def test_name_is_the_end_of_the_address(call: Call, root: Path) -> None:
    uploaded = ask(call, f"file://{root}/deep/Fall%207.svs").json()
    assert call("GET", f"/v1/slides/{uploaded['slide']}").json()["name"] == "Fall 7.svs"


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/passwd", "/etc/../etc/passwd", "{root}/../secret.svs", "{root}/out.svs", "{root}/outside/secret.svs"),
        *(
            "{root}",
            "{root}/",
            "{root}x/a.svs",
            "{root}%00.svs",
            "{root}/%2e%2e/secret.svs",
            "relative.svs",
            "",
            "//x/y",
        ),
        *("{root}/in.svs?x", "{root}/in.svs#x", "{root}/%ff.svs"),
    ],
)
def test_nothing_outside_the_roots_is_read(call: Call, settings: Settings, root: Path, path: str) -> None:
    assert is_refused(ask(call, "file://" + path.format(root=root)), 403, "upload.uri-not-allowed")
    assert list((settings.data_dir / "uploads").glob("*/")) == []


@pytest.mark.parametrize("path", ["pipe.svs", "deep", "none.svs"])
def test_special_files_are_refused_without_hanging(call: Call, root: Path, path: str) -> None:
    assert is_refused(ask(call, f"file://{root}/{path}"), 422, "upload.source")


def test_folder_replaced_by_a_link_after_the_check_is_not_followed(
    root: Path, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder is replaced by a link between resolving the path and opening it."""
    from slidelift.service.uploads import sources

    resolved = os.path.realpath

    def then_swap(path: Any) -> str:
        found = resolved(path)
        if found.endswith("Fall 7.svs"):
            (root / "deep").rename(root / "was")
            (root / "deep").symlink_to(tmp_path)
        return found

    (tmp_path / "Fall 7.svs").write_bytes(b"secret")
    monkeypatch.setattr(sources.os.path, "realpath", then_swap)
    with pytest.raises(ServiceError) as error:
        sources.check(f"file://{root}/deep/Fall%207.svs", None, settings)
    assert error.value.problem.code == "upload.source"


@pytest.mark.parametrize(
    "uri",
    [
        "https://example.org/a.svs",
        "s3://bucket/a.svs",
        "http://example.org/a.svs",
        "ftp://x/a",
        "/etc/passwd",
        "x",
        "file:",
    ],
)
def test_other_schemes_are_off_by_default(call: Call, uri: str) -> None:
    assert is_refused(ask(call, uri), 403, "upload.uri-not-allowed")


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"uri": 5}', b'{"uri": "x", "y": 1}', b"\xff", b'{"uri": "\\ud800"}']
)
def test_invalid_json_is_refused(call: Call, body: bytes) -> None:
    answer = call("POST", "/v1/slides", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (403, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


ODD = [
    "https://[",
    "https://[::1",
    "https://a:b/c",
    "https://a:99999/c",
    "file://[x]/y",
    "s3://",
    "https://",
    "https:///x",
]
ODD += ["https://é.\x00/a", "https://" + "a" * 300 + ".org/x", "https://a..b/x", "https://x/ä ö", "file:///%ZZ", "\x00"]


@pytest.mark.parametrize("uri", ODD)
def test_malformed_address_is_refused(call: Call, settings: Settings, uri: str) -> None:
    app = create_app(settings.model_copy(update={"upload_https": True, "upload_s3": False}))
    answer = ask(type(call)(app), uri)
    assert answer.status_code in (403, 422), answer.text
    app.state.context.store.close()


@pytest.mark.parametrize(
    "host",
    [
        *(
            "127.0.0.1",
            "10.1.2.3",
            "192.168.0.1",
            "172.16.9.9",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
        ),
        *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]", "[fe80::1]", "[fc00::1]", "[fd00:ec2::254]"),
        *("[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::127.0.0.1]", "[2001:0:7f00:1::]", "[ff02::1]", "[fec0::1]"),
        *("localhost", "2130706433", "0177.0.0.1", "0x7f.1", "127.1", "0", "localhost.", "LOCALHOST"),
    ],
)
def test_private_address_is_never_connected_to(host: str) -> None:
    with pytest.raises(ServiceError) as error:
        https.check(urlsplit(f"https://{host}/latest/meta-data"))
    assert error.value.problem.code in ("upload.uri-not-allowed", "upload.source")
    if host[0] in "[01":
        assert error.value.problem.code == "upload.uri-not-allowed"


def test_name_with_one_private_address_among_public_ones_is_refused() -> None:
    url = urlsplit("https://rebinding.example/x")
    assert https.check(url, lambda _: ["93.184.215.14"]).address == "93.184.215.14"
    with pytest.raises(ServiceError, match="public"):
        https.check(url, lambda _: ["93.184.215.14", "10.0.0.1"])
    with pytest.raises(ServiceError, match="public"):
        https.check(url, lambda _: ["fe80::1%eth0"])


@pytest.mark.parametrize(
    "url", ["https://h:8443/x", "https://u:p@h/x", "https://u@h/x", "https:///x", "https://h/a b", "https://h/ä"]
)
def test_port_user_and_password_are_refused(url: str) -> None:
    with pytest.raises(ServiceError) as error:
        https.check(urlsplit(url), lambda _: ["93.184.215.14"])
    assert error.value.problem.code == "upload.uri-not-allowed"


@pytest.mark.parametrize("text", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "1.1.1.1"])
def test_public_address_is_allowed(text: str) -> None:
    assert https.is_public(ipaddress.ip_address(text))


class Answers(http.server.BaseHTTPRequestHandler):
    """A server under a host name that cannot be resolved."""

    payload = b""
    received: list[tuple[str, str]]

    def do_GET(self) -> None:
        self.received.append((self.headers["Host"], self.path))
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "https://127.0.0.1/secret")
            self.end_headers()
            return
        size = {"/short": len(self.payload) + 9, "/huge": 2**40}.get(self.path, len(self.payload))
        self.send_response(200 if self.path != "/none" else 404)
        if self.path == "/packed":
            self.send_header("Content-Encoding", "gzip")
        if self.path != "/endless":
            self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.path == "/silent":
            self.rfile.read(1)
        with contextlib.suppress(OSError):
            self.wfile.write(self.payload)
            while self.path == "/endless":
                self.wfile.write(bytes(2**20))

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tiff: bytes) -> Iterator[Callable[[str], https.CheckedHost]]:
    """Makes the result of `https.check` for a server at a local address."""
    authority = trustme.CA()
    secret = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("slides.example").configure_cert(secret)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    handler = type("Handler", (Answers,), {"payload": tiff, "received": []})
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    listening.socket = secret.wrap_socket(listening.socket, server_side=True)
    listening.daemon_threads = True
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()

    def checked(target: str, host: str = "slides.example") -> https.CheckedHost:
        return https.CheckedHost(host, target, "127.0.0.1", listening.server_address[1], trust)

    checked.received = handler.received  # type: ignore[attr-defined]
    yield checked
    listening.shutdown()
    thread.join()
    listening.server_close()


def fetched(app: FastAPI, host: https.CheckedHost) -> Any:
    upload_service: UploadService = app.state.context.upload_service
    writer = upload_service.begin("a.svs", UploadMethod.URI)
    upload_id = writer.upload.id
    with contextlib.suppress(ServiceError):
        upload_service.fetcher.fetch(CheckedSource("a.svs", urlsplit(""), _host=host), writer)
        upload_service.finish(writer).result(20)
    return upload_service.inbox.status(upload_id)


def test_slide_is_fetched_from_the_checked_address_with_the_host_name(app: FastAPI, server: Any, tiff: bytes) -> None:
    seen = fetched(app, server("/a.svs?key=1"))
    assert (seen.state, seen.bytes) == (UploadState.LANDED, len(tiff))
    assert server.received[0][0].startswith("slides.example")
    assert server.received[0][1] == "/a.svs?key=1"


@pytest.mark.parametrize(
    ("path", "code", "reason"),
    [
        ("/moved", "upload.source", "redirects are not followed"),
        ("/none", "upload.source", "answered with status 404"),
        ("/packed", "upload.source", "Content-Encoding"),
        ("/short", "upload.source", ""),
        ("/huge", "upload.too-large", ""),
        ("/endless", "upload.too-large", ""),
    ],
)
def test_failed_fetch_records_its_reason(
    app: FastAPI, settings: Settings, server: Any, path: str, code: str, reason: str
) -> None:
    seen = fetched(app, server(path))
    assert (seen.state, seen.upload.error.code) == (UploadState.FAILED, code)
    assert reason in seen.upload.error.detail
    assert len(server.received) == 1
    assert list((settings.data_dir / "uploads").glob("*/data")) == []


def test_certificate_of_another_name_is_not_trusted(app: FastAPI, server: Any) -> None:
    seen = fetched(app, server("/a.svs", host="other.example"))
    assert (seen.upload.error.code, server.received) == ("upload.source", [])


def test_silent_server_times_out(server: Any) -> None:
    with pytest.raises(TimeoutError), https.get(server("/silent"), timeout_seconds=0.2) as (body, _):
        body.read(1)


def test_fetch_of_a_killed_process_is_recorded_as_failed(app: FastAPI, call: Call) -> None:
    upload_service = app.state.context.upload_service
    writer = upload_service.begin("a.svs", UploadMethod.URI)
    writer.append(b"half")
    upload_id = writer.upload.id
    writer.close()  # the kernel does this when a process dies
    upload_service.delete_expired()
    seen = call("GET", f"/v1/uploads/{upload_id}").json()
    assert (seen["state"], seen["error"]["code"]) == ("failed", "upload.interrupted")
    assert "send the request again" in seen["error"]["detail"]


def test_piece_for_a_failed_fetch_is_refused(app: FastAPI, call: Call) -> None:
    upload_service = app.state.context.upload_service
    writer = upload_service.begin("a.svs", UploadMethod.URI)
    writer.append(b"half")
    writer.close()
    upload_service.delete_expired()  # marks the unfinished upload as failed and removes its bytes
    piece = {"Tus-Resumable": "1.0.0", "Upload-Offset": "4", "Content-Type": "application/offset+octet-stream"}
    answer = call("PATCH", f"/v1/uploads/{writer.upload.id}", headers=piece, content=b"rest")
    assert is_refused(answer, 409, "upload.offset")


def test_running_fetch_can_be_cancelled(app: FastAPI, call: Call, settings: Settings) -> None:
    upload_service = app.state.context.upload_service
    writer = upload_service.begin("a.svs", UploadMethod.URI)
    url = f"/v1/uploads/{writer.upload.id}"
    assert call("DELETE", url).status_code == 204
    assert call("GET", url).status_code == 404
    left, right = socket.socketpair()
    with left, right, contextlib.suppress(ServiceError):
        right.sendall(b"x")
        right.close()
        checked = CheckedSource("a.svs", urlsplit(""), _file=os.dup(left.fileno()))
        upload_service.fetcher.fetch(checked, writer)
    assert list((settings.data_dir / "uploads").glob("*/")) == []
