"""The service conforms to its OpenAPI document: schemathesis calls every operation with valid and invalid requests.

It also follows the document's links. All checks of schemathesis are on, and two of our own
(`tests/service/contract/hooks.py`). No response may be a 5xx or one that the document does not contain.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """URL of a real API process with a stub probe and a stub worker that brings jobs into every state."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, HERE / "serve_for_tests.py", tmp_path / "data", str(port), "work"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    found = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                httpx.get(f"{found}/health/ready").raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.1)
        yield found
    finally:
        process.terminate()
        process.wait(30)
        assert "Traceback" not in (tmp_path / "log").read_text()


def create_resources(address: str) -> dict[str, list[Any]]:
    """Create slides, jobs, batches and uploads; return their ids."""
    slides = [httpx.put(f"{address}/v1/slides/{n}.svs", content=b"II*\0").json()["id"] for n in range(24)]
    jobs = [httpx.post(f"{address}/v1/jobs", json={"slide": one, "model": "bicubic"}).json()["id"] for one in slides]
    wanted = {"slides": slides[:3], "model": "bicubic"}
    batches = [httpx.post(f"{address}/v1/batches", json=wanted).json()["id"] for _ in range(4)]
    for job in jobs[::5]:
        httpx.post(f"{address}/v1/jobs/{job}/pause")
    begun = {"Tus-Resumable": "1.0.0", "Upload-Length": "8", "Upload-Metadata": "filename YS5zdnM="}
    locations = [httpx.post(f"{address}/v1/uploads", headers=begun).headers["location"] for _ in range(16)]
    uploads = [location.rsplit("/", 1)[1] for location in locations]
    return {"slide": slides, "job": jobs, "batch": batches, "upload": uploads}


def test_responses_conform_to_the_document_without_server_errors(address: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE / "contract"),
        "SCHEMATHESIS_HOOKS": "hooks",
        "SLIDELIFT_CONTRACT_IDS": json.dumps(create_resources(address)),
    }
    command = [Path(sys.executable).with_name("schemathesis"), "--config-file", HERE / "contract" / "schemathesis.toml"]
    examples = os.environ.get("SLIDELIFT_CONTRACT_EXAMPLES", "12")
    run = ["run", f"{address}/openapi.json", "--max-examples", examples, "--no-color"]
    done = subprocess.run([*command, *run], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    operations = len([1 for path in httpx.get(f"{address}/openapi.json").json()["paths"].values() for _ in path])
    assert re.search(rf"Tested: {operations}\b", done.stdout), done.stdout[-3000:]
    cases = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert cases, done.stdout[-3000:]
    assert int(cases[1]) == int(cases[2]) > 500
    answered = httpx.get(f"{address}/metrics").text
    for method, route, status in [
        ("POST", "/v1/jobs", 202),
        ("POST", "/v1/batches", 202),
        ("GET", "/v1/jobs/{job}/result", 200),
        ("GET", "/v1/jobs/{job}/events", 200),
        ("GET", "/v1/events", 200),
        ("GET", "/v1/slides/{slide}.dzi", 200),
        ("POST", "/v1/jobs/{job}/retry", 202),
        ("DELETE", "/v1/slides/{slide}", 204),
        ("DELETE", "/v1/uploads/{upload}", 204),
    ]:
        assert f'slidelift_requests_total{{method="{method}",route="{route}",status="{status}"}}' in answered
