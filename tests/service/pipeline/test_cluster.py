"""Stripes on a Dask cluster of processes: the bytes of one process, also when workers and scheduler are lost."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from slidelift.service.errors import Cancelled, ServiceError
from slidelift.service.pipeline.progress import CancelToken, Progress, Stage
from slidelift.service.pipeline.report import Report
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.pipeline.upscale import upscale

pytest.importorskip("distributed")


IDLE_QUIETLY = {
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "10s",
}
"""Dask without its profiler, which samples a hundred times a second."""


class Machines:
    """A scheduler and workers, each in its own process; all are killed at the end."""

    def __init__(self, folder: Path, **environment: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self._scheme = folder, "tcp"
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "error"}
        self._environment |= IDLE_QUIETLY | environment
        if environment:
            self._scheme = "tls"
        self._stack = ExitStack()
        self.scheduler = self.start_scheduler()

    @property
    def address(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def start_scheduler(self) -> subprocess.Popen[bytes]:
        return self._start("dask_scheduler", "--host", f"{self._scheme}://127.0.0.1", "--port", str(self.port))

    def start_worker(self, *options: str) -> subprocess.Popen[bytes]:
        return self._start("dask_worker", self.address, "--no-nanny", "--nthreads", "1", *options)

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments, "--no-dashboard"]
        log = (self.folder / "cluster.log").open("ab")
        process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log, cwd=self.folder)
        log.close()
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def machines(tmp_path) -> Iterator[Machines]:
    """For a test that kills processes."""
    folder = tmp_path / "machines"
    folder.mkdir()
    started = Machines(folder)
    yield started
    started.close()


@pytest.fixture(scope="module")
def standing(tmp_path_factory) -> Iterator[Machines]:
    """A scheduler and one worker for tests that kill no process."""
    started = Machines(tmp_path_factory.mktemp("standing"))
    started.start_worker()
    yield started
    started.close()


@pytest.fixture(scope="module")
def tall(tmp_path_factory) -> Path:
    """A slide of four stripes, with tissue everywhere."""
    import numpy as np
    import tifffile
    from skimage.data import immunohistochemistry

    picture = immunohistochemistry()
    path = tmp_path_factory.mktemp("tall") / "tall.tiff"
    tifffile.imwrite(path, np.concatenate([picture[:, :200]] * 15), photometric="rgb", tile=(256, 256), metadata=None)
    return path


MODEL = "espcn-x4"


@pytest.fixture(scope="module")
def here(tall, tmp_path_factory) -> Report:
    """The report of one process."""
    return upscale(UpscaleRequest(tall, tmp_path_factory.mktemp("here") / "here.ome.tiff", model=MODEL, mpp=1.0))


@pytest.fixture(scope="module")
def undisturbed(here) -> str:
    """The hash of one process's result."""
    return str(here.output.sha256)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".slidelift")]


def at(tiles: int, action) -> object:
    """A listener that acts once, when so many tiles are done."""
    done = threading.Event()

    def listen(progress: Progress) -> None:
        if progress.stage is Stage.UPSCALING and progress.tiles_done >= tiles and not done.is_set():
            done.set()
            action()

    return listen


def test_cluster_makes_the_bytes_of_one_process(standing, tall, here, undisturbed, tmp_path) -> None:
    for number, options in enumerate([(), (), ("--resources", "GPU=1")]):
        if number:
            standing.start_worker(*options)
        output = tmp_path / f"{number}.ome.tiff"
        report = upscale(UpscaleRequest(tall, output, model=MODEL, mpp=1.0, scheduler=standing.address))
        assert digest(output) == undisturbed
        assert report.model.device == "cpu"
        assert (report.tiles, report.seam) == (here.tiles, here.seam)
    assert leftovers(tmp_path) == []


def test_killed_worker_is_replaced_by_one_that_joins_late(machines, tall, undisturbed, tmp_path) -> None:
    victim = machines.start_worker()
    output = tmp_path / "out.ome.tiff"
    partials: list[str] = []

    def strike() -> None:
        folder = next(tmp_path.glob(".slidelift-*"))
        deadline = time.monotonic() + 60
        while not partials and time.monotonic() < deadline:  # until it is in the middle of one
            partials.extend(path.name for path in folder.glob("stripe-*.part"))
        os.kill(victim.pid, signal.SIGKILL)
        machines.start_worker()

    request = UpscaleRequest(tall, output, model=MODEL, mpp=1.0, scheduler=machines.address)
    report = upscale(request, at(1, strike))
    assert partials
    assert digest(output) == undisturbed
    tiles = report.tiles
    assert tiles.total == tiles.tissue + tiles.rejected + tiles.glass
    assert leftovers(tmp_path) == []


def test_restarted_scheduler_is_used_again(machines, tall, undisturbed, tmp_path) -> None:
    machines.start_worker()
    output = tmp_path / "out.ome.tiff"

    def restart() -> None:
        machines.scheduler.kill()
        machines.scheduler.wait()
        machines.scheduler = machines.start_scheduler()
        machines.start_worker()

    seen: list[Progress] = []
    listen = at(1, restart)
    request = UpscaleRequest(tall, output, model=MODEL, mpp=1.0, scheduler=machines.address)
    upscale(request, lambda progress: (seen.append(progress), listen(progress)))
    assert digest(output) == undisturbed
    assert max(progress.tiles_done for progress in seen) == seen[-1].tiles_total


