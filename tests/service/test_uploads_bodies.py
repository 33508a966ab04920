"""Request bodies that stall, break off or are refused, over real connections to a real server."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

SCRIPT = Path(__file__).with_name("serve_for_tests.py")
IMPATIENT = "from slidelift.service.api import request_body; request_body.IDLE_SECONDS = 1.0; "
RUN = "import sys, runpy; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
MIB = 2**20
PIECE = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}


class Server:
    """A process of the API with changed settings."""

    def __init__(self, folder: Path, change: str, **environment: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.data, self.log, self.url = folder / "data", folder / "log", f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-c", change + RUN]
        environment = {"PYTHONPATH": str(SCRIPT.parents[2]), "PATH": "/usr/bin:/bin", **environment}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, str(SCRIPT), str(self.data), str(self.port)], env=environment, stdout=log, stderr=log
            )
        for _ in range(400):
            try:
                if httpx.get(f"{self.url}/health/live").status_code == 200:
                    return
            except httpx.TransportError:
                assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError("the service did not start")

    def memory(self, name: str = "VmRSS") -> int:
        """Memory of the process in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{name}:\s+(\d+)", status)[1]) // 1024  # type: ignore[index]

    def connect(self, head: str, body: bytes = b"", **headers: str) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        named = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        connection.sendall(f"{head} HTTP/1.1\r\nHost: localhost\r\n{named}\r\n".encode() + body)
        return connection

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(20) in (0, -15)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("bodies"), IMPATIENT)
    yield made
    made.stop()


def answer(connection: socket.socket) -> bytes:
    """Read the whole response, until it is complete or the connection ends."""
    found = b""
    while b"\r\n\r\n" not in found or len(found.partition(b"\r\n\r\n")[2]) < length(found):
        piece = connection.recv(65536)
        assert piece, found
        found += piece
    return found


def length(found: bytes) -> int:
    return int(re.search(rb"content-length: (\d+)", found.lower())[1])  # type: ignore[index]


JSON = {"Content_Type": "application/json"}


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/batches", "/v1/session", "/v1/slides"])
@pytest.mark.parametrize("begun", [b"", b'{"slide": "'])
def test_stalled_json_body_is_408(server: Server, path: str, begun: bytes) -> None:
    started = time.monotonic()
    with server.connect(f"POST {path}", begun, Content_Length="100", **JSON) as connection:
        response = answer(connection)
    assert response.startswith(b"HTTP/1.1 408 "), response
    assert b"application/problem+json" in response
    assert b'"code":"request.timeout"' in response.replace(b": ", b":")
    assert time.monotonic() - started < 15


def test_json_body_sent_byte_by_byte_is_408(server: Server) -> None:
    started = time.monotonic()
    with server.connect("POST /v1/jobs", b"{", Content_Length="2000", **JSON) as connection:
        connection.settimeout(0.3)
        for _ in range(60):
            connection.sendall(b" ")
            try:
                response = connection.recv(65536)
                break
            except TimeoutError:
                continue
    assert response.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - started < 10


