"""Slow sources and hanging probes do not block other uploads."""

import asyncio
import contextlib
import http.server
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import pytest
import trustme
from fastapi import FastAPI
from PIL import Image

from slidelift.service.app import create_app
from slidelift.service.errors import Problem, ServiceError
from slidelift.service.settings import Settings
from slidelift.service.uploads import fetch as fetching
from slidelift.service.uploads import https
from slidelift.service.uploads import upload_service as upload_service_module
from slidelift.service.uploads.fair_executor import FairExecutor, WorkQueue
from slidelift.service.uploads.sources import CheckedSource
from slidelift.service.uploads.upload import UploadMethod, UploadState
from slidelift.service.uploads.upload_service import UploadService

SCRIPT = Path(__file__).with_name("serve_for_tests.py")
SLOW = ["/trickle", "/silent", "/headers", "/chunks", "/handshake"]


class SlowHandler(http.server.BaseHTTPRequestHandler):
    """Sends single bytes slowly, in different parts of the response."""

    payload = b""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with contextlib.suppress(OSError):
            if self.path == "/headers":
                self.send_slowly(b"HTTP/1.1 200 OK\r\nX-Y: " + b"y" * 900)
            self.send_response(200)
            if self.path == "/chunks":
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Content-Length", str(len(self.payload)))
            self.end_headers()
            if self.path == "/trickle":
                self.send_slowly(bytes(900))
            elif self.path == "/chunks":
                self.send_slowly(b"3;" + b"x" * 900)
            elif self.path == "/silent":
                time.sleep(60)
            self.wfile.write(self.payload)

    def send_slowly(self, data: bytes) -> None:
        for one in data:
            self.wfile.write(bytes([one]))
            self.wfile.flush()
            time.sleep(0.2)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def port(authority: trustme.CA, tiff: bytes) -> Iterator[int]:
    secret = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("slides.example").configure_cert(secret)
    handler = type("Handler", (SlowHandler,), {"payload": tiff})
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    listening.socket = secret.wrap_socket(listening.socket, server_side=True)
    listening.daemon_threads, listening.block_on_close = True, False
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield listening.server_address[1]
    listening.shutdown()
    thread.join()
    listening.server_close()


