"""The parent's side of the processes that decode."""

import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from slidelift.service.errors import ServiceError
from slidelift.service.processes.child_process import CHILD_MODULE, ChildProcess
from slidelift.service.processes.runner import probe, unpack


class StoppedError(Exception):
    pass


def test_a_probe_is_put_down_in_the_middle_when_the_service_stops(tmp_path: Path) -> None:
    slide = tmp_path / "slide.svs"
    slide.write_bytes(b"II*\0")
    before = {child.pid for child in psutil.Process().children()}
    asked = []

    def between() -> None:
        """Called while the child is still loading its decoders."""
        asked.append({child.pid for child in psutil.Process().children()} - before)
        raise StoppedError

    started = time.monotonic()
    with pytest.raises(StoppedError):
        probe(slide, between=between)
    assert len(asked[0]) == 1
    assert {child.pid for child in psutil.Process().children()} <= before
    assert time.monotonic() - started < 20


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


class Killer(threading.Thread):
    """Sends a signal to each new child of this process, as often as it is told; to a stopped one if need be."""

    def __init__(self, number: int, times: int) -> None:
        super().__init__(daemon=True)
        self.number, self.times, self.killed = number, times, list[int]()
        self.known, self.ended = children(), threading.Event()

    def run(self) -> None:
        while len(self.killed) < self.times and not self.ended.wait(0.01):
            for pid in children() - self.known:
                self.known.add(pid)
                os.kill(pid, self.number)
                self.killed.append(pid)


def whole_slide(folder: Path) -> Path:
    slide = folder / "slide.png"
    Image.fromarray(np.full((300, 300, 3), 200, np.uint8)).save(slide)
    return slide


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_probe_looks_again(tmp_path: Path, number: int) -> None:
    killer = Killer(number, 2)
    killer.start()
    facts = probe(whole_slide(tmp_path))
    assert (facts["width"], len(killer.killed)) == (300, 2)


def test_a_probe_killed_each_time_says_nothing_against_the_file(tmp_path: Path) -> None:
    killer = Killer(signal.SIGKILL, 99)
    killer.start()
    with pytest.raises(ServiceError) as error:
        probe(whole_slide(tmp_path))
    killer.ended.set()
    found = error.value.problem
    assert (found.code, found.status, found.by_user) == ("slide.not-checked", 503, False)
    assert "damaged" not in found.detail
    assert len(killer.killed) == 3


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGXCPU, signal.SIGABRT, signal.SIGBUS])
def test_a_probe_that_dies_by_itself_is_the_files_fault(tmp_path: Path, number: int) -> None:
    killer = Killer(number, 99)
    killer.start()
    with pytest.raises(ServiceError) as error:
        probe(whole_slide(tmp_path))
    killer.ended.set()
    assert (error.value.problem.code, len(killer.killed)) == ("slide.unreadable", 1)


def test_a_killed_unpacking_says_nothing_against_the_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("a.svs", b"II*\0")
    (tmp_path / "out").mkdir()
    killer = Killer(signal.SIGKILL, 1)
    killer.start()
    with pytest.raises(ServiceError) as error:
        unpack(
            *(tmp_path / "a.zip", "zip", tmp_path / "out"),
            name="a.zip",
            most_bytes=1000,
            free_bytes=1000,
            between=lambda: None,
        )
    assert error.value.problem.code == "slide.not-checked"


def test_processor_time_used_up_is_told_from_a_kill_from_outside(tmp_path: Path) -> None:
    """The kernel sends SIGKILL at the hard limit, so that one must lie above the soft one."""
    child = ChildProcess(CHILD_MODULE, "probe")
    try:
        for _ in range(500):
            soft, hard = psutil.Process(child.process.pid).rlimit(psutil.RLIMIT_CPU)
            if soft != psutil.RLIM_INFINITY:
                break
            time.sleep(0.02)
        assert (soft, hard) == (30, 35)
    finally:
        child.kill()
        child.close()


@pytest.mark.parametrize("limit", ["-v 3000000", "-n 100", "-t 20", "-d 3000000", "-f 2000"])
@pytest.mark.parametrize("command", ["info", "upscale"])
def test_limits_below_those_of_the_children_are_kept(tmp_path: Path, write_png, command: str, limit: str) -> None:
    slide = write_png(64, 64)
    asked = [str(slide)]
    asked += [str(tmp_path / "out.ome.tiff"), "--model", "bicubic", "--mpp", "0.5"] if command == "upscale" else []
    shell = [
        "bash",
        "-c",
        f'ulimit {limit}; exec "$@"',
        "-",
        sys.executable,
        "-m",
        "slidelift.service.cli",
        command,
        *asked,
    ]
    done = subprocess.run(shell, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_file_larger_than_its_limit_is_told_in_words(tmp_path: Path, write_png) -> None:
    slide = write_png(400, 400)
    asked = ["upscale", str(slide), str(tmp_path / "out.ome.tiff"), "--model", "bicubic", "--mpp", "0.5"]
    shell = ["bash", "-c", 'ulimit -f 8; exec "$@"', "-", sys.executable, "-m", "slidelift", *asked]
    done = subprocess.run(shell, capture_output=True, text=True)
    assert "larger than its file system takes" in done.stderr