def test_slow_but_steady_body_is_accepted(server: Server) -> None:
    body = b'{"slide": "' + b"0" * 32 + b'", "model": "bicubic"}'
    with server.connect("POST /v1/jobs", body[:10], Content_Length=str(len(body)), **JSON) as connection:
        time.sleep(0.6)
        connection.sendall(body[10:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 404 ")


def test_stalled_upload_gets_an_answer_and_leaves_nothing(server: Server) -> None:
    with server.connect("PUT /v1/slides/a.svs", b"II*\0", Content_Length="100") as connection:
        response = answer(connection)
    assert response.startswith(b"HTTP/1.1 400 ")
    assert b"upload.incomplete" in response
    assert list(server.data.glob("uploads/*/")) == []


REFUSED = {
    "too large by its length": ("PUT", "/v1/slides/a.svs", {}, 413),
    "a part of a file": ("PUT", "/v1/slides/a.svs", {"Content-Range": "bytes 0-1/2"}, 400),
    "no form": ("POST", "/v1/slides", {"Content-Type": "multipart/form-data; boundary=XX"}, 400, 413),
    "too much JSON": ("POST", "/v1/jobs", {"Content-Type": "application/json"}, 413),
    "too much JSON for a fetch": ("POST", "/v1/slides", {"Content-Type": "application/json"}, 413),
    "no such method": ("PUT", "/v1/jobs", {}, 405),
    "no piece": ("PATCH", "/v1/uploads/" + "0" * 32, {"Tus-Resumable": "1.0.0"}, 415),
    "no such upload": ("PATCH", "/v1/uploads/" + "0" * 32, {**PIECE, "Upload-Offset": "0"}, 404),
}
LARGE = 40 * MIB


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Accepts slides up to 10 MiB."""
    less = "from slidelift.service import settings as s; S = s.Settings; "
    less += "s.Settings = lambda **k: S(**{**k, 'max_upload_bytes': 10 * 2**20}); "
    made = Server(tmp_path_factory.mktemp("small"), less)
    yield made
    made.stop()


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.parametrize("how", ["length", "chunked", "expect", "expect chunked", "close", "1.0"])
def test_refusal_in_mid_body_reaches_curl(small: Server, tmp_path: Path, why: str, how: str) -> None:
    method, path, headers, *statuses = REFUSED[why]
    body = tmp_path / "body"
    with body.open("wb") as file:
        file.truncate(LARGE)
    more = {
        "length": ["-H", "Expect:"],
        "chunked": ["-H", "Transfer-Encoding: chunked", "-H", "Expect:"],
        "expect": ["-H", "Expect: 100-continue"],
        "expect chunked": ["-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue"],
        "close": ["-H", "Connection: close", "-H", "Expect:"],
        "1.0": ["--http1.0", "-H", "Expect:"],
    }[how]
    named = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    out = ["-o", str(tmp_path / "response"), "-w", "%{http_code}"]
    command = ["curl", "-sS", "--max-time", "60", "-X", method, "-T", str(body), *named, *more, *out]
    found = subprocess.run([*command, small.url + path], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) in statuses
    assert (tmp_path / "response").read_text().startswith("{")


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.parametrize("headers", [{}, {"Connection": "close"}])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_refusal_in_mid_body_reaches_httpx(small: Server, why: str, headers: dict[str, str], is_chunked: bool) -> None:
    method, path, named, *statuses = REFUSED[why]

    def pieces() -> Iterator[bytes]:
        for _ in range(LARGE // MIB):
            yield bytes(MIB)

    body = pieces() if is_chunked else bytes(LARGE)
    found = httpx.request(method, small.url + path, content=body, headers={**named, **headers}, timeout=60)
    assert found.status_code in statuses
    assert found.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("why", REFUSED)
def test_refusal_in_mid_body_reaches_a_client_that_ends_each_connection(small: Server, why: str) -> None:
    """urllib sends the whole body before it reads; closing the connection at once would reset it."""
    method, path, named, *statuses = REFUSED[why]
    headers = {"Content-Type": "application/octet-stream", **named}
    request = urllib.request.Request(small.url + path, data=bytes(LARGE), method=method, headers=headers)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    with refused.value as found:
        assert found.code in statuses
        assert found.headers["content-type"] == "application/problem+json"


def test_refused_body_is_read_for_a_limited_time(small: Server) -> None:
    started = time.monotonic()
    with small.connect("PUT /v1/slides/a.svs", b"x", Content_Length=str(LARGE)) as connection:
        assert b"413" in answer(connection)[:20]
        assert connection.recv(1) == b""
    assert 3 < time.monotonic() - started < 15


def test_connection_is_reused_after_a_complete_body(small: Server) -> None:
    with httpx.Client(base_url=small.url) as client:
        for _ in range(2):
            assert client.post("/v1/jobs", json={"slide": "0" * 32, "model": "bicubic"}).status_code == 404
        assert client.get("/health/live").headers.get("connection") != "close"


def begin_piece(server: Server, size: int) -> tuple[str, dict[str, str]]:
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(size), "Upload-Metadata": "filename YS5zdnM="}
    made = httpx.post(f"{server.url}/v1/uploads", headers=headers, timeout=60).headers["location"]
    return f"PATCH {made}", {"Upload_Offset": "0", **{name.replace("-", "_"): value for name, value in PIECE.items()}}


def begin_put(server: Server, size: int) -> tuple[str, dict[str, str]]:
    return "PUT /v1/slides/a.svs", {}


def begin_form(server: Server, size: int) -> tuple[str, dict[str, str]]:
    return "POST /v1/slides", {"Content_Type": "multipart/form-data; boundary=XX"}


FORM_HEAD = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.svs"\r\n\r\n'


def test_a_hundred_broken_uploads_leak_no_memory(tmp_path: Path) -> None:
    server = Server(tmp_path, "")
    try:
        before, data = server.memory(), os.urandom(3 * MIB - 1000)
        begins: list[Callable[[Server, int], tuple[str, dict[str, str]]]] = [begin_put, begin_form, begin_piece]
        for begin in begins:
            for _ in range(40):
                head, headers = begin(server, 50 * MIB)
                body = FORM_HEAD + data if begin is begin_form else data
                server.connect(head, body, Content_Length=str(50 * MIB), **headers).close()
        end = time.monotonic() + 30
        while server.memory() > before + 45 and time.monotonic() < end:
            time.sleep(0.5)
        assert server.memory() <= before + 45, (before, server.memory())
    finally:
        server.stop()


def endless_header() -> Iterator[bytes]:
    yield b'--XX\r\nContent-Disposition: form-data; name="file"; filename="'
    for _ in range(200):
        yield b"x" * MIB


def endless_epilogue() -> Iterator[bytes]:
    yield FORM_HEAD + b"II*\0\r\n--XX--\r\n"
    for _ in range(200):
        yield b"x" * MIB


def endless_headers() -> Iterator[bytes]:
    yield b"--XX\r\n"
    for number in range(4000):
        yield b"".join(b"X-%d-%d: %s\r\n" % (number, one, b"y" * 500) for one in range(100))


@pytest.mark.parametrize("body", [endless_header, endless_headers, endless_epilogue])
def test_endless_form_is_refused_early_with_little_memory(small: Server, body: Callable[[], Iterator[bytes]]) -> None:
    started, before = time.monotonic(), small.memory()
    kind = {"Content-Type": "multipart/form-data; boundary=XX"}
    found = httpx.post(f"{small.url}/v1/slides", content=body(), headers=kind, timeout=60)
    assert (found.status_code, found.json()["code"]) == (400, "upload.form")
    assert time.monotonic() - started < 20
    assert small.memory() < before + 40
    assert list(small.data.glob("uploads/*/")) == []