@pytest.fixture
def mute() -> Iterator[int]:
    """A port that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


Source = Callable[[str], CheckedSource]


@pytest.fixture
def source(authority: trustme.CA, port: int, mute: int) -> Source:
    trust = ssl.create_default_context()
    authority.configure_trust(trust)

    def checked(path: str) -> CheckedSource:
        target_port = mute if path == "/handshake" else port
        host = https.CheckedHost("slides.example", path, "127.0.0.1", target_port, trust)
        return CheckedSource("a.svs", urlsplit(""), _host=host)

    return checked


def begin(upload_service: UploadService, source: CheckedSource, owner: str | None = None) -> str:
    writer = upload_service.begin("a.svs", UploadMethod.URI, owner=owner)
    upload_id = writer.upload.id
    upload_service.fetch(source, writer)
    return upload_id


def wait_until(is_so: Callable[[], bool], seconds: float) -> float:
    started = time.monotonic()
    while not is_so():
        assert time.monotonic() - started < seconds
        time.sleep(0.02)
    return time.monotonic() - started


def has_landed(upload_service: UploadService, upload_id: str) -> bool:
    return upload_service.inbox.status(upload_id).state is UploadState.LANDED


def threads(*names: str) -> int:
    return sum(thread.name in names for thread in threading.enumerate())


@pytest.mark.parametrize("path", SLOW)
def test_fetch_from_a_slow_source_ends_when_it_is_deleted(
    app: FastAPI, settings: Settings, source: Source, path: str
) -> None:
    upload_service: UploadService = app.state.context.upload_service
    upload_id = begin(upload_service, source(path))
    time.sleep(0.5)
    upload_service.inbox.cancel(upload_id)
    wait_until(lambda: not (settings.data_dir / "uploads" / upload_id).exists(), 20)
    wait_until(lambda: threads("fetching", "reading") == 0, 20)


@pytest.mark.parametrize("path", SLOW)
def test_fetch_from_a_slow_source_ends_when_the_service_stops(app: FastAPI, source: Source, path: str) -> None:
    upload_service: UploadService = app.state.context.upload_service
    begin(upload_service, source(path))
    time.sleep(0.5)
    upload_service.close()
    wait_until(lambda: threads("fetching", "reading") == 0, 20)


@pytest.mark.parametrize("path", SLOW)
def test_source_below_the_minimum_rate_fails(
    app: FastAPI, source: Source, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "WINDOW_SECONDS", 0.5)
    upload_service: UploadService = app.state.context.upload_service
    upload_id = begin(upload_service, source(path))
    wait_until(lambda: upload_service.inbox.status(upload_id).state is UploadState.FAILED, 20)
    error = upload_service.inbox.status(upload_id).upload.error
    assert error is not None
    assert error.code == "upload.source"
    assert "bytes a second" in error.detail
    wait_until(lambda: threads("fetching", "reading") == 0, 20)


def test_fetch_over_its_time_limit_fails(settings: Settings, facts: Mapping[str, Any], source: Source) -> None:
    app = create_app(settings.model_copy(update={"upload_expiry_seconds": 1}), lambda *_: facts)
    upload_service: UploadService = app.state.context.upload_service
    writer = upload_service.begin("a.svs", UploadMethod.URI)
    started = time.monotonic()
    with pytest.raises(ServiceError, match="longer than"):
        upload_service.fetcher.fetch(source("/trickle"), writer)
    assert time.monotonic() - started < 20
    app.state.context.store.close()


def test_slow_sources_of_one_owner_block_no_other_owner(app: FastAPI, source: Source) -> None:
    upload_service: UploadService = app.state.context.upload_service
    for number in range(30):
        begin(upload_service, source(SLOW[number % len(SLOW)]), "attacker")
    assert threads("fetching") == upload_service_module.MAX_FETCHES_PER_OWNER
    wanted = begin(upload_service, source("/whole"), "honest")
    wait_until(lambda: has_landed(upload_service, wanted), 20)
    upload_service.close()
    wait_until(lambda: threads("fetching", "reading") == 0, 20)


def test_shutdown_does_not_wait_for_sources(tmp_path: Path, authority: trustme.CA, port: int) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    change = f"""
import runpy, ssl, sys
from slidelift.service.uploads import https
trust = ssl.create_default_context(cafile={str(tmp_path / "ca.pem")!r})
https.check = lambda url: https.CheckedHost("slides.example", url.path, "127.0.0.1", {port}, trust)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    with socket.create_server(("127.0.0.1", 0)) as free:
        here = free.getsockname()[1]
    environment = {"PYTHONPATH": str(SCRIPT.parents[2]), "PATH": "/usr/bin:/bin", "SLIDELIFT_UPLOAD_HTTPS": "true"}
    command = [sys.executable, "-c", change, str(SCRIPT), str(tmp_path / "data"), str(here)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
    try:
        url = f"http://127.0.0.1:{here}"
        for _ in range(400):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health/live").status_code == 200:
                    break
            time.sleep(0.05)
        made = []
        for path in ("/trickle", "/headers", "/trickle"):
            answer = httpx.post(f"{url}/v1/slides", json={"uri": f"https://slides.example{path}"}, timeout=30)
            assert answer.status_code == 202, answer.text
            made.append(answer.headers["location"])
        time.sleep(0.5)
        started = time.monotonic()
        assert httpx.delete(url + made[0], timeout=30).status_code == 204
        assert time.monotonic() - started < 20
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -15)
        assert time.monotonic() - started < 20
    finally:
        process.kill()
        process.wait()


