"""Random kills, many clients at once, a full disk. Figures: docs/reliability.md.

`make test` runs each test briefly; `make soak` runs them long and logs to `reliability-log.jsonl` in RELIABILITY_LOG.
"""

import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from slidelift.service.storage.zip_folder import archive

MODELS = ("bicubic", "compact-x4-fast")
COMPANION_FILES = ("result.report.html", "result.tissue.geojson")
REGIONS = ([700, 700, 400, 2260], [300, 1200, 600, 600])  # two stripes; one stripe


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def log_figures(**figures: Any) -> None:
    """Append a line to the log from which docs/reliability.md is written."""
    if folder := os.environ.get("RELIABILITY_LOG"):
        with (Path(folder) / "reliability-log.jsonl").open("a") as log:
            log.write(json.dumps(figures) + "\n")


def family(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and all its descendants."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


class RetryingClient:
    """A client that repeats a request until the service responds."""

    def __init__(self, address: str) -> None:
        self.client = httpx.Client(base_url=address, timeout=30)
        self.server_errors: list[str] = []

    def __enter__(self) -> "RetryingClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def __call__(self, method: str, url: str, **options: Any) -> httpx.Response:
        deadline = time.monotonic() + 120
        while True:
            try:
                answer = self.client.request(method, url, **options)
                if answer.status_code == 500:
                    self.server_errors.append(answer.text)
                if answer.status_code < 500 or answer.status_code == 507:
                    return answer
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, f"no response to {method} {url}"
            time.sleep(0.1)

    def wait_for_end(self, job_id: str, timeout: float = 300) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while True:
            job = self("GET", f"/v1/jobs/{job_id}", headers={"Prefer": "wait=2"}).json()
            if job["state"] in ("succeeded", "failed", "cancelled"):
                return job
            assert time.monotonic() < deadline, f"the job did not end: {job}"


def submit(call: RetryingClient, slide: str, model: str, region: list[int], key: str) -> str:
    request = {"slide": slide, "model": model, "region": region}
    answer = call("POST", "/v1/jobs", json=request, headers={"Idempotency-Key": key})
    assert answer.status_code in (200, 202), answer.text
    return str(answer.json()["id"])


def expected_hashes(call: RetryingClient, slide: str) -> dict[tuple[str, int], str]:
    """Return the SHA-256 of each request's undisturbed result."""
    jobs = {
        (model, place): submit(call, slide, model, region, f"undisturbed-{model}-{place}")
        for model in MODELS
        for place, region in enumerate(REGIONS)
    }
    return {request: call.wait_for_end(job)["result"]["sha256"] for request, job in jobs.items()}


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_random_kills_lose_no_upload_change_no_byte_and_leave_no_process(
    start_service: Callable[..., Any], retrying_client: Callable[[str], RetryingClient], cmu: Path, kills: int
) -> None:
    draw = random.Random(20261121 + kills)
    service = start_service()
    call = retrying_client(service.address)
    bytes_of_slide = cmu.read_bytes()
    slide = call("PUT", "/v1/slides/cmu.svs", content=bytes_of_slide).json()["id"]
    expected = expected_hashes(call, slide)
    accepted, jobs, killed = [slide], {}, Counter[str]()
    processes = set(family(psutil.Process(service.process.pid)))
    retried, restarts, stop = 0, [], threading.Event()

    def upload_on() -> None:
        """Upload continuously; every upload answered with 201 must exist at the end."""
        with httpx.Client(base_url=service.address, timeout=30) as client:
            while not stop.wait(0.3):
                try:
                    answer = client.put("/v1/slides/again.svs", content=bytes_of_slide)
                except httpx.TransportError:
                    continue
                if answer.status_code == 201:
                    accepted.append(answer.json()["id"])

    uploader = threading.Thread(target=upload_on)
    uploader.start()
    try:
        for number in range(kills):
            while len([one for one in jobs.values() if one is not None]) < number + 3:
                model, place = draw.choice(MODELS), draw.randrange(len(REGIONS))
                key = f"{kills}-{len(jobs)}"
                jobs[key] = (model, place, submit(call, slide, model, REGIONS[place], key))
            time.sleep(draw.uniform(0.2, 2.5))
            processes |= set(family(psutil.Process(service.process.pid)))
            victim = draw.choice(("api", "worker", "decoder"))
            command = {"worker": "worker", "decoder": "slidelift.service.processes.child"}.get(victim)
            candidates = service.descendants(command) if command else [psutil.Process(service.process.pid)]
            if not candidates:
                victim, candidates = "api", [psutil.Process(service.process.pid)]
            before = time.monotonic()
            draw.choice(candidates).kill()
            killed[victim] += 1
            if victim == "api":
                service.process.wait()
                service = start_service(service.folder, port=service.port)
            restarts.append(time.monotonic() - before)
    finally:
        stop.set()
        uploader.join()
    for model, place, job_id in jobs.values():
        job = call.wait_for_end(job_id)
        while job["state"] == "failed" and job["error"]["code"] in ("job.crashed-repeatedly", "slide.crashes-decoder"):
            retried += 1  # killed three times within one stripe
            call("POST", f"/v1/jobs/{job_id}/retry")
            job = call.wait_for_end(job_id)
        assert job["state"] == "succeeded", job
        assert job["result"]["sha256"] == expected[model, place]
        with call.client.stream("GET", job["result"]["href"]) as answer:
            digest = hashlib.sha256()
            for chunk in answer.iter_bytes():
                digest.update(chunk)
        assert digest.hexdigest() == expected[model, place]
    kept = {one["id"] for one in call("GET", "/v1/slides?limit=1000").json()["slides"]}
    assert set(accepted) <= kept
    for one in kept:
        assert sha256(service.folder / "slides" / one / "slide.svs") == hashlib.sha256(bytes_of_slide).hexdigest()
    assert call.server_errors == []
    processes |= set(family(psutil.Process(service.process.pid)))
    service.stop()
    _, alive = psutil.wait_procs(list(processes), timeout=30)
    assert alive == [], "a process outlived the service"
    left = [path for path in (service.folder / "jobs").rglob("*") if path.name.startswith(".slidelift-")]
    assert left == []
    log_figures(
        test="kills",
        kills=dict(killed),
        jobs=len(jobs),
        uploads_accepted=len(accepted),
        retried=retried,
        longest_restart_seconds=round(max(restarts), 1),
    )


@pytest.mark.parametrize("seconds", [10, pytest.param(300, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])])
def test_many_clients_at_once_lose_nothing(
    start_service: Callable[..., Any], retrying_client: Callable[[str], RetryingClient], data: Path, seconds: float
) -> None:
    service = start_service()
    source = (data / "slides" / "cmu-0-small.tiff").read_bytes()
    end, call = time.monotonic() + seconds, retrying_client(service.address)
    tally: Counter[str] = Counter()
    uploads, jobs = {}, []
    peak = 0

    def upload_and_submit(number: int) -> None:
        client = retrying_client(service.address)
        while time.monotonic() < end:
            name = f"{number}-{tally['uploads']}.tiff"
            answer = client("PUT", f"/v1/slides/{name}", content=source)
            assert answer.status_code == 201, answer.text
            uploads[answer.json()["id"]] = name
            tally["uploads"] += 1
            if len(jobs) < seconds:
                jobs.append(submit(client, answer.json()["id"], "nearest", [0, 0, 500, 400], name))
        assert client.server_errors == []

    def poll(_number: int) -> None:
        client, draw = retrying_client(service.address), random.Random(_number)
        while time.monotonic() < end:
            listed = client("GET", "/v1/jobs?limit=5").json()["jobs"]
            for job in listed:
                client("GET", f"/v1/jobs/{job['id']}", headers={"Prefer": f"wait={draw.choice((0, 0, 1))}"})
                tally["polls"] += 1
        assert client.server_errors == []

    def watch() -> None:
        nonlocal peak
        process = psutil.Process(service.process.pid)
        while time.monotonic() < end:
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.2)

    with ThreadPoolExecutor(11) as pool:
        working = [
            *(pool.submit(upload_and_submit, number) for number in range(3)),
            *(pool.submit(poll, number) for number in range(7)),
            pool.submit(watch),
        ]
        for one in working:
            one.result()
    hashes = {call.wait_for_end(job)["result"]["sha256"] for job in jobs}
    assert len(hashes) == 1, "the same request over the same bytes gave another result"
    kept: dict[str, str] = {}
    page = "/v1/slides?limit=100"
    while page:
        listed = call("GET", page).json()
        kept |= {one["id"]: one["name"] for one in listed["slides"]}
        assert {one["sha256"] for one in listed["slides"]} == {hashlib.sha256(source).hexdigest()}
        page = listed["next"]
    assert kept == uploads
    assert len(jobs) == len(set(jobs)) > 0
    assert peak < 200 * 2**20
    log_figures(test="soak", seconds=seconds, jobs=len(jobs), api_peak_mib=round(peak / 2**20), **tally)


