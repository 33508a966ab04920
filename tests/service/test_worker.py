"""The worker with pipelines that succeed, fail, hang and crash."""

import errno
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slidelift.service.errors import refusal
from slidelift.service.jobs.job import Job, JobOrder, JobState, Outcome, ResultFormat
from slidelift.service.jobs.open_store import open_store
from slidelift.service.jobs.slide import Slide, SlideFacts
from slidelift.service.jobs.sql_store import SqlStore
from slidelift.service.pipeline.options import BadTilePolicy
from slidelift.service.pipeline.progress import CancelToken, Progress, Stage
from slidelift.service.pipeline.report import Report
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.processes.runner import CANCEL_SECONDS, Runner
from slidelift.service.settings import Settings
from slidelift.service.storage.data_identity import require_same_identity
from slidelift.service.storage.files import Storage
from slidelift.service.worker import STOP_SECONDS, work
from slidelift.wsi.result_hash import result_hash

REPORT = Path(__file__).with_name("report.json")
Run = Callable[[UpscaleRequest, Callable[[Progress], None], CancelToken], Report]


class Pipeline:
    """Runs a function of the test; records its requests and whether it was closed."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.closed = threading.Event()
        self.requests: list[UpscaleRequest] = []

    def __call__(self) -> "Pipeline":
        self.closed.clear()
        return self

    def run(self, request: UpscaleRequest, on_progress: Callable[[Progress], None], cancel: CancelToken) -> Report:
        self.requests.append(request)
        return self._run(request, on_progress, cancel)

    def close(self) -> None:
        self.closed.set()


def report_of(sha256: str, warning: str) -> Report:
    """A real report, of another result."""
    report = Report.from_bytes(REPORT.read_bytes())
    return replace(report, output=replace(report.output, sha256=sha256), warnings=(warning,))


def write_result(request: UpscaleRequest, on_progress: Callable[[Progress], None], cancel: CancelToken) -> Report:
    on_progress(Progress(Stage.UPSCALING, 1, 2))
    on_progress(Progress(Stage.VERIFYING, 2, 2))
    if request.output.suffix == ".zarr":
        for name in ("0/0.0.0", ".zattrs", "OME/METADATA.ome.xml"):
            path = request.output / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
    else:
        request.output.write_bytes(b"pixels")
    (request.output.parent / "stripes").mkdir(exist_ok=True)
    return report_of(result_hash(request.output), "pale")


def run_slowly(request: UpscaleRequest, on_progress: Callable[[Progress], None], cancel: CancelToken) -> Report:
    (request.output.parent / "stripes").mkdir(exist_ok=True)
    for tile in range(3000):
        cancel.raise_if_cancelled()
        on_progress(Progress(Stage.UPSCALING, tile, 3000))
        time.sleep(0.01)
    return write_result(request, on_progress, cancel)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path / "data", disk_reserve_bytes=0, lease_seconds=5, heartbeat_seconds=0.05, poll_seconds=0.02
    )


@pytest.fixture
def store(settings: Settings) -> Iterator[SqlStore]:
    made = open_store(settings)
    made.add_slide(Slide("s", "Patient.svs", "slide.svs", 3, "ab" * 32, 0, SlideFacts(9, 9, None, None, None, ())))
    folder = settings.data_dir / "slides" / "s"
    folder.mkdir(parents=True)
    (folder / "slide.svs").write_bytes(b"abc")
    require_same_identity(Storage(settings.data_dir, disk_reserve_bytes=0), made)
    yield made
    made.close()


def add(store: SqlStore, job_id: str, order: JobOrder) -> None:
    store.add_jobs([Job(job_id, order, time.time())])


@contextmanager
def working(settings: Settings, pipeline: Callable[[], Any]) -> Iterator[threading.Event]:
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(settings, stop, pipeline))
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def until(store: SqlStore, job_id: str, is_so: Callable[[Job], bool], seconds: float = 20) -> Job:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        job = store.job(job_id)
        assert job is not None
        if is_so(job):
            return job
        time.sleep(0.01)
    raise AssertionError(f"still {job}")


def ended(job: Job) -> bool:
    return job.state.is_ended


def test_job_succeeds_with_a_sealed_result_and_a_report(settings: Settings, store: SqlStore) -> None:
    add(store, "j", JobOrder("s", model="bicubic", mpp=0.5, region=(0, 0, 4, 4)))
    pipeline = Pipeline(write_result)
    with working(settings.model_copy(update={"scheduler": "tls://there:8786"}), pipeline):
        job = until(store, "j", ended)
    assert (job.state, job.attempt, job.warnings) == (JobState.SUCCEEDED, 1, ("pale",))
    assert job.result is not None
    assert (job.result.file, job.result.bytes) == ("result.ome.tiff", 6)
    assert job.result.sha256 == hashlib.sha256(b"pixels").hexdigest()
    assert job.progress == Progress(Stage.VERIFYING, 2, 2)
    sent = pipeline.requests[0]
    assert (sent.device, sent.scheduler) == (settings.device, "tls://there:8786")
    assert (sent.model, sent.mpp, sent.region, sent.slide_sha256) == ("bicubic", 0.5, (0, 0, 4, 4), "ab" * 32)
    assert sent.slide_name == "slide s"
    folder = settings.data_dir / "jobs" / "j" / "attempt-1"
    assert sorted(path.name for path in folder.iterdir()) == ["report.json", "result.ome.tiff"]
    assert str(settings.data_dir) not in (folder / "report.json").read_text()
    assert store.workers()
    assert pipeline.closed.is_set()


def test_zarr_result_is_one_stored_zip_of_the_same_bytes_each_time(settings: Settings, store: SqlStore) -> None:
    for name in ("a", "b"):
        add(store, name, JobOrder("s", model="bicubic", format=ResultFormat.OME_ZARR))
    with working(settings, Pipeline(write_result)):
        first, second = until(store, "a", ended), until(store, "b", ended)
    assert first.result is not None
    assert first.result == second.result
    folder = settings.data_dir / "jobs" / "a" / "attempt-1"
    assert sorted(path.name for path in folder.iterdir()) == ["report.json", "result.ome.zarr.zip"]
    with zipfile.ZipFile(folder / "result.ome.zarr.zip") as archived:
        assert archived.testzip() is None
        names = archived.namelist()
        assert names == [f"result.ome.zarr/{name}" for name in (".zattrs", "0/0.0.0", "OME/METADATA.ome.xml")]
        assert {info.compress_type for info in archived.infolist()} == {zipfile.ZIP_STORED}
        assert archived.read(names[1]) == b"0/0.0.0"


def test_running_job_is_cancelled_within_seconds_and_leaves_no_files(settings: Settings, store: SqlStore) -> None:
    add(store, "j", JobOrder("s", model="bicubic"))
    with working(settings, Pipeline(run_slowly)):
        until(store, "j", lambda job: job.progress is not None)
        store.cancel("j")
        assert until(store, "j", ended, seconds=3).state is JobState.CANCELLED
    until(store, "j", lambda _: not (settings.data_dir / "jobs" / "j").exists())


def test_paused_job_keeps_its_stripes_and_continues_when_resumed(settings: Settings, store: SqlStore) -> None:
    add(store, "j", JobOrder("s", model="bicubic"))
    with working(settings, Pipeline(run_slowly)):
        until(store, "j", lambda job: job.progress is not None)
        assert store.pause("j").pause_requested
        paused = until(store, "j", lambda job: job.state is JobState.PAUSED)
        assert (settings.data_dir / "jobs" / "j" / "attempt-1" / "stripes").exists()
        assert paused.crashes == 0
        store.resume("j")
        again = until(store, "j", lambda job: job.state is JobState.RUNNING)
        assert again.attempt == 2


def test_failed_job_keeps_only_its_stripes_for_a_retry(settings: Settings, store: SqlStore) -> None:
    def full(request: UpscaleRequest, *_: Any) -> Report:
        stripes = request.output.parent / ".slidelift-0" / "stripe"
        stripes.parent.mkdir()
        stripes.write_bytes(b"finished")
        (request.output.parent / "scrap").write_bytes(b"")
        raise refusal("storage.full", "no room")

    add(store, "j", JobOrder("s", model="bicubic"))
    with working(settings, Pipeline(full)):
        failed = until(store, "j", ended)
    assert failed.problem is not None
    assert failed.problem.code == "storage.full"
    folder = settings.data_dir / "jobs" / "j" / "attempt-1"
    assert [path.name for path in folder.iterdir()] == [".slidelift-0"]
    store.retry("j")
    with working(settings, Pipeline(write_result)):
        assert until(store, "j", ended).state is JobState.SUCCEEDED


def test_retry_during_the_tidying_of_a_cancelled_job_keeps_its_files(
    settings: Settings, store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, "j", JobOrder("s", model="bicubic"))
    first = store.claim("w")
    assert first is not None
    storage = Storage(settings.data_dir, disk_reserve_bytes=0)
    names = [f"stripe-{number}" for number in range(3)]

    def write(job: Job) -> list[Path]:
        folder = storage.begin_attempt(job).parent / ".slidelift-0"
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / name).write_bytes(b"%d" % job.attempt)
        return [folder / name for name in names]

    write(first)
    cancelled = store.settle("j", 1, Outcome(JobState.CANCELLED))
    unlink, written = os.unlink, list[Path]()

    def unlink_and_retry(path: Any, **options: Any) -> None:
        unlink(path, **options)
        if not written and str(path).startswith("stripe-"):
            store.retry("j")
            second = store.claim("w")
            assert second is not None
            written.extend(write(second))

    monkeypatch.setattr(os, "unlink", unlink_and_retry)
    storage.tidy_job(cancelled)
    assert [path.read_bytes() for path in written] == [b"2"] * 3
    assert [path.name for path in (settings.data_dir / "jobs" / "j").iterdir()] == ["attempt-2"]


def test_stopped_worker_hands_its_job_back(settings: Settings, store: SqlStore) -> None:
    add(store, "j", JobOrder("s", model="bicubic"))
    with working(settings, Pipeline(run_slowly)):
        until(store, "j", lambda job: job.progress is not None)
    job = until(store, "j", lambda job: True)
    assert (job.state, job.crashes, job.lease_until) == (JobState.QUEUED, 0, None)
    assert (settings.data_dir / "jobs" / "j" / "attempt-1" / "stripes").exists()
    with working(settings, Pipeline(write_result)):
        job = until(store, "j", ended)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)


def test_job_is_retried_after_a_crash_and_fails_after_three(settings: Settings, store: SqlStore) -> None:
    crashes = iter(range(1))

    def once(*arguments: Any) -> Report:
        for _ in crashes:
            raise refusal("runner.crashed", "signal 11")
        return write_result(*arguments)

    def always(*_: Any) -> Report:
        raise refusal("runner.crashed", "signal 11")

    add(store, "j", JobOrder("s", model="bicubic"))
    with working(settings, Pipeline(once)):
        job = until(store, "j", ended)
    assert (job.state, job.attempt, job.crashes) == (JobState.SUCCEEDED, 2, 1)
    add(store, "k", JobOrder("s", model="bicubic"))
    pipeline = Pipeline(always)
    with working(settings, pipeline):
        job = until(store, "k", ended)
    assert (job.state, len(pipeline.requests)) == (JobState.FAILED, 3)
    assert job.problem is not None
    assert job.problem.code == "slide.crashes-decoder"


def test_known_failure_ends_the_job_with_its_problem(settings: Settings, store: SqlStore) -> None:
    def refuse(request: UpscaleRequest, *_: Any) -> Report:
        request.output.write_bytes(b"half")
        raise refusal("slide.unreadable", f"{request.slide_name}: strip 3 is damaged")

    add(store, "j", JobOrder("s", model="bicubic"))
    with working(settings, Pipeline(refuse)):
        job = until(store, "j", ended)
    assert job.problem is not None
    assert job.problem.detail == "slide s: strip 3 is damaged"
    assert (job.state, job.problem.code) == (JobState.FAILED, "slide.unreadable")
    until(store, "j", lambda _: not (settings.data_dir / "jobs" / "j").exists())


@pytest.mark.parametrize("on_bad_tile", list(BadTilePolicy))
def test_neither_problem_nor_report_of_a_real_run_contains_a_path(
    settings: Settings, store: SqlStore, data: Path, on_bad_tile: BadTilePolicy
) -> None:
    slide = settings.data_dir / "slides" / "s" / "slide.svs"
    slide.write_bytes((data / "damaged" / "cmu-bitflip-tiles.svs").read_bytes())
    region = (768, 1024, 512, 512)
    add(store, "j", JobOrder("s", model="bicubic", mpp=0.5, region=region, on_bad_tile=on_bad_tile, entropy=0))
    with working(settings, Runner):
        job = until(store, "j", ended, seconds=120)
    if on_bad_tile is BadTilePolicy.FAIL:
        assert job.problem is not None
        assert job.problem.detail.startswith("slide s: level 0")
        text = job.problem.detail
    else:
        assert job.state is JobState.SUCCEEDED, job.problem
        report = settings.data_dir / "jobs" / "j" / "attempt-1" / "report.json"
        assert json.loads(report.read_text())["tiles"]["bad"]
        text = report.read_text() + "".join(job.warnings)
    assert str(settings.data_dir) not in text
    assert "slide.svs" not in text
    assert "Patient" not in text


def test_slide_that_a_real_run_cannot_open_is_named_by_its_id(settings: Settings, store: SqlStore) -> None:
    add(store, "j", JobOrder("s", model="bicubic"))  # its file contains three letters
    with working(settings, Runner):
        job = until(store, "j", ended, seconds=120)
    assert job.problem is not None
    assert job.problem.code == "slide.unreadable"
    assert job.problem.detail.startswith("slide s: not a slide")
    assert str(settings.data_dir) not in job.problem.detail


def test_unexpected_failure_is_logged_and_the_worker_continues(
    settings: Settings, store: SqlStore, caplog: pytest.LogCaptureFixture
) -> None:
    def surprise(request: UpscaleRequest, *rest: Any) -> Report:
        if request.output.parent.parent.name == "j":
            raise KeyError("secret words")
        return write_result(request, *rest)

    add(store, "j", JobOrder("s", model="bicubic"))
    add(store, "k", JobOrder("s", model="bicubic"))
    with working(settings, Pipeline(surprise)), caplog.at_level(logging.ERROR):
        job = until(store, "j", ended)
        assert until(store, "k", ended).state is JobState.SUCCEEDED
    assert job.problem is not None
    assert (job.state, job.problem.code) == (JobState.FAILED, "internal")
    assert "secret" not in job.problem.detail
    assert "secret words" in caplog.text


def test_success_without_an_output_file_fails_the_job(settings: Settings, store: SqlStore) -> None:
    add(store, "j", JobOrder("s", model="bicubic"))
    with working(settings, Pipeline(lambda *_: {"warnings": []})):
        job = until(store, "j", ended)
    assert job.problem is not None
    assert (job.state, job.problem.code, job.result) == (JobState.FAILED, "internal", None)


def test_worker_that_lost_its_lease_changes_nothing(tmp_path: Path, settings: Settings, store: SqlStore) -> None:
    sleepy = settings.model_copy(update={"lease_seconds": 0.3, "heartbeat_seconds": 0.9})
    taken = threading.Event()

    def lose_lease(request: UpscaleRequest, on_progress: Callable[[Progress], None], cancel: CancelToken) -> Any:
        time.sleep(0.4)
        claimed = store.claim("other")
        assert claimed is not None
        assert claimed.attempt == 2
        taken.set()
        on_progress(Progress(Stage.JOINING, 9, 9))
        return write_result(request, lambda _: None, cancel)

    add(store, "j", JobOrder("s", model="bicubic"))
    with working(sleepy, Pipeline(lose_lease)):
        assert taken.wait(10)
        time.sleep(0.3)
    job = until(store, "j", lambda job: True)
    assert (job.state, job.worker, job.attempt, job.progress) == (JobState.RUNNING, "other", 2, None)


def write_first_attempt(store: SqlStore, settings: Settings, name: str, content: bytes, sha256: str | None) -> Path:
    """Write the files of a killed attempt 1: an output, perhaps a report. Return the folder of attempt 2."""
    add(store, "j", JobOrder("s", model="bicubic", format=ResultFormat("ome-zarr" if "zarr" in name else "ome-tiff")))
    claimed = store.claim("dead")
    assert claimed is not None
    store.settle("j", 1, Outcome(JobState.QUEUED))
    folder = settings.data_dir / "jobs" / "j" / "attempt-1"
    output = folder / name
    output.parent.mkdir(parents=True)
    output.write_bytes(content)
    if sha256 is not None:
        (folder / "report.json").write_text(json.dumps(report_of(sha256, "kept").as_dict()))
    return folder.with_name("attempt-2")


def test_finished_output_of_a_killed_attempt_is_sealed_and_not_made_again(settings: Settings, store: SqlStore) -> None:
    sha256 = hashlib.sha256(b"finished").hexdigest()
    folder = write_first_attempt(store, settings, "result.ome.tiff", b"finished", sha256)
    pipeline = Pipeline(write_result)
    with working(settings, pipeline):
        job = until(store, "j", ended)
    assert (job.state, job.warnings, pipeline.requests) == (JobState.SUCCEEDED, ("kept",), [])
    assert (folder / "result.ome.tiff").read_bytes() == b"finished"


@pytest.mark.parametrize("name", ["result.ome.tiff", "result.ome.zarr/0/0/0"])
def test_finished_output_that_a_power_cut_has_emptied_is_made_again(
    settings: Settings, store: SqlStore, name: str
) -> None:
    file = hashlib.sha256(b"finished").hexdigest()
    listing = hashlib.sha256(f"{file}  0/0/0\n".encode()).hexdigest()
    write_first_attempt(store, settings, name, b"", file if name.endswith("tiff") else listing)
    pipeline = Pipeline(write_result)
    with working(settings, pipeline):
        job = until(store, "j", ended)
    assert (job.state, job.warnings, len(pipeline.requests)) == (JobState.SUCCEEDED, ("pale",), 1)


@pytest.mark.parametrize(
    "damaged",
    ["{}", "[]", "null", '{"output": null}', '{"output": {"sha256": null}}', '{"output": {"sha256": ""}}', "[" * 9999],
)
def test_output_whose_report_is_damaged_is_made_again(settings: Settings, store: SqlStore, damaged: str) -> None:
    folder = write_first_attempt(store, settings, "result.ome.tiff", b"of unknown origin", "")
    (folder.with_name("attempt-1") / "report.json").write_text(damaged)
    with working(settings, Pipeline(write_result)):
        assert until(store, "j", ended).state is JobState.SUCCEEDED
    assert (folder / "result.ome.tiff").read_bytes() == b"pixels"


def test_output_without_a_report_is_made_again(settings: Settings, store: SqlStore) -> None:
    folder = write_first_attempt(store, settings, "result.ome.tiff", b"of unknown origin", None)
    with working(settings, Pipeline(write_result)):
        until(store, "j", ended)
    assert (folder / "result.ome.tiff").read_bytes() == b"pixels"


def test_output_that_changes_after_it_was_verified_fails_the_job(settings: Settings, store: SqlStore) -> None:
    def altered(request: UpscaleRequest, *rest: Any) -> Report:
        report = write_result(request, *rest)
        request.output.write_bytes(b"pixelz")
        return report

    add(store, "j", JobOrder("s", model="bicubic"))
    with working(settings, Pipeline(altered)):
        job = until(store, "j", ended)
    assert job.problem is not None
    assert (job.state, job.problem.code, job.result) == (JobState.FAILED, "result.verification", None)


def test_cancelled_job_whose_child_does_not_stop_ends_at_the_runners_deadline(
    settings: Settings, store: SqlStore, deaf_child: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slidelift.service.processes.runner.CANCEL_SECONDS", 0.5)
    add(store, "j", JobOrder("s", model="bicubic"))
    with working(settings, Runner):
        until(store, "j", lambda job: job.progress is not None)
        store.cancel("j")
        job = until(store, "j", ended)
    assert (job.state, job.crashes) == (JobState.CANCELLED, 0)


def test_stopped_worker_has_time_to_write_the_end_of_an_attempt_that_it_killed() -> None:
    assert CANCEL_SECONDS + 5 <= STOP_SECONDS


def test_stalled_pipeline_is_ended_and_the_job_retried(settings: Settings, store: SqlStore) -> None:
    hanging_once = iter(range(1))

    def hang(request: UpscaleRequest, on_progress: Callable[[Progress], None], cancel: CancelToken) -> Any:
        for _ in hanging_once:
            on_progress(Progress(Stage.UPSCALING, 1, 2))
            assert pipeline.closed.wait(20)
            raise refusal("runner.crashed", "killed")
        return write_result(request, on_progress, cancel)

    pipeline = Pipeline(hang)
    add(store, "j", JobOrder("s", model="bicubic"))
    with working(settings.model_copy(update={"stall_seconds": 0.3}), pipeline):
        job = until(store, "j", ended)
    assert (job.state, job.attempt, job.crashes) == (JobState.SUCCEEDED, 2, 1)


def test_pipeline_that_always_stalls_fails_the_job_and_frees_the_queue(settings: Settings, store: SqlStore) -> None:
    def hang(request: UpscaleRequest, *rest: Any) -> Any:
        if request.output.parent.parent.name == "k":
            return write_result(request, *rest)
        assert pipeline.closed.wait(20)
        raise refusal("runner.crashed", "killed")

    pipeline = Pipeline(hang)
    for name in "jk":
        add(store, name, JobOrder("s", model="bicubic"))
    with working(settings.model_copy(update={"stall_seconds": 0.2}), pipeline):
        job = until(store, "j", ended)
        assert until(store, "k", ended).state is JobState.SUCCEEDED
    assert job.problem is not None
    assert (job.state, job.problem.code) == (JobState.FAILED, "job.crashed-repeatedly")
    assert "made no progress for 0.2 s" in job.problem.detail


def test_full_disk_while_packing_keeps_the_output_and_a_retry_only_packs(
    settings: Settings, store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> str:
        raise OSError(errno.ENOSPC, "no space")

    add(store, "j", JobOrder("s", model="bicubic", format=ResultFormat.OME_ZARR))
    pipeline = Pipeline(write_result)
    with monkeypatch.context() as patched:
        patched.setattr("slidelift.service.attempts.result_seal.archive", full)
        with working(settings, pipeline):
            failed = until(store, "j", ended)
    assert failed.problem is not None
    assert failed.problem.code == "storage.full"
    assert result_hash(settings.data_dir / "jobs" / "j" / "attempt-1" / "result.ome.zarr")
    store.retry("j")
    with working(settings, pipeline):
        job = until(store, "j", ended)
    assert (job.state, job.attempt, len(pipeline.requests)) == (JobState.SUCCEEDED, 2, 1)
    folder = settings.data_dir / "jobs" / "j" / "attempt-2"
    until(store, "j", lambda _: sorted(one.name for one in folder.iterdir()) == ["report.json", "result.ome.zarr.zip"])


def test_attempt_that_could_not_begin_keeps_the_stripes_of_the_previous_one(
    settings: Settings, store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_first_attempt(store, settings, ".slidelift-0/stripe", b"finished", None)

    def full(*_: Any) -> Path:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "begin_attempt", full)
        with working(settings, Pipeline(write_result)):
            assert until(store, "j", ended).state is JobState.FAILED
    stripes: list[bytes] = []

    def read_stripe(request: UpscaleRequest, *rest: Any) -> Report:
        stripes.append((request.output.parent / ".slidelift-0" / "stripe").read_bytes())
        return write_result(request, *rest)

    store.retry("j")
    with working(settings, Pipeline(read_stripe)):
        assert until(store, "j", ended).state is JobState.SUCCEEDED
    assert stripes == [b"finished"]


def test_missing_slide_fails_the_job(settings: Settings, store: SqlStore) -> None:
    add(store, "j", JobOrder("s", model="bicubic"))
    with store._database.writing() as db:
        db.execute("DELETE FROM slides")
    with working(settings, Pipeline(write_result)):
        job = until(store, "j", ended)
    assert job.problem is not None
    assert job.problem.code == "slide.unknown"


PROCESS = """
import sys, time
from dataclasses import replace
from pathlib import Path
from slidelift.service.pipeline.progress import Progress, Stage
from slidelift.service.pipeline.report import Report
from slidelift.service.settings import Settings
from slidelift.service.worker import main
from slidelift.wsi.result_hash import result_hash

