"""A worker that is suspended and resumes after another worker has finished its job changes nothing."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from slidelift.service.jobs.job import Job, JobOrder, JobState, ResultFormat
from slidelift.service.jobs.open_store import open_store
from slidelift.service.jobs.slide import Slide, SlideFacts
from slidelift.service.jobs.sql_store import SqlStore
from slidelift.service.jobs.store import StoreUnavailableError
from slidelift.service.pipeline.progress import Stage
from slidelift.service.settings import Settings

REGION = (300, 700, 700, 1500)  # two stripes


@dataclass
class Workers:
    """Two real workers on one data folder."""

    settings: Settings
    store: SqlStore
    processes: "list[subprocess.Popen[bytes]]"

    def ask(self, name: str) -> None:
        order = JobOrder("s", model="bicubic", region=REGION, mpp=0.5, format=ResultFormat.OME_ZARR)
        self.store.add_jobs([Job(name, order, time.time())])

    def until(self, name: str, condition: Callable[[Job], bool], seconds: float = 60) -> Job:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            job = self.store.job(name)
            assert job is not None
            if condition(job):
                return job
            time.sleep(0.001)
        raise AssertionError(f"not in time: {job}")

    def can_write(self) -> bool:
        """Whether the database accepts writes; a suspended worker may hold the write lock."""
        try:
            self.store.check()
        except StoreUnavailableError:
            return False
        return True

    def folder(self, name: str, attempt: int) -> Path:
        return self.settings.data_dir / "jobs" / name / f"attempt-{attempt}"

    @contextmanager
    def stopped(self, job: Job) -> Iterator[None]:
        """Suspend the worker that holds a job, and its child."""
        assert job.worker is not None
        holder = next(one for one in self.processes if f"-{one.pid}-" in job.worker)
        family = [psutil.Process(holder.pid), *psutil.Process(holder.pid).children(recursive=True)]
        for one in family:
            one.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for one in family:
                one.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory, cmu: Path) -> Iterator[Workers]:
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("fence") / "data",
        disk_reserve_bytes=0,
        lease_seconds=1.5,
        heartbeat_seconds=0.2,
        poll_seconds=0.05,
        stall_seconds=15,
    )
    store = open_store(settings)
    home = settings.data_dir / "slides" / "s"
    home.mkdir(parents=True)
    (home / "slide.svs").write_bytes(cmu.read_bytes())
    facts = SlideFacts(2220, 2967, (0.5, 0.5), 20, "aperio", ())
    sha256 = hashlib.sha256(cmu.read_bytes()).hexdigest()
    store.add_slide(Slide("s", "cmu.svs", "slide.svs", cmu.stat().st_size, sha256, 0, facts))
    with ExitStack() as stack:
        log = stack.enter_context((settings.data_dir.parent / "workers.log").open("ab"))
        command = [sys.executable, "-m", "slidelift", "worker"]
        started = [
            subprocess.Popen(command, env={**os.environ, **settings.as_environment()}, stderr=log) for _ in range(2)
        ]
        yield Workers(settings, store, started)
        for one in started:
            one.terminate()
        for one in started:
            assert one.wait(60) == 0
    store.close()


@pytest.fixture(scope="module")
def expected_hash(workers: Workers) -> str:
    """Hash of the result of an undisturbed job."""
    for name in ("warm", "truth"):  # two jobs, so that probably both workers load the model
        workers.ask(name)
    hashes = {
        job.result.sha256
        for name in ("warm", "truth")
        if (job := workers.until(name, lambda job: job.state.is_ended)).result
    }
    assert len(hashes) == 1
    return hashes.pop()


def in_stage(stage: Stage) -> Callable[[Workers, Job], bool]:
    return lambda _workers, job: job.progress is not None and job.progress.stage is stage


def has_file(pattern: str) -> Callable[[Workers, Job], bool]:
    return lambda workers, job: any(workers.folder(job.id, 1).glob(pattern))


PHASES: dict[str, Callable[[Workers, Job], bool]] = {
    "claimed": lambda _workers, job: job.attempt == 1,
    "upscaling": in_stage(Stage.UPSCALING),
    "joining": in_stage(Stage.JOINING),
    "verifying": in_stage(Stage.VERIFYING),
    "published": has_file("result.ome.zarr"),
    "packing": has_file("*.zip.part"),
    "packed": has_file("result.ome.zarr.zip"),
}


OFTEN = ("claimed", "joining", "packing", "packed")
"""Phases that every run tests; `make soak` tests the others."""


@pytest.mark.parametrize(
    "phase", [one if one in OFTEN else pytest.param(one, marks=pytest.mark.soak) for one in PHASES]
)
def test_worker_that_resumes_after_its_lease_does_not_change_the_result(
    workers: Workers, expected_hash: str, phase: str
) -> None:
    for turn in range(5):  # a phase may end before it is observed
        name = f"stopped-when-{phase}-{turn}"
        workers.ask(name)
        running = workers.until(name, lambda job: job.state.is_ended or PHASES[phase](workers, job))
        if running.state.is_ended:
            continue
        with workers.stopped(running):
            if (now := workers.store.job(name)) is None or now.state.is_ended or not workers.can_write():
                continue
            won = workers.until(name, lambda job: job.state.is_ended)
            assert (won.state, won.attempt) == (JobState.SUCCEEDED, 2), won
            assert_published(workers, won, expected_hash)
        time.sleep(2)  # the resumed worker notices that it has lost the job
        assert workers.store.job(name) == won
        assert_published(workers, won, expected_hash)
        assert [one.poll() for one in workers.processes] == [None, None]
        return
    pytest.fail(f"no job could be stopped while {phase}")


def test_suspended_decoding_process_does_not_block_the_queue(workers: Workers, expected_hash: str) -> None:
    """The worker sends heartbeats; its child is suspended and reports nothing."""
    for turn in range(5):
        name = f"child-stopped-{turn}"
        workers.ask(name)
        running = workers.until(name, lambda job: job.state.is_ended or PHASES["upscaling"](workers, job))
        holder = next(one for one in workers.processes if f"-{one.pid}-" in (running.worker or ""))
        for child in psutil.Process(holder.pid).children(recursive=True):
            child.send_signal(signal.SIGSTOP)
        done = workers.until(name, lambda job: job.state.is_ended)
        assert_published(workers, done, expected_hash)
        if done.attempt == 2:
            return
    pytest.fail("no child could be stopped while it computed")


def assert_published(workers: Workers, job: Job, expected_hash: str) -> None:
    assert job.result is not None
    path = workers.folder(job.id, job.attempt) / job.result.file
    found: Any = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == job.result.sha256 == expected_hash
    assert path.stat().st_size == job.result.bytes