@pytest.fixture
def retrying_client() -> Iterator[Callable[[str], RetryingClient]]:
    """Factory of retrying clients."""
    with ExitStack() as stack:
        yield lambda address: stack.enter_context(RetryingClient(address))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 160 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a small file system can't be mounted: {done.stderr}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path, leave_bytes: int) -> Path:
    """Fill the disk except for `leave_bytes`."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(folder).free - leave_bytes))
    return ballast


def temporary_files(data_dir: Path) -> list[str]:
    """Return the unfinished files in a data folder."""
    return [
        str(path.relative_to(data_dir))
        for path in data_dir.rglob("*")
        if path.name == "arriving" or path.suffix in (".part", ".arriving", ".tmp")
    ]


def test_an_upload_that_fills_the_disk_is_507_and_leaves_no_files(
    start_service: Callable[..., Any], retrying_client: Callable[[str], RetryingClient], small_disk: Path, cmu: Path
) -> None:
    service = start_service(small_disk / "data", "--no-worker", disk_reserve_bytes=2**20)
    ballast = fill(small_disk, 2 * 2**20)  # too little for 1.9 MB and the reserve
    content = cmu.read_bytes()
    call = retrying_client(service.address)

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(content), 65536):
            yield content[start : start + 65536]

    for body in (content, chunks()):  # with and without Content-Length
        refused = call("PUT", "/v1/slides/a.svs", content=body)
        assert (refused.status_code, refused.json()["code"]) == (507, "storage.full")
        assert [path for path in (service.folder / "slides").iterdir() if path.name != ".lock"] == []
    ballast.unlink()
    assert call("PUT", "/v1/slides/a.svs", content=content).status_code == 201


IN_TWO_STRIPES = ("--model", "bicubic", "--region", "0,0,900,2300")


@pytest.fixture(scope="module")
def expected(slidelift: Callable[..., Any], cmu: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a command with enough disk space."""
    made = tmp_path_factory.mktemp("expected") / "expected.ome.tiff"
    assert slidelift("upscale", cmu, made, *IN_TWO_STRIPES).code == 0
    return made