def test_job_cancelled_on_the_cluster_continues_locally(standing, tall, undisturbed, tmp_path) -> None:
    output, token = tmp_path / "out.ome.tiff", CancelToken()
    with pytest.raises(Cancelled):
        upscale(
            UpscaleRequest(tall, output, model=MODEL, mpp=1.0, scheduler=standing.address), at(1, token.cancel), token
        )
    assert upscale(UpscaleRequest(tall, output, model=MODEL, mpp=1.0)).stripes.resumed >= 1
    assert digest(output) == undisturbed


def test_waiting_for_a_busy_worker_reports_progress(machines, tall, undisturbed, tmp_path, monkeypatch) -> None:
    """The watchdog of `service.worker` ends jobs without progress."""
    from distributed import Client

    from slidelift.service.pipeline import cluster

    monkeypatch.setattr(cluster, "_KEEP_ALIVE_SECONDS", 0.1)
    machines.start_worker()  # the only one
    output, enough, told = tmp_path / "out.ome.tiff", tmp_path / "enough", list[Stage]()

    def until_enough(path: str) -> bool:
        import time
        from pathlib import Path

        for _ in range(200):
            if Path(path).exists():
                return True
            time.sleep(0.1)
        return False

    def listen(progress: Progress) -> None:
        told.append(progress.stage)
        if told.count(Stage.PLANNING) == 4:
            enough.touch()

    with Client(machines.address, set_as_default=False) as client:
        busy = client.submit(until_enough, str(enough), pure=False)
        upscale(UpscaleRequest(tall, output, model=MODEL, mpp=1.0, scheduler=machines.address), listen)
        assert busy.result(timeout=5)
    assert digest(output) == undisturbed


def test_error_of_a_worker_is_raised(standing, data, tmp_path) -> None:
    slide = data / "damaged" / "cmu-bitflip-tiles.svs"
    with pytest.raises(ServiceError) as met:
        upscale(UpscaleRequest(slide, tmp_path / "o.ome.tiff", model=MODEL, scheduler=standing.address))
    assert met.value.problem.code == "slide.tile-unreadable"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "address",
    [
        "tcp://10.0.0.7:8786",
        "tcp://scheduler.example:8786",
        "http://127.0.0.1:8786",
        "tcp://127.0.0.1",
        "x",
        "tcp://127.0.0.1:1/",
        "tcp://127.0.0.1:1@10.0.0.7:8786",
    ],
)
def test_remote_scheduler_without_tls_is_refused(address, tall, tmp_path) -> None:
    with pytest.raises(ServiceError) as met:
        upscale(UpscaleRequest(tall, tmp_path / "o.ome.tiff", model=MODEL, mpp=1.0, scheduler=address))
    assert met.value.problem.code == "cluster.address"
    assert address in met.value.problem.detail


def test_tls_with_the_certificates_of_dasks_configuration(tall, undisturbed, tmp_path) -> None:
    """In a separate process, since Dask reads its configuration from the environment once."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "node.pem")
    environment = {"DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(tmp_path / "ca.pem")}
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        environment[f"DASK_DISTRIBUTED__COMM__TLS__{role}__CERT"] = str(tmp_path / "node.pem")
        environment[f"DASK_DISTRIBUTED__COMM__TLS__{role}__KEY"] = str(tmp_path / "node.pem")
    machines = Machines(tmp_path, **environment)
    try:
        machines.start_worker()
        output = tmp_path / "out.ome.tiff"
        command = [
            sys.executable,
            "-m",
            "slidelift.service.cli",
            "upscale",
            tall,
            output,
            "--model",
            MODEL,
            "--mpp",
            "1",
        ]
        command += ["--scheduler", machines.address]
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert digest(output) == undisturbed
        bare = subprocess.run(command, env=os.environ, capture_output=True, text=True)
        assert bare.returncode == 2
        assert "docs/cluster.md" in bare.stderr
    finally:
        machines.close()


def test_unreachable_cluster_is_an_error_that_keeps_finished_stripes(tall, undisturbed, tmp_path, monkeypatch) -> None:
    from slidelift.service.pipeline import cluster

    monkeypatch.setattr(cluster.ClusterExecutor.__init__, "__defaults__", (0.5,))
    output, token = tmp_path / "out.ome.tiff", CancelToken()
    with pytest.raises(Cancelled):
        upscale(UpscaleRequest(tall, output, model=MODEL, mpp=1.0), at(20, token.cancel), token)
    with pytest.raises(ServiceError) as met:
        upscale(UpscaleRequest(tall, output, model=MODEL, mpp=1.0, scheduler="tcp://127.0.0.1:9"))
    assert met.value.problem.code == "cluster.unreachable"
    assert upscale(UpscaleRequest(tall, output, model=MODEL, mpp=1.0)).stripes.resumed >= 1
    assert digest(output) == undisturbed
