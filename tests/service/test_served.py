"""The API as a real process, called by curl."""

import hashlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from slidelift.service.jobs.job import JobState, Outcome, Result
from slidelift.service.jobs.sql_store import SqlStore
from slidelift.service.jobs.sqlite import Sqlite

SCRIPT = Path(__file__).with_name("serve_for_tests.py")
PIXELS = bytes(range(256)) * 4096


@dataclass(frozen=True)
class Served:
    url: str
    data_dir: Path
    process: "subprocess.Popen[str]"
    log: Path


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = tmp_path / "log"
    with log.open("w") as errors:
        command = [sys.executable, SCRIPT, tmp_path / "data", str(port)]
        environment = {"PYTHONPATH": str(SCRIPT.parents[2]), "PATH": "/usr/bin:/bin"}
        process = subprocess.Popen(command, stderr=errors, stdout=errors, text=True, env=environment)
    served = Served(f"http://127.0.0.1:{port}", tmp_path / "data", process, log)
    try:
        _wait_until_live(served)
        yield served
    finally:
        process.terminate()
        assert process.wait(20) in (0, -9, -15)


def _wait_until_live(served: Served) -> None:
    for _ in range(300):
        try:
            if httpx.get(f"{served.url}/health/live").status_code == 200:
                return
        except httpx.TransportError:
            assert served.process.poll() is None, served.log.read_text()
        time.sleep(0.05)
    raise AssertionError("the service did not start")


def curl(*arguments: str | Path) -> str:
    command = ["curl", "--silent", "--show-error", "--max-time", "60", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def leftovers(served: Served) -> list[Path]:
    folders = [served.data_dir / "slides", served.data_dir / "uploads"]
    return [path for folder in folders for path in folder.iterdir() if path.name != ".lock"]


def test_upload_job_and_download_with_curl(served: Served, tmp_path: Path) -> None:
    slide = tmp_path / "Patient 7.svs"
    slide.write_bytes(PIXELS)
    uploaded = json.loads(curl("-T", slide, f"{served.url}/v1/slides/"))
    assert (uploaded["name"], uploaded["bytes"]) == ("Patient 7.svs", len(PIXELS))
    assert uploaded["sha256"] == hashlib.sha256(PIXELS).hexdigest()
    order = json.dumps({"slide": uploaded["id"], "model": "bicubic"})
    job = json.loads(curl("-H", "Content-Type: application/json", "-d", order, f"{served.url}/v1/jobs"))
    assert job["state"] == "queued"
    store = SqlStore(Sqlite(served.data_dir / "slidelift.sqlite3"))
    claimed = store.claim("w")
    assert claimed is not None
    folder = served.data_dir / "jobs" / job["id"] / "attempt-1"
    folder.mkdir(parents=True)
    (folder / "result.ome.tiff").write_bytes(PIXELS)
    result = Result("result.ome.tiff", len(PIXELS), uploaded["sha256"])
    store.settle(job["id"], 1, Outcome(JobState.SUCCEEDED, result=result))
    store.close()
    href = served.url + json.loads(curl(f"{served.url}/v1/jobs/{job['id']}"))["result"]["href"]
    head = curl("--head", href).lower()
    assert "200 ok" in head
    assert f"content-length: {len(PIXELS)}" in head
    assert "accept-ranges: bytes" in head
    half = tmp_path / "down.ome.tiff"
    half.write_bytes(PIXELS[:1000])
    curl("-C", "-", "-o", half, href)
    assert half.read_bytes() == PIXELS
    beyond = curl("-i", "-r", "99999999-", href)
    assert "416" in beyond.splitlines()[0]
    assert "application/problem+json" in beyond
    assert "Patient" not in served.log.read_text()


def test_curls_continued_upload_is_refused_and_leaves_no_files(served: Served, tmp_path: Path) -> None:
    slide = tmp_path / "a.svs"
    slide.write_bytes(PIXELS)
    answer = curl("-C", "400", "-T", slide, f"{served.url}/v1/slides/a.svs")
    assert json.loads(answer)["code"] == "upload.content-range"
    assert leftovers(served) == []


def test_broken_connection_leaves_no_files(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"PUT /v1/slides/a.svs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n" + PIXELS
        )
        for _ in range(100):
            if leftovers(served):
                break
            time.sleep(0.02)
        assert leftovers(served)
    for _ in range(200):
        if not leftovers(served):
            break
        time.sleep(0.02)
    assert leftovers(served) == []


def test_upload_of_300_megabytes_uses_little_memory(served: Served, tmp_path: Path) -> None:
    slide = tmp_path / "big.svs"
    with slide.open("wb") as file:
        file.truncate(300 * 2**20)
    answer = json.loads(curl("-T", slide, f"{served.url}/v1/slides/big.svs"))
    assert answer["bytes"] == 300 * 2**20
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak_kib < 150 * 1024
    assert psutil.Process(served.process.pid).children() == []


def test_killed_server_loses_only_the_unfinished_upload(served: Served, tmp_path: Path) -> None:
    slide = tmp_path / "a.svs"
    slide.write_bytes(PIXELS)
    kept = json.loads(curl("-T", slide, f"{served.url}/v1/slides/a.svs"))["id"]
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"PUT /v1/slides/b.svs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n" + PIXELS
        )
        while len(leftovers(served)) < 2:
            time.sleep(0.02)
        served.process.kill()
        served.process.wait()
    command = [sys.executable, SCRIPT, served.data_dir, port]
    environment = {"PYTHONPATH": str(SCRIPT.parents[2]), "PATH": "/usr/bin:/bin"}
    with served.log.open("a") as errors, subprocess.Popen(command, stderr=errors, env=environment) as again:
        try:
            _wait_until_live(Served(served.url, served.data_dir, again, served.log))  # type: ignore[arg-type]
            assert [path.name for path in leftovers(served)] == [kept]
            assert json.loads(curl(f"{served.url}/v1/slides"))["slides"][0]["id"] == kept
        finally:
            again.terminate()
            again.wait(20)


def test_shutdown_releases_requests_that_wait_for_a_job(served: Served, tmp_path: Path) -> None:
    slide = tmp_path / "a.svs"
    slide.write_bytes(PIXELS)
    uploaded = json.loads(curl("-T", slide, f"{served.url}/v1/slides/a.svs"))
    order = json.dumps({"slide": uploaded["id"], "model": "bicubic"})
    job = json.loads(curl("-H", "Content-Type: application/json", "-d", order, f"{served.url}/v1/jobs"))
    address = f"{served.url}/v1/jobs/{job['id']}"
    waiting = [
        subprocess.Popen(["curl", "-sS", "-N", *arguments], stdout=subprocess.PIPE, text=True)
        for arguments in (["-H", "Prefer: wait=60", address], [f"{address}/events"])
    ]
    time.sleep(1)
    started = time.monotonic()
    served.process.terminate()
    assert served.process.wait(20) in (0, -15)
    assert time.monotonic() - started < 5
    answer, stream = (one.communicate(timeout=5)[0] for one in waiting)
    assert json.loads(answer)["state"] == "queued"
    assert "event: job" in stream
    assert [one.returncode for one in waiting] == [0, 0]