@pytest.mark.parametrize(
    ("phase", "room"),
    [("planning", 0.0), ("upscaling", 0.5), ("joining", 1.5)],
)
def test_a_command_on_a_full_disk_fails_in_each_phase_and_continues_with_room(
    slidelift: Callable[..., Any], small_disk: Path, cmu: Path, expected: Path, phase: str, room: float
) -> None:
    """`room` is the free space for stripes and the joined file, relative to the size of the result."""
    ballast = fill(small_disk, int(room * expected.stat().st_size))
    result = small_disk / "result.ome.tiff"
    failed = slidelift("upscale", cmu, result, *IN_TWO_STRIPES)
    assert failed.code == 1, failed.err
    assert "disk is full" in failed.err
    assert not result.exists()
    assert temporary_files(small_disk) == []
    kept = sorted(path.name for path in small_disk.rglob("*.segment"))
    segments = {"planning": [], "upscaling": [], "joining": ["stripe-00000.segment", "stripe-00001.segment"]}
    assert [name for name in kept if name.startswith("stripe")] == segments[phase]
    ballast.unlink()
    done = slidelift("upscale", cmu, result, *IN_TWO_STRIPES)
    assert done.code == 0, done.err
    assert ("continuing" in done.err) == (phase == "joining")
    assert sha256(result) == sha256(expected)
    assert {path.name for path in small_disk.iterdir()} <= {result.name, "result.report.json", *COMPANION_FILES}


