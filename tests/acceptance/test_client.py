"""The client and its commands with the real service: upload, submit, follow and fetch, also after kills."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from slidelift.service.client import Client

REGION = "600,900,600,500"
OPTIONS = ("--model", "bicubic", "--region", REGION)


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def slide(cmu: Path, tmp_path: Path) -> Path:
    path = tmp_path / "Fall Größe 7.svs"
    path.write_bytes(cmu.read_bytes())
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_submit_with_out_downloads_results_and_continues_after_a_failing_slide(
    service, slidelift, slide, data, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("SLIDELIFT_SERVICE", service.address)
    damaged = data / "damaged" / "text.svs"
    out = tmp_path / "results – neu"
    done = slidelift("submit", damaged, slide, *OPTIONS, "--quality", 80, "--on-bad-tile", "mark", "--out", out)
    assert done.code == 2, done.err
    assert "text.svs" in done.err
    (job_id,) = done.out.split()
    result = out / "Fall Größe 7.ome.tiff"
    job = service.job(job_id)
    assert (job["region"], job["quality"], job["on_bad_tile"]) == ([600, 900, 600, 500], 80, "mark")
    assert sha256(result) == job["result"]["sha256"]
    report = json.loads((out / "Fall Größe 7.report.json").read_text("utf-8"))
    assert report["output"]["width"] == 2400
    names = ("ome.tiff", "report.html", "report.json", "tissue.geojson")
    assert sorted(path.name for path in out.iterdir()) == [f"Fall Größe 7.{name}" for name in names]
    assert "data:image" in (out / "Fall Größe 7.report.html").read_text("utf-8")
    assert json.loads((out / "Fall Größe 7.tissue.geojson").read_text("utf-8"))["type"] == "FeatureCollection"

    again = slidelift("submit", slide, *OPTIONS, "--out", out)
    assert (again.code, again.out) == (2, "")
    assert "already exists" in again.err


def test_output_of_submit_status_and_fetch(service, slidelift, slide, tmp_path) -> None:
    here = ("--service", service.address)
    submitted = slidelift("submit", slide, *OPTIONS, "--format", "ome-zarr", *here)
    assert submitted.code == 0, submitted.err
    (job_id,) = submitted.out.split()
    followed = slidelift("status", job_id, "--follow", *here)
    assert followed.code == 0, followed.err
    head, row = followed.out.splitlines()
    assert head.split() == ["job", "state", "tiles", "tiles/s", "left", "slide", "error"]
    assert row.split()[:2] == [job_id, "succeeded"]
    assert re.fullmatch(r"(\d+)/\1", row.split()[2])
    (job,) = json.loads(slidelift("status", job_id, "--json", *here).out)
    assert (job["id"], job["state"], job["region"]) == (job_id, "succeeded", [600, 900, 600, 500])
    fetched = slidelift("fetch", job_id, "--report", *here, cwd=tmp_path)
    assert (fetched.code, fetched.out) == (0, f"{job_id}.ome.zarr.zip\n"), fetched.err
    assert sha256(tmp_path / f"{job_id}.ome.zarr.zip") == job["result"]["sha256"]
    assert json.loads((tmp_path / f"{job_id}.report.json").read_text("utf-8"))["seconds"] > 0
    assert slidelift("fetch", job_id, *here, cwd=tmp_path).code == 2
    unknown = slidelift("fetch", "0" * 32, *here, cwd=tmp_path)
    assert (unknown.code, "no such id" in unknown.err) == (2, True)
    assert job_id in slidelift("status", "--state", "succeeded", "--limit", 500, *here).out


def test_a_failed_job_gives_the_exit_code_of_its_problem(service, slidelift, data) -> None:
    slide = data / "damaged" / "cmu-bitflip-tiles.svs"
    done = slidelift(
        *("submit", slide, "--model", "bicubic", "--region", "768,1024,512,512", "--wait", "--json"),
        *("--service", service.address),
    )
    (job,) = json.loads(done.out)
    assert (done.code, job["error"]["code"]) == (2, "slide.tile-unreadable")
    assert "x " in done.err
    refused = slidelift("submit", slide, "--level", 7, "--service", service.address)
    assert (refused.code, refused.out) == (2, "")
    assert "level 7" in refused.err


def test_an_unreachable_service_exits_with_1_within_15_seconds(slidelift, tmp_path) -> None:
    done = slidelift("status", "--service", "http://127.0.0.1:9")
    assert (done.code, "does not answer" in done.err) == (1, True)
    assert done.seconds < 15
    assert slidelift("status", "--service", "localhost:8000").code == 2


def test_a_token_file_must_be_private(service, slidelift, tmp_path) -> None:
    token = tmp_path / "token"
    token.write_text("slidelift_secret\n")
    token.chmod(0o644)
    done = slidelift("status", "--token-file", token, "--service", service.address)
    assert (done.code, "chmod 600" in done.err) == (2, True)
    assert "slidelift_secret" not in done.err
    token.chmod(0o600)
    assert slidelift("status", "--token-file", token, "--service", service.address).code == 0
    assert slidelift("status", "--token-file", tmp_path / "none", "--service", service.address).code == 2


def test_ctrl_c_while_waiting_keeps_the_job_and_prints_how_to_return(service, slide) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "slidelift", "submit", slide, "--model", "compact-x4", "--wait"],
        env={**os.environ, "SLIDELIFT_SERVICE": service.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    assert process.stdout is not None
    job_id = process.stdout.readline().strip()
    service.follow(job_id, lambda job: job["state"] == "running")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=40)
    assert process.returncode == 130
    assert f"slidelift status --follow {job_id}" in err
    assert service.job(job_id)["state"] == "running"
    with Client(service.address) as client:
        client.cancel(job_id)
        assert client.follow(job_id).state == "cancelled"


def test_a_job_survives_kill_9_of_the_service_with_the_same_bytes(start_service, slide, tmp_path) -> None:
    service = start_service()
    with Client(service.address, retry_seconds=60, state_folder=tmp_path / "state") as client:
        slide_id = client.upload(slide).id
        job = client.submit(slide_id, model="bicubic", region=(600, 0, 700, 2300))

        def disturb() -> None:
            service.follow(job.id, lambda job: job["state"] == "running")
            service.process.kill()
            service.process.wait()
            time.sleep(1)
            again.append(start_service(service.folder, port=service.port))

        again: list[object] = []
        disturber = threading.Thread(target=disturb)
        disturber.start()
        ended = client.follow(job.id)
        disturber.join()
        assert (ended.state, len(again)) == ("succeeded", 1), ended.error
        assert ended.result is not None
        result = client.download(job.id, tmp_path / "result.ome.tiff")
        assert sha256(result) == ended.result.sha256
