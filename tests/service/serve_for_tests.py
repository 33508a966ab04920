"""Runs the real API process with a stub probe and optionally a stub worker: DATA_DIR PORT [work].

The worker takes each job through random transitions to a random end, so that jobs of every state exist.
"""

import contextlib
import random
import sys
import threading
import time
from pathlib import Path

from slidelift.service.api import events
from slidelift.service.api.access import Caller
from slidelift.service.app import serve
from slidelift.service.errors import problem
from slidelift.service.jobs.job import ForbiddenTransitionError, JobState, Outcome, Result
from slidelift.service.jobs.open_store import open_store
from slidelift.service.jobs.store import JobFilter, LeaseLostError, UnknownJobError, WorkerStatus
from slidelift.service.pipeline.progress import Progress, Stage
from slidelift.service.settings import Settings

REPORT = Path(__file__).with_name("report.json").read_bytes()
FACTS = {
    "width": 64,
    "height": 48,
    "mpp": [0.5, 0.5],
    "objective": 20.0,
    "vendor": None,
    "levels": [{"width": 64, "height": 48, "downsample": 1.0}],
    "warnings": [],
}


def work(settings: Settings) -> None:
    store, draw = open_store(settings), random.Random(0)
    while True:
        store.record_worker(WorkerStatus("stand-in", 0, "cpu"))
        job = store.claim("stand-in")
        if job is None:
            time.sleep(0.2)
            for paused in store.jobs(100, wanted=JobFilter(state=JobState.PAUSED)).entries:
                with contextlib.suppress(ForbiddenTransitionError, UnknownJobError):
                    store.resume(paused.id)  # the event stream of a paused job would never end
            continue
        try:
            store.advance(job.id, job.attempt, Progress(Stage.UPSCALING, 1, 2, 1.0, 1.0))
            time.sleep(draw.choice((0, 0.05)))
            store.heartbeat(job.id, job.attempt)
            end = draw.choice((JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.FAILED, JobState.QUEUED))
            if end is JobState.SUCCEEDED:
                folder = settings.data_dir / "jobs" / job.id / f"attempt-{job.attempt}"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "report.json").write_bytes(REPORT)
                (folder / "result.report.html").write_text("<!DOCTYPE html>")
                (folder / "result.tissue.geojson").write_text("{}")
                (folder / "result.ome.tiff").write_bytes(b"pixels")
                store.settle(job.id, job.attempt, Outcome(end, result=Result("result.ome.tiff", 6, "ab" * 32)))
            else:
                failed = problem("slide.unreadable", "no") if end is JobState.FAILED else None
                store.settle(job.id, job.attempt, Outcome(end, failed))
        except LeaseLostError:
            continue


settings = Settings(
    data_dir=Path(sys.argv[1]), port=int(sys.argv[2]), max_upload_bytes=2**30, disk_reserve_bytes=0, lease_seconds=60
)
if "work" in sys.argv:
    events.KEEP_ALIVE_SECONDS = 0.2  # a stream of all jobs ends only when the token is no longer valid
    Caller.is_still_valid = lambda *_: False  # type: ignore[method-assign]
    settings.data_dir.mkdir(parents=True)
    threading.Thread(target=work, args=(settings,), daemon=True).start()
serve(settings, probe=lambda *_: FACTS)
