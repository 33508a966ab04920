"""Uploads to real processes, with the public tus client and curl, broken connections and killed services."""

import base64
import hashlib
import http.server
import io
import json
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tusclient.client import TusClient

SCRIPT = Path(__file__).with_name("serve_for_tests.py")
DOCUMENT = SCRIPT.parents[2] / "docs" / "uploads.md"
TUS = {"Tus-Resumable": "1.0.0"}
PIECE = {**TUS, "Content-Type": "application/offset+octet-stream"}


class Service:
    """An API process that can be killed and restarted; `data_dir` may be shared."""

    def __init__(self, data_dir: Path, log: Path, **environment: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.data_dir, self.log, self.url = data_dir, log, f"http://127.0.0.1:{self.port}"
        self.environment = {"PYTHONPATH": str(SCRIPT.parents[2]), "PATH": "/usr/bin:/bin", **environment}
        self.start()

    def start(self) -> None:
        command = [sys.executable, str(SCRIPT), str(self.data_dir), str(self.port)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log, env=self.environment)
        for _ in range(400):
            try:
                if httpx.get(f"{self.url}/health/live").status_code == 200:
                    return
            except httpx.TransportError:
                assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError("the service did not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(20) in (0, -9, -15)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service for tests that do not kill it."""
    folder = tmp_path_factory.mktemp("shared")
    service = Service(folder / "data", folder / "log")
    yield service
    service.stop()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service for a test that kills it."""
    made = Service(tmp_path / "data", tmp_path / "log")
    yield made
    made.stop()


def begin(service: Service, total: int, name: str = "Patient 7.svs") -> str:
    named = {"Upload-Metadata": f"filename {base64.b64encode(name.encode()).decode()}"}
    answer = httpx.post(f"{service.url}/v1/uploads", headers={**TUS, "Upload-Length": str(total), **named})
    assert answer.status_code == 201, answer.text
    return str(answer.headers["location"])


def offset(service: Service, upload: str) -> int:
    return int(httpx.head(service.url + upload, headers=TUS).headers["upload-offset"])


def settled_offset(service: Service, upload: str) -> int:
    """The offset after the service has noticed the broken connection."""
    for _ in range(500):
        at = offset(service, upload)
        if patch(service, upload, at, b"").status_code == 204:
            return at
        time.sleep(0.01)
    raise AssertionError("the upload stays locked")


def patch(service: Service, upload: str, at: int, data: bytes) -> httpx.Response:
    return httpx.patch(service.url + upload, content=data, headers={**PIECE, "Upload-Offset": str(at)}, timeout=60)


def connect(service: Service, upload: str, at: int, size: int) -> socket.socket:
    """A connection with a started PATCH request."""
    connection = socket.create_connection(("127.0.0.1", service.port))
    head = [f"PATCH {upload} HTTP/1.1", "Host: localhost", f"Upload-Offset: {at}", f"Content-Length: {size}"]
    head += [f"{name}: {value}" for name, value in PIECE.items()]
    connection.sendall("\r\n".join([*head, "", ""]).encode())
    return connection


def wait_for_bytes(service: Service, upload: str, wanted: int) -> None:
    data = service.data_dir / "uploads" / upload.rpartition("/")[2] / "data"
    for _ in range(1000):
        if data.stat().st_size >= wanted:
            return
        time.sleep(0.01)
    raise AssertionError(f"{data.stat().st_size} of {wanted} bytes arrived")


def slide_bytes(service: Service, slide: str) -> bytes:
    return (service.data_dir / "slides" / slide / "slide.svs").read_bytes()


def curl(*arguments: str | Path) -> Any:
    command = ["curl", "--silent", "--show-error", "--max-time", "60", *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("checksum", [False, True])
def test_public_tus_client_uploads_and_resumes(shared: Service, checksum: bool) -> None:
    data = random.Random(1).randbytes(3 * 2**20 + 17)
    client = TusClient(f"{shared.url}/v1/uploads")
    made = {"metadata": {"filename": "a.svs"}, "upload_checksum": checksum, "chunk_size": 10**6}
    first = client.uploader(file_stream=io.BytesIO(data), **made)
    first.upload(stop_at=2 * 10**6)
    again = client.uploader(file_stream=io.BytesIO(data), url=first.url, **made)
    assert again.offset == 2 * 10**6
    again.upload()
    seen = httpx.get(first.url).json()
    assert (seen["state"], seen["bytes"]) == ("landed", len(data))
    assert slide_bytes(shared, seen["slide"]) == data


@pytest.mark.parametrize("seed", [1, 2])
def test_upload_interrupted_at_random_offsets_gives_the_same_slide(shared: Service, seed: int) -> None:
    chance = random.Random(seed)
    data = chance.randbytes(4 * 2**20)
    upload, cuts, at = begin(shared, len(data)), 0, 0
    while len(data) - at > 2**20:
        piece = data[at : at + chance.randrange(1, 2**20)]
        with connect(shared, upload, at, len(data) - at) as connection:
            connection.sendall(piece)
            if chance.random() < 0.5:  # a reset instead of a normal close, which discards buffered bytes
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        cuts += 1
        before, at = at, settled_offset(shared, upload)
        assert before <= at <= before + len(piece)
    assert cuts > 3
    slide = patch(shared, upload, at, data[at:]).headers["slide-id"]
    assert slide_bytes(shared, slide) == data
    facts = httpx.get(f"{shared.url}/v1/slides/{slide}").json()
    assert facts["sha256"] == hashlib.sha256(data).hexdigest()


def test_killed_service_keeps_acknowledged_bytes(service: Service) -> None:
    chance = random.Random(5)
    data = chance.randbytes(6 * 2**20)
    upload = begin(service, len(data))
    acknowledged = 2**20
    assert patch(service, upload, 0, data[:acknowledged]).status_code == 204
    with connect(service, upload, acknowledged, len(data) - acknowledged) as connection:
        connection.sendall(data[acknowledged : 4 * 2**20 + 5])
        wait_for_bytes(service, upload, acknowledged + 2**20)
        service.kill()
    service.start()
    at = offset(service, upload)
    assert acknowledged + 2**20 <= at <= 4 * 2**20 + 5
    slide = patch(service, upload, at, data[at:]).headers["slide-id"]
    assert slide_bytes(service, slide) == data


def test_two_processes_share_one_folder(service: Service, tmp_path: Path) -> None:
    other = Service(service.data_dir, tmp_path / "other log")
    try:
        data = random.Random(6).randbytes(3 * 2**20)
        upload = begin(service, len(data))
        with connect(service, upload, 0, len(data)) as connection:
            connection.sendall(data[: 2 * 2**20])
            wait_for_bytes(service, upload, 2**20)
            assert patch(other, upload, offset(other, upload), b"x").status_code == 423
            assert httpx.delete(other.url + upload, headers=TUS).status_code == 423
        at = settled_offset(other, upload)
        answer = patch(other, upload, at, data[at:])
        assert slide_bytes(other, answer.headers["slide-id"]) == data
        assert httpx.get(service.url + upload).json()["state"] == "landed"
    finally:
        other.stop()


def test_piece_of_300_megabytes_is_not_held_in_memory(service: Service, tmp_path: Path) -> None:
    slide, size = tmp_path / "big.svs", 300 * 2**20
    with slide.open("wb") as file:
        file.truncate(size)
    upload = begin(service, size)
    headers = [part for name, value in {**PIECE, "Upload-Offset": "0"}.items() for part in ("-H", f"{name}: {value}")]
    command = ["curl", "--silent", "--fail", "-X", "PATCH", "-T", str(slide), *headers, service.url + upload]
    subprocess.run(command, check=True, timeout=60)
    seen = httpx.get(service.url + upload).json()
    assert (seen["state"], seen["bytes"]) == ("landed", size)
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak_kib < 150 * 1024


def test_form_and_bare_file_by_curl_are_the_same_slide(shared: Service, tmp_path: Path) -> None:
    slide = tmp_path / 'Patient "7".svs'
    slide.write_bytes(random.Random(8).randbytes(5 * 2**20))
    form = curl("-F", f'file=@"{tmp_path}/Patient \\"7\\".svs"', f"{shared.url}/v1/slides")
    bare = curl("-T", slide, f"{shared.url}/v1/slides/Patient%207.svs")
    assert (form["sha256"], form["bytes"]) == (bare["sha256"], bare["bytes"])
    assert slide_bytes(shared, form["id"]) == slide.read_bytes()
    assert "Patient" not in shared.log.read_text()


def test_documented_script_resumes_after_the_service_was_killed(service: Service, tmp_path: Path) -> None:
    script = re.search(r"```sh\n(#!/bin/sh\n.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    assert script
    (tmp_path / "upload.sh").write_text(script[1])
    data = random.Random(9).randbytes(48 * 2**20)
    slide = tmp_path / "Fall 7 é.svs"
    slide.write_bytes(data)
    with subprocess.Popen(
        ["sh", "upload.sh", slide, service.url], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as running:
        while not list((service.data_dir / "uploads").glob("*/data")):
            time.sleep(0.005)
        upload = next((service.data_dir / "uploads").glob("*/data"))
        while upload.stat().st_size < 2**20:
            time.sleep(0.001)
        service.kill()
        half = upload.stat().st_size
        service.start()
        uploaded = json.loads(running.communicate(timeout=60)[0])
    assert 0 < half < len(data)
    assert (uploaded["state"], uploaded["bytes"]) == ("landed", len(data))
    assert slide_bytes(service, uploaded["slide"]) == data
    assert httpx.get(f"{service.url}/v1/slides/{uploaded['slide']}").json()["name"] == "Fall 7 é.svs"
    assert not Path(f"{slide}.upload").exists()


class Bucket(http.server.BaseHTTPRequestHandler):
    """A minimal object store for reading one object."""

    payload = b""
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(b"")

    def do_GET(self) -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        self.answer(self.payload[int(found[1]) : int(found[2]) + 1] if found else self.payload, 206 if found else 200)

    def answer(self, body: bytes, status: int = 200) -> None:
        known = self.path.partition("?")[0] == "/scans/case%207.svs"
        self.send_response(status if known else 404)
        self.send_header("Content-Length", str(len(body or self.payload) if known else 0))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        self.end_headers()
        self.wfile.write(body if known else b"")

    def log_message(self, *_: Any) -> None:
        pass


def test_object_of_a_bucket_becomes_a_slide(tmp_path: Path) -> None:
    data = random.Random(10).randbytes(7 * 2**20)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Bucket,), {"payload": data})) as bucket:
        threading.Thread(target=bucket.serve_forever, kwargs={"poll_interval": 0.05}).start()
        store = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{bucket.server_address[1]}",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "eu-central-1",
        }
        service = Service(tmp_path / "data", tmp_path / "log", SLIDELIFT_UPLOAD_S3="true", **store)
        try:
            seen = {}
            for key in ("case 7.svs", "other.svs"):
                order = {"uri": f"s3://scans/{key}", "name": "a.svs"}
                answer = httpx.post(f"{service.url}/v1/slides", json=order, headers={"Prefer": "wait=30"}, timeout=60)
                assert answer.status_code == 202, answer.text
                seen[key] = answer.json()
            assert (seen["case 7.svs"]["state"], seen["other.svs"]["state"]) == ("landed", "failed")
            assert seen["other.svs"]["error"]["code"] == "upload.source"
            assert slide_bytes(service, seen["case 7.svs"]["slide"]) == data
        finally:
            service.stop()
            bucket.shutdown()
