"""Fixtures that run the command line, the service and QuPath's reader as real processes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SLIDELIFT = [sys.executable, "-m", "slidelift"]


@dataclass
class Done:
    """A finished command; `peak_bytes` is the peak memory of all its processes (PSS), 0 if it was not watched."""

    code: int
    out: str
    err: str
    peak_bytes: int
    seconds: float


def run_command(*arguments: object, timeout: float = 120, cwd: Path | None = None, watch_memory: bool = False) -> Done:
    started = time.monotonic()
    process = subprocess.Popen(
        [*SLIDELIFT, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
    )
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            total = 0
            try:
                for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
                    total += one.memory_full_info().pss
            except psutil.Error:
                continue
            peak = max(peak, total)
            time.sleep(0.05)

    watcher = threading.Thread(target=watch if watch_memory else lambda: None)
    watcher.start()
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        pytest.fail(f"not finished after {timeout:g} s; processes, output and stacks:\n{_hung_state(process)}")
    finally:
        watcher.join()
    return Done(process.returncode, out, err, peak, time.monotonic() - started)


def _hung_state(process: "subprocess.Popen[str]") -> str:
    """End a hung command; return its processes, its output and the stacks of its threads."""
    hung = psutil.Process(process.pid)
    processes = [
        f"{one.pid} {one.status()} {' '.join(one.cmdline())}" for one in [hung, *hung.children(recursive=True)]
    ]
    process.send_signal(signal.SIGABRT)  # faulthandler writes every thread's stack
    out, err = process.communicate()
    return "\n".join([*processes, out, err])


@pytest.fixture(scope="session")
def slidelift() -> Callable[..., Done]:
    return run_command


@pytest.fixture(scope="session")
def qupath_view() -> Callable[[Path], dict[str, Any]]:
    """Read a file's properties with Bio-Formats, which QuPath uses for OME-TIFF."""
    tool = ROOT.parent / "shared" / "tools" / "qupath-view"
    missing = [name for name in ("java", str(tool)) if shutil.which(name) is None]
    if missing:
        reason = f"{', '.join(missing)}: not found, so that QuPath's reader can't be tested"
        if os.environ.get("SLIDELIFT_REQUIRE_DATA"):
            pytest.fail(reason)
        pytest.skip(reason)

    def view(path: Path) -> dict[str, Any]:
        done = subprocess.run([tool, path], capture_output=True, text=True, check=True)
        (line,) = done.stdout.splitlines()
        return json.loads(line)

    return view


class Service:
    """`slidelift serve` as a process, on `port` or a free port."""

    def __init__(self, folder: Path, *flags: str, port: int | None = None, **settings: object) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = port or probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self.log = (folder.parent / f"{folder.name}.log").open("ab")
        others = {name: value for name, value in os.environ.items() if not name.startswith("SLIDELIFT_")}
        settings = {"lease_seconds": 4, "heartbeat_seconds": 0.5, **settings}
        environment = {**others, **{f"SLIDELIFT_{name.upper()}": str(value) for name, value in settings.items()}}
        self.process = subprocess.Popen(
            [*SLIDELIFT, "serve", "--port", str(self.port), "--data-dir", str(folder), *flags],
            env=environment,
            stdout=self.log,
            stderr=self.log,
            stdin=subprocess.DEVNULL,
        )
        self.wait_until("live" if "--no-worker" in flags else "ready")

    def wait_until(self, health: str) -> None:
        deadline = time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen(f"{self.address}/health/{health}"):
                    return
            except OSError:
                assert time.monotonic() < deadline, f"the service did not become {health}"
                assert self.process.poll() is None, "the service ended"
                time.sleep(0.2)

    def curl(self, *arguments: str) -> str:
        done = subprocess.run(
            ["curl", "-sS", *[a.replace("{service}", self.address) for a in arguments]],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def upload(self, slide: Path) -> dict[str, Any]:
        return json.loads(self.curl("-T", str(slide), f"{{service}}/v1/slides/{slide.name}".replace(" ", "%20")))

    def submit(self, **order: Any) -> dict[str, Any]:
        return json.loads(
            self.curl("-H", "Content-Type: application/json", "-d", json.dumps(order), "{service}/v1/jobs")
        )

    def job(self, identity: str) -> dict[str, Any]:
        return json.loads(self.curl(f"{{service}}/v1/jobs/{identity}"))

    def follow(self, identity: str, until: Callable[[dict[str, Any]], bool] | None = None, timeout: float = 200):
        deadline = time.monotonic() + timeout
        while True:
            job = self.job(identity)
            if (until and until(job)) or job["state"] not in {"queued", "running"}:
                return job
            assert time.monotonic() < deadline, f"the job did not end: {job}"
            time.sleep(0.2)

    def descendants(self, word: str) -> list[psutil.Process]:
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if word in process.cmdline():
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)
        self.log.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests of a module that do not stop it. Their slides and jobs are kept."""
    shared = Service(tmp_path_factory.mktemp("service") / "data")
    yield shared
    shared.stop()


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start services that the test may kill or stop."""
    started: list[Service] = []

    def start(folder: Path | None = None, *flags: str, **given: Any) -> Service:
        started.append(Service(folder or tmp_path / "data", *flags, **given))
        return started[-1]

    yield start
    for service in started:
        if service.process.poll() is None:
            service.stop()
        elif not service.log.closed:
            service.log.close()
