"""What every store promises, and what only the durable one can."""

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.codes import problem
from service.jobs.job import ForbiddenMoveError, JobOrder, JobState, Outcome, Result
from service.jobs.slide import Slide, SlideFacts, SlideLevel
from service.jobs.sql_store import MIGRATIONS, SqlStore
from service.jobs.store import (
    Beat,
    LeaseLostError,
    MemoryStore,
    SlideInUseError,
    Store,
    StoreError,
    UnknownJobError,
    UnknownSlideError,
)
from service.progress import Progress, Stage
from service.request import BadTilePolicy

LEASE = 10.0
FACTS = SlideFacts(640, 480, (0.5, 0.25), 20.0, "aperio", (SlideLevel(640, 480, 1.0),), ("tilted",))
ORDER = JobOrder("s", "bicubic", mpp=0.5, region=(1, 2, 3, 4), on_bad_tile=BadTilePolicy.MARK)
DONE = Outcome(JobState.SUCCEEDED, result=Result("result.ome.tiff", 3, "ab"), warnings=("pale",))


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def slide(slide_id: str = "s") -> Slide:
    return Slide(slide_id, "Müller 3.svs", "slide.svs", 7, "00" * 32, 999.5, FACTS)


@pytest.fixture
def clock() -> Clock:
    return Clock()