def test_unresponsive_name_server_blocks_no_other_request(
    settings: Settings, facts: Mapping[str, Any], tiff: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, resolve = threading.Event(), socket.getaddrinfo

    def tarpit(host: Any, *rest: Any, **more: Any) -> Any:
        if host == "tarpit.example" and not answers.wait(30):
            return []
        return resolve(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", tarpit)
    app = create_app(settings.model_copy(update={"upload_https": True}), lambda *_: facts)

    async def ask() -> None:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=None)
        order = {"uri": "https://tarpit.example/a.svs"}
        tasks = [asyncio.ensure_future(client.post("/v1/slides", json=order)) for _ in range(60)]
        await asyncio.sleep(0.5)
        answer = await asyncio.wait_for(client.put("/v1/slides/a.svs", content=tiff), 10)
        assert answer.status_code == 201
        assert (await asyncio.wait_for(client.get("/v1/slides"), 5)).status_code == 200
        answers.set()
        assert {answer.status_code for answer in await asyncio.gather(*tasks)} <= {403, 422}

    asyncio.run(ask())
    app.state.context.store.close()


class Hangs:
    """A fake probe that hangs for some files, like a decoder that waits for a disk."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.facts, self.ended, self.at_once, self.most = facts, threading.Event(), 0, 0
        self.lock = threading.Lock()

    def __call__(self, slide: Path, name: str, between: Callable[[], None]) -> Mapping[str, Any]:
        with self.lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        try:
            while slide.read_bytes()[4:] == b"hang" and not self.ended.wait(0.05):
                between()
        finally:
            with self.lock:
                self.at_once -= 1
        if slide.read_bytes()[4:] == b"hang":
            raise ServiceError(Problem("slide.unreadable", "it took too long", 422, by_user=True))
        return self.facts


def put_all(app: FastAPI, bodies: list[bytes]) -> "list[asyncio.Task[httpx.Response]]":
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=None)
    return [asyncio.ensure_future(client.put("/v1/slides/a.svs", content=body)) for body in bodies]


@pytest.mark.parametrize("hanging", [1, 2, 4, 9])
def test_hanging_probes_block_no_other_upload(
    settings: Settings, facts: dict[str, Any], monkeypatch: pytest.MonkeyPatch, hanging: int
) -> None:
    monkeypatch.setattr(upload_service_module, "SLOW_AFTER_SECONDS", 0.3)
    probe = Hangs(facts)
    app = create_app(settings, probe)

    async def upload() -> None:
        slow = put_all(app, [b"II*\0hang"] * hanging)
        await asyncio.sleep(0.3)
        good = put_all(app, [b"II*\0"])
        answer = await asyncio.wait_for(good[0], 20)
        assert answer.status_code == 201
        assert not any(one.done() for one in slow)
        probe.ended.set()
        assert [answer.status_code for answer in await asyncio.gather(*slow)] == [422] * hanging

    asyncio.run(upload())
    assert probe.most <= upload_service_module.MAX_FINISHING + upload_service_module.MAX_SLOW
    assert list((settings.data_dir / "uploads").glob("*/")) == []
    app.state.context.store.close()


def test_owners_take_turns() -> None:
    executor, order, go = FairExecutor("test", WorkQueue(1, 1)), list[str](), threading.Event()
    first = executor.submit("a", lambda _: go.wait(10))
    later = [executor.submit("a", lambda _, n=n: order.append(f"a{n}")) for n in range(3)]
    later += [executor.submit("b", lambda _, n=n: order.append(f"b{n}")) for n in range(2)]
    go.set()
    for one in (first, *later):
        one.result(10)
    assert order == ["a0", "b0", "a1", "b1", "a2"]


def test_requeued_work_runs_again_and_gives_one_result() -> None:
    executor, ended, begun = FairExecutor("test", WorkQueue(1, 1), WorkQueue(1, 1), 0.1), threading.Event(), list[int]()

    def slow(check: Callable[[], None]) -> int:
        begun.append(1)
        while not ended.wait(0.02):
            check()
        return len(begun)

    hung = [executor.submit("a", slow) for _ in range(3)]
    assert executor.submit("b", lambda _: "quick").result(5) == "quick"
    ended.set()
    assert all(one.result(5) for one in hung)
    assert len(begun) > 3


def test_waiting_work_is_cancelled_by_close() -> None:
    executor, go = FairExecutor("test", WorkQueue(1, 1)), threading.Event()
    running, waiting = executor.submit(None, lambda _: go.wait(10)), executor.submit(None, lambda _: None)
    executor.close()
    assert waiting.cancelled()
    assert executor.submit(None, lambda _: None).cancelled()
    go.set()
    assert running.result(5)


def probes() -> list[psutil.Process]:
    found = []
    for one in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if one.cmdline()[-2:] == ["slidelift.service.processes.child", "probe"]:
                found.append(one)
    return found


def test_suspended_real_probes_block_no_upload_and_lose_none(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_service_module, "SLOW_AFTER_SECONDS", 2.0)
    Image.fromarray(np.full((300, 300, 3), 200, np.uint8)).save(tmp_path / "a.png")
    body, app = (tmp_path / "a.png").read_bytes(), create_app(settings)

    async def upload() -> None:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=None)
        hung = [asyncio.ensure_future(client.put("/v1/slides/a.png", content=body)) for _ in range(2)]
        while len(stopped := probes()) < 2:
            await asyncio.sleep(0.02)
        for one in stopped:
            one.suspend()
        answer = await asyncio.wait_for(client.put("/v1/slides/b.png", content=body), 60)
        assert (answer.status_code, answer.json()["width"]) == (201, 300)
        assert not any(one.done() for one in hung)
        for one in stopped:
            one.kill()
        assert [one.status_code for one in await asyncio.gather(*hung)] == [201, 201]

    asyncio.run(upload())
    app.state.context.store.close()
