"""Real processes: the command line, the service, QuPath's reader."""

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
    """A finished command; where it was watched, the peak of its memory (all processes, proportional set size)."""

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
        pytest.fail(f"no end after {timeout:g} s; where it stood:\n{_where_it_stands(process)}")
    finally:
        watcher.join()
    return Done(process.returncode, out, err, peak, time.monotonic() - started)


def _where_it_stands(process: "subprocess.Popen[str]") -> str:
    """End a hung command and its children, and tell each process's last words and the command's stacks."""
    hung = psutil.Process(process.pid)
    words = [f"{one.pid} {one.status()} {' '.join(one.cmdline())}" for one in [hung, *hung.children(recursive=True)]]
    process.send_signal(signal.SIGABRT)  # faulthandler writes every thread's stack
    out, err = process.communicate()
    return "\n".join([*words, out, err])


@pytest.fixture(scope="session")
def slidelift() -> Callable[..., Done]:
    return run_command


@pytest.fixture(scope="session")
def qupath_view() -> Callable[[Path], dict[str, Any]]:
    """What Bio-Formats, with which QuPath reads OME-TIFF, sees of a file."""
    tool = ROOT.parent / "shared" / "tools" / "qupath-view"
    missing = [name for name in ("java", str(tool)) if shutil.which(name) is None]
    if missing:
        reason = f"{', '.join(missing)}: not there, so QuPath's own reader can't be asked"
        if os.environ.get("SLIDELIFT_REQUIRE_DATA"):
            pytest.fail(reason)
        pytest.skip(reason)

    def view(path: Path) -> dict[str, Any]:
        done = subprocess.run([tool, path], capture_output=True, text=True, check=True)
        (line,) = done.stdout.splitlines()
        return json.loads(line)

    return view


class Service:
    """`slidelift serve` in a process of its own, on a free port unless it is given one."""

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
                assert time.monotonic() < deadline, f"the service did not get {health}"
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

    def submit(self, **asked: Any) -> dict[str, Any]:
        return json.loads(
            self.curl("-H", "Content-Type: application/json", "-d", json.dumps(asked), "{service}/v1/jobs")
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
    """One service for all tests that leave it as it was; its slides and jobs add up, its worker stays warm."""
    shared = Service(tmp_path_factory.mktemp("service") / "data")
    yield shared
    shared.stop()


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Services of the test's own, to be killed or stopped."""
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