class StoreContract:
    """The suite of any store; a subclass gives the fixture `store`."""

    def test_slide_comes_back_as_it_went_in(self, store: Store) -> None:
        store.add_slide(slide())
        assert store.slide("s") == slide()
        assert store.slide("t") is None

    def test_slides_are_listed_from_the_newest_in_pages(self, store: Store) -> None:
        for name in "abcde":
            store.add_slide(slide(name))
        assert [one.id for one in store.slides(3)] == ["e", "d", "c"]
        assert [one.id for one in store.slides(3, before="c")] == ["b", "a"]
        assert store.slides(3, before="nothing") == []

    def test_slide_in_use_stays(self, store: Store) -> None:
        store.add_slide(slide())
        store.add_job("j", ORDER)
        with pytest.raises(SlideInUseError, match="j"):
            store.remove_slide("s")
        store.cancel("j")
        store.remove_slide("s")
        assert store.slide("s") is None
        assert store.job("j") is not None

    def test_unknown_slide_can_neither_be_removed_nor_used(self, store: Store) -> None:
        with pytest.raises(UnknownSlideError):
            store.remove_slide("s")
        with pytest.raises(UnknownSlideError):
            store.add_job("j", ORDER)

    def test_job_keeps_what_was_asked(self, store: Store) -> None:
        store.add_slide(slide())
        assert store.add_job("j", ORDER) == store.job("j")
        job = store.job("j")
        assert job is not None
        assert (job.order, job.state, job.created) == (ORDER, JobState.QUEUED, 1000.0)

    def test_jobs_are_listed_by_state(self, store: Store) -> None:
        store.add_slide(slide())
        for name in "abcd":
            store.add_job(name, ORDER)
        store.cancel("b")
        assert [job.id for job in store.jobs(9)] == ["d", "c", "b", "a"]
        assert [job.id for job in store.jobs(9, state=JobState.QUEUED)] == ["d", "c", "a"]
        assert [job.id for job in store.jobs(9, before="c", state=JobState.QUEUED)] == ["a"]

    def test_oldest_job_is_claimed_first_and_by_one_worker(self, store: Store) -> None:
        store.add_slide(slide())
        store.add_job("a", ORDER)
        store.add_job("b", ORDER)
        claimed = [store.claim("w1"), store.claim("w2"), store.claim("w3")]
        assert [job and job.id for job in claimed] == ["a", "b", None]

    def test_silent_worker_loses_its_job(self, store: Store, clock: Clock) -> None:
        store.add_slide(slide())
        store.add_job("j", ORDER)
        store.claim("w1")
        clock.now += LEASE - 1
        assert store.heartbeat("j", 1) is Beat.GO_ON
        clock.now += LEASE - 1
        assert store.claim("w2") is None
        clock.now += 1
        taken = store.claim("w2")
        assert taken is not None
        assert (taken.id, taken.attempt, taken.worker) == ("j", 2, "w2")

    def test_every_late_write_of_an_old_attempt_is_refused(self, store: Store, clock: Clock) -> None:
        store.add_slide(slide())
        store.add_job("j", ORDER)
        store.claim("w1")
        clock.now += LEASE
        before = store.claim("w2")
        with pytest.raises(LeaseLostError):
            store.heartbeat("j", 1)
        with pytest.raises(LeaseLostError):
            store.advance("j", 1, Progress(Stage.JOINING))
        with pytest.raises(LeaseLostError):
            store.settle("j", 1, DONE)
        assert store.job("j") == before

    def test_settled_job_takes_no_more_writes(self, store: Store) -> None:
        store.add_slide(slide())
        store.add_job("j", ORDER)
        store.claim("w")
        job = store.settle("j", 1, DONE)
        assert (job.state, job.result, job.warnings) == (JobState.SUCCEEDED, DONE.result, ("pale",))
        with pytest.raises(LeaseLostError):
            store.settle("j", 1, Outcome(JobState.CANCELLED))
        with pytest.raises(ForbiddenMoveError):
            store.cancel("j")

    def test_progress_is_seen(self, store: Store) -> None:
        store.add_slide(slide())
        store.add_job("j", ORDER)
        store.claim("w")
        progress = Progress(Stage.UPSCALING, 3, 9, 1.5, 4.0, 2)
        store.advance("j", 1, progress)
        job = store.job("j")
        assert job is not None
        assert job.progress == progress

    def test_worker_hears_of_a_cancellation(self, store: Store) -> None:
        store.add_slide(slide())
        store.add_job("j", ORDER)
        store.claim("w")
        assert store.cancel("j").state is JobState.RUNNING
        assert store.heartbeat("j", 1) is Beat.CANCEL

    def test_dead_workers_cancelled_job_is_not_run_again(self, store: Store, clock: Clock) -> None:
        store.add_slide(slide())
        store.add_job("j", ORDER)
        store.add_job("k", ORDER)
        store.claim("w")
        store.cancel("j")
        clock.now += LEASE
        following = store.claim("w2")
        assert following is not None
        assert following.id == "k"
        job = store.job("j")
        assert job is not None
        assert job.state is JobState.CANCELLED

    def test_third_crash_fails_the_job(self, store: Store) -> None:
        store.add_slide(slide())
        store.add_job("j", ORDER)
        for attempt in (1, 2, 3):
            assert store.claim("w") is not None
            crash = Outcome(JobState.QUEUED, problem("runner.crashed", "signal 11"), crashed=True)
            job = store.settle("j", attempt, crash)
        assert job.state is JobState.FAILED
        assert job.problem is not None
        assert job.problem.code == "slide.crashes-decoder"
        assert store.claim("w") is None

    def test_deleted_result_is_noted_and_the_job_stays(self, store: Store, clock: Clock) -> None:
        store.add_slide(slide())
        store.add_job("j", ORDER)
        with pytest.raises(ForbiddenMoveError):
            store.delete_result("j")
        store.claim("w")
        store.settle("j", 1, DONE)
        assert store.delete_result("j").result_deleted == clock.now
        assert store.delete_result("j").result_deleted == clock.now

    def test_unknown_job_is_said(self, store: Store) -> None:
        assert store.job("j") is None
        for refuse in (store.cancel, store.delete_result):
            with pytest.raises(UnknownJobError):
                refuse("j")
        with pytest.raises(LeaseLostError):
            store.heartbeat("j", 1)

    def test_last_sign_of_life_is_the_latest_of_all_workers(self, store: Store, clock: Clock) -> None:
        assert store.last_sign_of_life() is None
        store.sign_of_life("w1")
        clock.now += 5
        store.sign_of_life("w2")
        assert store.last_sign_of_life() == 1005.0

    def test_no_job_is_claimed_twice_by_many_threads(self, store: Store) -> None:
        store.add_slide(slide())
        for number in range(24):
            store.add_job(f"j{number}", ORDER)
        with ThreadPoolExecutor(8) as pool:
            claimed = [job.id for job in pool.map(store.claim, [f"w{n}" for n in range(40)]) if job]
        assert sorted(claimed) == sorted(f"j{number}" for number in range(24))

    def test_slide_is_not_lost_to_a_job_asked_for_at_the_same_moment(self, store: Store) -> None:
        for round_ in range(12):
            name = f"s{round_}"
            store.add_slide(slide(name))
            gate, outcomes = threading.Barrier(2), []

            def remove(name: str = name, gate: threading.Barrier = gate, outcomes: list[str] = outcomes) -> None:
                gate.wait()
                try:
                    store.remove_slide(name)
                    outcomes.append("removed")
                except SlideInUseError:
                    pass

            def ask(name: str = name, gate: threading.Barrier = gate, outcomes: list[str] = outcomes) -> None:
                gate.wait()
                try:
                    store.add_job(f"job of {name}", JobOrder(name, "bicubic"))
                    outcomes.append("asked")
                except UnknownSlideError:
                    pass

            threads = [threading.Thread(target=remove), threading.Thread(target=ask)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(outcomes) == 1


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self, clock: Clock) -> Store:
        return MemoryStore(clock, LEASE)


