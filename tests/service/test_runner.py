"""Runner, probe and unpack: children that hang, crash, are killed, or send malformed messages."""

import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from slidelift.service.errors import Cancelled, ServiceError
from slidelift.service.pipeline.progress import CancelToken
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.processes.child_process import CHILD_MODULE, ChildProcess
from slidelift.service.processes.protocol import Failed, Probed, ProbeSlide
from slidelift.service.processes.runner import Runner, probe, unpack


class StoppedError(Exception):
    pass


def test_running_probe_is_ended_when_the_service_stops(tmp_path: Path) -> None:
    slide = tmp_path / "slide.svs"
    slide.write_bytes(b"II*\0")
    before = {child.pid for child in psutil.Process().children()}
    seen_children = []

    def stop() -> None:
        """Called while the child is loading its decoders."""
        seen_children.append({child.pid for child in psutil.Process().children()} - before)
        raise StoppedError

    started = time.monotonic()
    with pytest.raises(StoppedError):
        probe(slide, between=stop)
    assert len(seen_children[0]) == 1
    assert {child.pid for child in psutil.Process().children()} <= before
    assert time.monotonic() - started < 20


def run_and_cancel(runner: Runner) -> None:
    cancel = CancelToken()
    runner.run(UpscaleRequest(Path("a.svs"), Path("out.ome.tiff")), lambda _: cancel.cancel(), cancel)


@pytest.mark.usefixtures("deaf_child")
def test_child_that_does_not_stop_is_killed_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slidelift.service.processes.runner.CANCEL_SECONDS", 1.0)
    before = children()
    with Runner() as runner:
        started = time.monotonic()
        with pytest.raises(Cancelled):
            run_and_cancel(runner)
        assert time.monotonic() - started >= 1.0
        assert children() == before


MALFORMED = [
    "print('words of a library')",
    "print('{}')",
    'print(\'{"kind": "SizeRead", "width": "1", "height": 2}\')',
    'print(\'{"kind": "Upscaled"}\')',
]


@pytest.mark.parametrize("program", MALFORMED)
def test_malformed_message_of_a_child_is_a_problem_and_ends_the_child(
    start_instead: Callable[[str], None], program: str
) -> None:
    start_instead(f"import sys, time\nsys.stdin.readline()\n{program}\nsys.stdout.flush()\ntime.sleep(60)")
    before = children()
    with Runner() as runner:
        with pytest.raises(ServiceError, match=r"^a\.svs: the process .* sent a malformed message") as error:
            runner.run(UpscaleRequest(Path("a.svs"), Path("out.ome.tiff")), lambda _: None, CancelToken())
        assert (error.value.problem.code, error.value.problem.status) == ("runner.crashed", 500)
        assert children() == before
    with pytest.raises(ServiceError, match=r"^b: .* sent a malformed message") as error:
        probe(Path("a.svs"), "b")
    assert error.value.problem.code == "runner.crashed"


def test_answer_to_another_request_is_a_problem(start_instead: Callable[[str], None]) -> None:
    start_instead("""import sys
sys.stdin.readline()
print('{"kind": "SizeRead", "width": 1, "height": 2}')""")
    with pytest.raises(ServiceError, match="SizeRead") as error:
        probe(Path("a.svs"))
    assert error.value.problem.code == "internal"


def test_error_output_of_a_crashed_child_names_the_slide_and_no_path(start_instead: Callable[[str], None]) -> None:
    start_instead("""import os, sys
sys.stderr.write("can't read /data/slides/1/slide.svs: sector lost in /data/slides/1/other.dat")
sys.stderr.flush()
os.abort()""")
    with pytest.raises(ServiceError) as error:
        probe(Path("/data/slides/1/slide.svs"), "Müller.svs")
    assert error.value.problem.code == "slide.unreadable"
    assert "SIGABRT (can't read Müller.svs: sector lost in other.dat)" in error.value.problem.detail
    assert "/data" not in error.value.problem.detail


def test_child_refuses_a_malformed_request_and_continues(tmp_path: Path) -> None:
    child = ChildProcess(CHILD_MODULE, "probe")
    try:
        assert child.process.stdin is not None
        child.process.stdin.write('{"kind": "ProbeSlide"}\n')
        child.process.stdin.flush()
        answer = child.receive(60)
        assert isinstance(answer, Failed)
        assert (answer.problem.code, "malformed" in answer.problem.detail) == ("internal", True)
        child.send(ProbeSlide(whole_slide(tmp_path), "a"))
        assert isinstance(child.receive(60), Probed)
    finally:
        child.kill()
        child.close()


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


class Killer(threading.Thread):
    """Sends a signal to each new child of this process, up to `times`."""

    def __init__(self, number: int, times: int) -> None:
        super().__init__(daemon=True)
        self.number, self.times, self.killed = number, times, list[int]()
        self.seen, self.ended = children(), threading.Event()

    def run(self) -> None:
        while len(self.killed) < self.times and not self.ended.wait(0.01):
            for pid in children() - self.seen:
                self.seen.add(pid)
                os.kill(pid, self.number)
                self.killed.append(pid)


def whole_slide(folder: Path) -> Path:
    slide = folder / "slide.png"
    Image.fromarray(np.full((300, 300, 3), 200, np.uint8)).save(slide)
    return slide


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_probe_is_repeated(tmp_path: Path, number: int) -> None:
    killer = Killer(number, 2)
    killer.start()
    facts = probe(whole_slide(tmp_path))
    assert (facts["width"], len(killer.killed)) == (300, 2)


def test_probe_that_is_killed_each_time_does_not_blame_the_file(tmp_path: Path) -> None:
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
def test_probe_that_crashes_blames_the_file(tmp_path: Path, number: int) -> None:
    killer = Killer(number, 99)
    killer.start()
    with pytest.raises(ServiceError) as error:
        probe(whole_slide(tmp_path))
    killer.ended.set()
    assert (error.value.problem.code, len(killer.killed)) == ("slide.unreadable", 1)


def test_killed_unpacking_does_not_blame_the_archive(tmp_path: Path) -> None:
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


def test_hard_limit_of_processor_time_is_above_the_soft_limit(tmp_path: Path) -> None:
    """The soft limit sends SIGXCPU; the hard limit sends SIGKILL, which would look like a kill from outside."""
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
def test_lower_inherited_limits_are_kept(tmp_path: Path, write_png, command: str, limit: str) -> None:
    slide = write_png(64, 64)
    arguments = [str(slide)]
    arguments += [str(tmp_path / "out.ome.tiff"), "--model", "bicubic", "--mpp", "0.5"] if command == "upscale" else []
    shell = [
        "bash",
        "-c",
        f'ulimit {limit}; exec "$@"',
        "-",
        sys.executable,
        "-m",
        "slidelift.service.cli",
        command,
        *arguments,
    ]
    done = subprocess.run(shell, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_exceeded_file_size_limit_is_explained(tmp_path: Path, write_png) -> None:
    slide = write_png(400, 400)
    arguments = ["upscale", str(slide), str(tmp_path / "out.ome.tiff"), "--model", "bicubic", "--mpp", "0.5"]
    shell = ["bash", "-c", 'ulimit -f 8; exec "$@"', "-", sys.executable, "-m", "slidelift", *arguments]
    done = subprocess.run(shell, capture_output=True, text=True)
    assert "larger than its file system takes" in done.stderr