class Slow:
    def run(self, request, on_progress, cancel):
        done = request.output.parent / "stripe"
        for tile in range(int(done.read_text()) if done.exists() else 0, 30):
            cancel.raise_if_cancelled()
            on_progress(Progress(Stage.UPSCALING, tile, 30))
            time.sleep(float(sys.argv[2]))
            done.write_text(str(tile))
        request.output.write_bytes(b"pixels")
        report = Report.from_bytes(Path(sys.argv[3]).read_bytes())
        return replace(report, output=replace(report.output, sha256=result_hash(request.output)))
    def close(self):
        pass

settings = Settings(data_dir=Path(sys.argv[1]), lease_seconds=1, heartbeat_seconds=0.2, poll_seconds=0.05)
sys.exit(main(settings, Slow))
"""


@contextmanager
def process(settings: Settings, seconds_a_tile: float) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-c", PROCESS, settings.data_dir, str(seconds_a_tile), REPORT]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as started:
        try:
            yield started
        finally:
            started.kill()


def test_job_of_a_killed_worker_is_retried_after_its_lease(settings: Settings, store: SqlStore) -> None:
    add(store, "j", JobOrder("s", model="bicubic"))
    with process(settings, 0.2) as first:
        until(store, "j", lambda job: job.progress is not None)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    with process(settings, 0.001):
        job = until(store, "j", ended)
    assert (job.state, job.attempt, job.crashes) == (JobState.SUCCEEDED, 2, 1)


def test_terminated_worker_hands_its_job_back_and_exits_with_0(settings: Settings, store: SqlStore) -> None:
    add(store, "j", JobOrder("s", model="bicubic"))
    with process(settings, 0.2) as worker:
        until(store, "j", lambda job: job.progress is not None)
        worker.terminate()
        assert worker.wait(10) == 0
    job = until(store, "j", lambda job: True)
    assert (job.state, job.crashes) == (JobState.QUEUED, 0)