class TestSqlStore(StoreContract):
    @pytest.fixture
    def store(self, clock: Clock, tmp_path: Path) -> Iterator[Store]:
        made = SqlStore(tmp_path / "jobs.sqlite3", lease_seconds=LEASE, clock=clock)
        yield made
        made.close()

    def test_everything_outlives_the_process(self, store: Store, clock: Clock, tmp_path: Path) -> None:
        store.add_slide(slide())
        store.add_job("j", ORDER)
        store.claim("w")
        store.advance("j", 1, Progress(Stage.UPSCALING, 3, 9))
        job = store.settle("j", 1, DONE)
        store.close()
        again = SqlStore(tmp_path / "jobs.sqlite3", lease_seconds=LEASE, clock=clock)
        assert (again.slide("s"), again.job("j")) == (slide(), job)
        again.close()

    def test_log_is_written_ahead_and_synced_in_full(self, store: SqlStore) -> None:
        with store._reading() as db:
            assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert db.execute("PRAGMA synchronous").fetchone() == (2,)
            assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)

    def test_database_of_a_newer_version_is_refused(self, store: Store, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "jobs.sqlite3") as db:
            db.execute("PRAGMA user_version = 99")
        db.close()
        with pytest.raises(StoreError, match="newer"):
            SqlStore(tmp_path / "jobs.sqlite3")

    def test_check_fails_where_nothing_can_be_written(self, store: SqlStore) -> None:
        store.check()
        with store._reading() as db:
            db.execute("PRAGMA query_only = ON")
        with pytest.raises(sqlite3.OperationalError):
            store.check()
        store.check()

    def test_refused_write_changes_nothing_and_frees_the_store(self, store: Store) -> None:
        with pytest.raises(UnknownSlideError):
            store.add_job("j", ORDER)
        store.add_slide(slide())
        assert store.jobs(9) == []


def test_processes_may_all_start_on_a_new_database_at_once(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from service.jobs.sql_store import SqlStore; SqlStore(Path(sys.argv[1]))"
    )
    started = [subprocess.Popen([sys.executable, "-c", script, tmp_path / "new.sqlite3"]) for _ in range(4)]
    assert [process.wait(60) for process in started] == [0] * 4


WRITER = """
import sys
from pathlib import Path
from service.jobs.job import JobOrder
from service.jobs.slide import Slide, SlideFacts
from service.jobs.sql_store import SqlStore
store = SqlStore(Path(sys.argv[1]))
if store.slide("s") is None:
    store.add_slide(Slide("s", "n", "f", 1, "00", 0.0, SlideFacts(1, 1, None, None, None, ())))
for number in range(10**6):
    store.add_job(f"{sys.argv[2]}-{number}", JobOrder("s", "bicubic"))
    print(f"{sys.argv[2]}-{number}", flush=True)
"""


def test_kill_minus_nine_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    database, acknowledged = tmp_path / "jobs.sqlite3", []
    for life in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, database, str(life)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            acknowledged.append(process.stdout.readline().strip())
            time.sleep(0.05 + 0.03 * life)
            process.kill()
            acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
    store = SqlStore(database)
    kept = {job.id for job in store.jobs(10**6)}
    with store._reading() as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()
    assert len(acknowledged) > 50
    assert set(acknowledged) <= kept