@pytest.mark.parametrize(("room", "stages"), [(0.3, {"planning", "upscaling"}), (1.2, {"joining", "verifying"})])
def test_a_job_on_a_full_disk_fails_cleanly_and_is_retried_with_room(
    start_service: Callable[..., Any],
    retrying_client: Callable[[str], RetryingClient],
    small_disk: Path,
    cmu: Path,
    room: float,
    stages: set[str],
) -> None:
    """`room` is the free space above the reserve when the worker starts, relative to the size of the result."""
    reserve = 8 * 2**20  # SQLite's log grows to 4 MiB before it is reused
    settings = {"disk_reserve_bytes": reserve, "heartbeat_seconds": 0.05}
    service = start_service(small_disk / "data", "--no-worker", **settings)
    call = retrying_client(service.address)
    slide = call("PUT", "/v1/slides/a.svs", content=cmu.read_bytes()).json()["id"]

    def job() -> str:
        answer = call("POST", "/v1/jobs", json={"slide": slide, "model": "bicubic", "region": [0, 0, 2200, 2300]})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def work(job_id: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "slidelift", "worker", "--data-dir", str(service.folder)]
        environment = {**os.environ, **{f"SLIDELIFT_{name.upper()}": str(value) for name, value in settings.items()}}
        with (small_disk.parent / "worker.log").open("a") as log:
            worker = subprocess.Popen(command, env=environment, stderr=log)
        try:
            return call.wait_for_end(job_id, 90)
        finally:
            children = family(psutil.Process(worker.pid))
            worker.terminate()
            assert worker.wait(40) == 0
            _, alive = psutil.wait_procs(children, timeout=10)
            assert alive == []

    undisturbed = work(job())
    assert undisturbed["state"] == "succeeded", undisturbed
    assert call("DELETE", f"/v1/jobs/{undisturbed['id']}/result").status_code == 204
    again = job()
    ballast = fill(small_disk, reserve + int(room * undisturbed["result"]["bytes"]))
    failed = work(again)
    assert (failed["state"], (failed["error"] or {}).get("code")) == ("failed", "storage.full"), failed
    assert failed["stage"] in stages
    assert temporary_files(service.folder) == []
    ballast.unlink()
    assert call("POST", f"/v1/jobs/{again}/retry").status_code == 202
    done = work(again)
    assert done["state"] == "succeeded", done
    assert done["result"]["sha256"] == undisturbed["result"]["sha256"]
    assert temporary_files(service.folder) == []


@pytest.mark.soak
def test_an_upload_of_two_gibibytes_needs_little_memory(start_service: Callable[..., Any], tmp_path: Path) -> None:
    service = start_service(None, "--no-worker")
    big = tmp_path / "big.svs"
    with big.open("wb") as file:
        file.truncate(2 * 2**30)
    answer = json.loads(service.curl("-T", str(big), "{service}/v1/slides/big.svs"))
    assert answer["code"] == "slide.unreadable"  # all zeros were received, but they are no slide
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    log_figures(test="2 GiB", api_peak_mib=round(peak_kib / 1024))
    assert peak_kib < 150 * 1024


def test_zip_on_a_full_disk_leaves_only_the_source_folder(small_disk: Path) -> None:
    folder = small_disk / "result.ome.zarr"
    (folder / "0").mkdir(parents=True)
    (folder / "0" / "chunk").write_bytes(os.urandom(4 * 2**20))
    target = small_disk / "result.ome.zarr.zip"
    ballast = fill(small_disk, 2 * 2**20)
    with pytest.raises(OSError) as full:
        archive(folder, target, lambda: None)
    assert full.value.errno == errno.ENOSPC
    assert [path.name for path in small_disk.iterdir() if path != ballast] == ["result.ome.zarr"]
    ballast.unlink()
    archive(folder, target, lambda: None)
    assert target.stat().st_size > 4 * 2**20
