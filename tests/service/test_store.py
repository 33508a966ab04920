"""The store: behaviour of all databases, and of SQLite and PostgreSQL."""

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import psycopg.conninfo
import pytest

from slidelift.service.auth.tokens import Scope, hash_of, new_token
from slidelift.service.errors import problem
from slidelift.service.jobs import postgres as postgres_module
from slidelift.service.jobs.job import (
    MAX_CRASHES,
    ForbiddenTransitionError,
    Job,
    JobOrder,
    JobState,
    Outcome,
    Result,
    UnloadedRoi,
)
from slidelift.service.jobs.postgres import Postgres
from slidelift.service.jobs.slide import Slide, SlideFacts, SlideLevel
from slidelift.service.jobs.sql_store import SqlStore
from slidelift.service.jobs.sqlite import MIGRATIONS, Sqlite
from slidelift.service.jobs.store import (
    HeartbeatReply,
    IdempotencyKey,
    JobFilter,
    KeyReusedError,
    LeaseLostError,
    Page,
    SlideInUseError,
    Store,
    StoreError,
    StoreUnavailableError,
    UnknownJobError,
    UnknownSlideError,
    UnknownTokenError,
    WorkerStatus,
)
from slidelift.service.pipeline.options import BadTilePolicy
from slidelift.service.pipeline.progress import Progress, Stage
from slidelift.wsi.roi import Roi

LEASE = 10.0
FACTS = SlideFacts(640, 480, (0.5, 0.25), 20.0, "aperio", (SlideLevel(640, 480, 1.0),), ("tilted",))
ORDER = JobOrder("s", model="bicubic", mpp=0.5, region=(1, 2, 3, 4), on_bad_tile=BadTilePolicy.MARK)
DONE = Outcome(JobState.SUCCEEDED, result=Result("result.ome.tiff", 3, "ab"), warnings=("pale",))


BEFORE_FAILURES = 3
"""Schema version of a SQLite file before the table of failures; PostgreSQL's is one less."""
FAILED_BEFORE = [
    '{"id":"f","order":{"slide":"s","model":"bicubic"},"created":1,"state":"succeeded"}',
    '{"id":"f","order":{"slide":"s","model":"bicubic"},"created":1,"state":"failed"}',
    *[
        '{"id":"f","order":{"slide":"s","model":"bicubic"},"created":1,"state":"failed","problem":{"code":"storage.full"}}'
    ]
    * 2,
]


class Clock:
    """A clock that tests advance."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def slide(slide_id: str = "s") -> Slide:
    return Slide(slide_id, "Müller 3.svs", "slide.svs", 7, "00" * 32, 999.5, FACTS)


def ids(page: Page[Any]) -> list[str]:
    return [one.id for one in page.entries]


def spoil(store: SqlStore, table: str, row_id: str, was: str, now: str) -> None:
    """Write an invalid document into a row."""
    with store._database.writing() as db:
        (document,) = db.execute(f"SELECT document FROM {table} WHERE id = ?", (row_id,)).fetchone()
        assert was in document
        db.execute(f"UPDATE {table} SET document = ? WHERE id = ?", (document.replace(was, now), row_id))


def add(store: Store, job_id: str, order: JobOrder = ORDER, **facts: Any) -> Job:
    """Queue one job."""
    (job,), new = store.add_jobs([Job(job_id, order, 1000.0, **facts)])
    assert new
    return job


@pytest.fixture
def clock() -> Clock:
    return Clock()


class StoreContract:
    """Tests of all databases; a subclass provides the fixture `store`."""

    def test_slide_is_stored_unchanged(self, store: Store) -> None:
        store.add_slide(slide())
        assert store.slide("s") == slide()
        assert store.slide("t") is None

    def test_slides_are_listed_in_pages_newest_first(self, store: Store) -> None:
        for name in "abcde":
            store.add_slide(slide(name))
        first = store.slides(3)
        assert [one.id for one in first.entries] == ["e", "d", "c"]
        store.remove_slide("c")  # the last entry of the page; its cursor must remain valid
        second = store.slides(3, before=first.cursor)
        assert ([one.id for one in second.entries], second.cursor) == (["b", "a"], None)

    def test_last_page_has_no_cursor(self, store: Store) -> None:
        for name in "abc":
            store.add_slide(slide(name))
        assert store.slides(3).cursor is None
        assert store.slides(2).cursor is not None

    def test_slides_and_bytes_are_found_by_owner(self, store: Store) -> None:
        for name, owner in (("a", "x"), ("b", "y"), ("c", "x"), ("d", None)):
            store.add_slide(replace(slide(name), owner=owner))
        assert [one.id for one in store.slides(9, owner="x").entries] == ["c", "a"]
        assert (store.kept_bytes("x"), store.kept_bytes("z"), store.kept_bytes(None)) == (14, 0, 28)

    def test_refused_slide_is_not_stored(self, store: Store) -> None:
        store.add_slide(slide("a"))

        def refuse(kept: int) -> None:
            raise ValueError(kept)

        with pytest.raises(ValueError, match="7"):
            store.add_slide(slide("b"), refuse)
        assert store.slide("b") is None

    def test_idle_slides_are_those_that_no_unfinished_job_needs(self, store: Store) -> None:
        for name in "abc":
            store.add_slide(slide(name))
        add(store, "j", JobOrder("a", model="bicubic"))
        add(store, "k", JobOrder("b", model="bicubic"))
        store.cancel("k")
        assert [one.id for one in store.idle_slides(9)] == ["b", "c"]

    def test_slide_in_use_cannot_be_removed(self, store: Store) -> None:
        store.add_slide(slide())
        add(store, "j")
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
            add(store, "j")

    def test_job_is_stored_unchanged(self, store: Store) -> None:
        store.add_slide(slide())
        assert add(store, "j") == store.job("j")
        job = store.job("j")
        assert job is not None
        assert (job.order, job.state, job.created) == (ORDER, JobState.QUEUED, 1000.0)

    def test_jobs_are_listed_by_state(self, store: Store) -> None:
        store.add_slide(slide())
        for name in "abcd":
            add(store, name)
        store.cancel("b")
        assert ids(store.jobs(9)) == ["d", "c", "b", "a"]
        queued = JobFilter(state=JobState.QUEUED)
        first = store.jobs(2, wanted=queued)
        assert ids(first) == ["d", "c"]
        assert ids(store.jobs(9, first.cursor, queued)) == ["a"]

    def test_jobs_are_found_by_slide_batch_and_owner(self, store: Store) -> None:
        store.add_slide(slide("s"))
        store.add_slide(slide("t"))
        add(store, "a", owner="x", batch="1")
        add(store, "b", JobOrder("t", model="bicubic"), owner="x")
        add(store, "c", owner="y", batch="1")
        assert ids(store.jobs(9, wanted=JobFilter(slide="s"))) == ["c", "a"]
        assert ids(store.jobs(9, wanted=JobFilter(batch="1"))) == ["c", "a"]
        assert ids(store.jobs(9, wanted=JobFilter(owner="x"))) == ["b", "a"]
        assert ids(store.jobs(9, wanted=JobFilter(owner="x", batch="1"))) == ["a"]

    def test_jobs_are_added_all_or_none(self, store: Store) -> None:
        store.add_slide(slide("s"))
        wanted = [Job("a", ORDER, 1000.0), Job("b", JobOrder("gone", model="bicubic"), 1000.0)]
        with pytest.raises(UnknownSlideError, match="gone"):
            store.add_jobs(wanted)
        assert ids(store.jobs(9)) == []

    def test_admission_gets_the_unfinished_jobs_and_can_refuse(self, store: Store) -> None:
        store.add_slide(slide("s"))
        for name in "abcd":
            add(store, name)
        store.cancel("b")
        store.pause("c")

        def refuse(unfinished: Sequence[Job]) -> None:
            raise ValueError(sorted(job.id for job in unfinished))

        with pytest.raises(ValueError, match=r"\['a', 'c', 'd'\]"):
            store.add_jobs([Job("e", ORDER, 1000.0)], refuse)
        assert store.job("e") is None
        with pytest.raises(ValueError, match="'d'"):
            store.retry("b", refuse)
        assert store.job("b") is not None
        assert store.counts() == {JobState.QUEUED: 2, JobState.PAUSED: 1, JobState.CANCELLED: 1}

    def test_key_returns_the_same_jobs_and_refuses_another_request(self, store: Store) -> None:
        store.add_slide(slide("s"))
        key = IdempotencyKey("x", "k", "fingerprint")
        made, new = store.add_jobs([Job("a", ORDER, 1000.0), Job("b", ORDER, 1000.0)], key=key)
        assert new
        again, new = store.add_jobs([Job("c", ORDER, 1001.0), Job("d", ORDER, 1001.0)], key=key)
        assert (again, new) == (made, False)
        assert ids(store.jobs(9)) == ["b", "a"]
        with pytest.raises(KeyReusedError):
            store.add_jobs([Job("e", ORDER, 1001.0)], key=IdempotencyKey("x", "k", "another"))
        _, new = store.add_jobs([Job("f", ORDER, 1001.0)], key=IdempotencyKey("y", "k", "another"))
        assert new
        store.forget_keys(1000.5)
        _, new = store.add_jobs([Job("g", ORDER, 1002.0)], key=key)
        assert new

    def test_only_claim_loads_the_region_of_interest(self, store: Store) -> None:
        store.add_slide(slide("s"))
        roi = Roi((((((0.5, 1.0), (9.0, 1.0), (9.0, 7.0), (0.5, 1.0))),),))
        add(store, "a", replace(ORDER, region=None, roi=roi))
        known = store.job("a")
        assert known is not None
        assert (known.order.roi, known.order.roi_points) == (UnloadedRoi(), 4)
        for worker in ("w1", "w2"):
            claimed = store.claim(worker)
            assert claimed is not None
            assert claimed.order.roi == roi
            store.settle("a", claimed.attempt, Outcome(JobState.QUEUED))

    def test_simultaneous_requests_with_one_key_create_one_job(self, store: Store) -> None:
        store.add_slide(slide("s"))
        key = IdempotencyKey("", "k", "fingerprint")
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda name: store.add_jobs([Job(name, ORDER, 1000.0)], key=key), "abcdefgh"))
        assert sum(new for _, new in made) == 1
        assert len({job.id for (job,), _ in made}) == 1

    def test_revisions_count_visible_changes(self, store: Store) -> None:
        store.add_slide(slide("s"))
        add(store, "a")
        add(store, "b")
        store.claim("w")
        before = store.revisions(["a", "b", "none"])
        assert set(before) == {"a", "b"}
        store.heartbeat("a", 1)
        assert store.revisions(["a"])["a"] == before["a"]
        store.advance("a", 1, Progress(Stage.UPSCALING, 1, 2))
        assert store.revisions(["a", "b"]) == {"a": before["a"] + 1, "b": before["b"]}
        assert store.revisions([]) == {}

    def test_changes_are_numbered_in_the_order_of_their_commits(self, store: Store) -> None:
        start = store.last_change()
        store.add_slide(slide("s"))
        for name in "abc":
            add(store, name)
        assert [one.job.id for one in store.changes(start, 9)] == ["a", "b", "c"]
        assert [one.job.id for one in store.changes(start, 2)] == ["a", "b"]
        assert store.changes(start, 9)[-1].number == store.last_change() == start + 3
        claimed = store.claim("w")
        (change,) = store.changes(start + 3, 9)
        assert (change.number, change.job) == (start + 4, claimed)
        store.heartbeat("a", 1)
        assert store.last_change() == start + 4, "a heartbeat is not a change"
        store.settle("a", 1, DONE)
        store.cancel("b")
        assert [one.job.id for one in store.changes(start, 9)] == ["c", "a", "b"]
        assert [one.job.id for one in store.unfinished()] == ["c"]
        store.retry("b")
        store.delete_result("a")
        assert [(one.job.id, one.job.state.value) for one in store.changes(start + 6, 9)] == [
            ("b", "queued"),
            ("a", "succeeded"),
        ]
        assert [one.job.id for one in store.unfinished()] == ["c", "b"]

    def test_reader_misses_no_change_of_concurrent_writers(self, store: Store) -> None:
        store.add_slide(slide("s"))
        heard, seen = store.last_change(), []
        with ThreadPoolExecutor(4) as pool:
            writing = [pool.submit(add, store, f"j{number}") for number in range(60)]
            while not all(one.done() for one in writing) or store.last_change() > heard:
                for change in store.changes(heard, 7):
                    heard = change.number
                    seen.append(change.job.id)
        assert sorted(seen) == sorted(f"j{number}" for number in range(60))

    def test_paused_job_is_not_claimed_until_it_is_resumed(self, store: Store) -> None:
        store.add_slide(slide("s"))
        add(store, "a")
        assert store.pause("a").state is JobState.PAUSED
        assert store.claim("w") is None
        store.resume("a")
        assert store.claim("w") is not None
        assert store.pause("a").pause_requested
        assert store.heartbeat("a", 1) is HeartbeatReply.PAUSE
        assert store.settle("a", 1, Outcome(JobState.QUEUED)).state is JobState.PAUSED

    def test_ending_sessions_increases_only_that_tokens_generation(self, store: Store) -> None:
        (first, _), (second, _) = (new_token("lab", frozenset({Scope.READ}), 1.0) for _ in range(2))
        store.add_token(first)
        store.add_token(second)
        for generation in (1, 2):
            store.end_sessions(first.id)
            assert store.token(first.sha256) == replace(first, generation=generation)
        assert store.token(second.sha256) == second
        assert store.tokens() == [replace(first, generation=2), second]
        with pytest.raises(UnknownTokenError):
            store.end_sessions("none")

    def test_failures_are_counted_permanently(self, store: Store, clock: Clock) -> None:
        store.add_slide(slide("s"))
        full = Outcome(JobState.FAILED, problem("storage.full", "no room"))
        add(store, "a")
        for attempt in (1, 2):
            store.claim("w")
            store.settle("a", attempt, full)
            store.retry("a")
            assert store.failures() == {"storage.full": attempt}
        store.claim("w")
        store.settle("a", 3, DONE)
        store.delete_result("a")
        assert store.failures() == {"storage.full": 2}
        add(store, "b")
        for _ in range(MAX_CRASHES):
            store.claim("silent")
            clock.now += LEASE + 1
        assert store.claim("w") is None  # ends the job
        assert store.failures() == {"storage.full": 2, "job.crashed-repeatedly": 1}
        add(store, "c")
        for _ in range(MAX_CRASHES):
            store.claim("silent")
            clock.now += LEASE + 1
        assert store.pause("c").state is JobState.FAILED
        store.delete_result("c")
        assert store.failures() == {"storage.full": 2, "job.crashed-repeatedly": 2}

    def test_retried_job_gets_a_new_attempt(self, store: Store) -> None:
        store.add_slide(slide("s"))
        add(store, "a")
        store.claim("w")
        store.settle("a", 1, Outcome(JobState.FAILED, problem("storage.full", "no room")))
        assert store.failures() == {"storage.full": 1}
        retried = store.retry("a")
        assert (retried.state, retried.problem, retried.attempt) == (JobState.QUEUED, None, 1)
        with pytest.raises(LeaseLostError):
            store.settle("a", 1, DONE)
        claimed = store.claim("w")
        assert claimed is not None
        assert claimed.attempt == 2

    def test_retry_needs_the_slide(self, store: Store) -> None:
        store.add_slide(slide("s"))
        add(store, "a")
        store.cancel("a")
        store.remove_slide("s")
        with pytest.raises(UnknownSlideError):
            store.retry("a")

    def test_ended_jobs_are_found_by_age_until_their_files_are_deleted(self, store: Store, clock: Clock) -> None:
        store.add_slide(slide("s"))
        for name in "ab":
            add(store, name)
            store.claim("w")
            store.settle(name, 1, DONE)
            clock.now += 10
        assert [job.id for job in store.ended(JobState.SUCCEEDED, 1005.0, 9)] == ["a"]
        assert [job.id for job in store.ended(JobState.SUCCEEDED, 1015.0, 9)] == ["a", "b"]
        assert store.ended(JobState.FAILED, 1015.0, 9) == []
        store.delete_result("a")
        assert [job.id for job in store.ended(JobState.SUCCEEDED, 1015.0, 9)] == ["b"]

    def test_token_is_found_by_its_hash_until_it_is_revoked(self, store: Store) -> None:
        token, secret = new_token("lab", frozenset({Scope.READ}), 1000.0, expires=2000.0, max_jobs=3)
        store.add_token(token)
        assert store.token(hash_of(secret)) == token
        assert store.tokens() == [token]
        assert store.token(hash_of(secret + "x")) is None
        store.revoke_token(token.id)
        assert store.token(hash_of(secret)) is None
        with pytest.raises(UnknownTokenError):
            store.revoke_token(token.id)

    def test_oldest_job_is_claimed_first_and_by_one_worker(self, store: Store) -> None:
        store.add_slide(slide())
        add(store, "a")
        add(store, "b")
        claimed = [store.claim("w1"), store.claim("w2"), store.claim("w3")]
        assert [job and job.id for job in claimed] == ["a", "b", None]

    def test_worker_without_heartbeats_loses_its_job(self, store: Store, clock: Clock) -> None:
        store.add_slide(slide())
        add(store, "j")
        store.claim("w1")
        clock.now += LEASE - 1
        assert store.heartbeat("j", 1) is HeartbeatReply.CONTINUE
        clock.now += LEASE - 1
        assert store.claim("w2") is None
        clock.now += 1
        taken = store.claim("w2")
        assert taken is not None
        assert (taken.id, taken.attempt, taken.worker) == ("j", 2, "w2")

    def test_writes_of_an_earlier_attempt_are_refused(self, store: Store, clock: Clock) -> None:
        store.add_slide(slide())
        add(store, "j")
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

    def test_ended_job_refuses_writes(self, store: Store) -> None:
        store.add_slide(slide())
        add(store, "j")
        store.claim("w")
        job = store.settle("j", 1, DONE)
        assert (job.state, job.result, job.warnings) == (JobState.SUCCEEDED, DONE.result, ("pale",))
        with pytest.raises(LeaseLostError):
            store.settle("j", 1, Outcome(JobState.CANCELLED))
        with pytest.raises(ForbiddenTransitionError):
            store.cancel("j")

    def test_progress_is_stored(self, store: Store) -> None:
        store.add_slide(slide())
        add(store, "j")
        store.claim("w")
        progress = Progress(Stage.UPSCALING, 3, 9, 1.5, 4.0, 2)
        store.advance("j", 1, progress)
        job = store.job("j")
        assert job is not None
        assert job.progress == progress

    def test_heartbeat_returns_the_cancellation(self, store: Store) -> None:
        store.add_slide(slide())
        add(store, "j")
        store.claim("w")
        assert store.cancel("j").state is JobState.RUNNING
        assert store.heartbeat("j", 1) is HeartbeatReply.CANCEL

    def test_cancelled_job_of_a_dead_worker_is_not_run_again(self, store: Store, clock: Clock) -> None:
        store.add_slide(slide())
        add(store, "j")
        add(store, "k")
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
        add(store, "j")
        for attempt in (1, 2, 3):
            assert store.claim("w") is not None
            crash = Outcome(JobState.QUEUED, problem("runner.crashed", "signal 11"), crashed=True)
            job = store.settle("j", attempt, crash)
        assert job.state is JobState.FAILED
        assert job.problem is not None
        assert job.problem.code == "slide.crashes-decoder"
        assert store.claim("w") is None

    def test_deleting_a_result_keeps_the_job(self, store: Store, clock: Clock) -> None:
        store.add_slide(slide())
        add(store, "j")
        with pytest.raises(ForbiddenTransitionError):
            store.delete_result("j")
        store.claim("w")
        store.settle("j", 1, DONE)
        assert store.delete_result("j").result_deleted == clock.now
        assert store.delete_result("j").result_deleted == clock.now

    def test_unknown_job_raises(self, store: Store) -> None:
        assert store.job("j") is None
        for refuse in (store.cancel, store.delete_result):
            with pytest.raises(UnknownJobError):
                refuse("j")
        with pytest.raises(LeaseLostError):
            store.heartbeat("j", 1)

    def test_workers_are_listed_by_their_last_status(self, store: Store, clock: Clock) -> None:
        assert store.workers() == []
        store.record_worker(WorkerStatus("w1", 0, "cuda", 0.5))
        clock.now += 5
        store.record_worker(WorkerStatus("w2", 0))
        clock.now += 5
        store.record_worker(WorkerStatus("w1", 0, "cuda", 0.75))
        assert store.workers() == [WorkerStatus("w1", 1010.0, "cuda", 0.75), WorkerStatus("w2", 1005.0)]

    def test_no_job_is_claimed_twice_by_many_threads(self, store: Store) -> None:
        store.add_slide(slide())
        for number in range(24):
            add(store, f"j{number}")
        with ThreadPoolExecutor(8) as pool:
            claimed = [job.id for job in pool.map(store.claim, [f"w{n}" for n in range(40)]) if job]
        assert sorted(claimed) == sorted(f"j{number}" for number in range(24))

    def test_invalid_row_is_skipped_and_can_be_removed(self, store: SqlStore) -> None:
        for name in "abc":
            store.add_slide(replace(slide(name), owner="x"))
        for name in "jk":
            add(store, name, JobOrder("a", model="bicubic"))
        token, _ = new_token("t", frozenset({Scope.READ}), 1000.0)
        store.add_token(token)
        spoil(store, "slides", "b", '"mpp":[0.5,0.25]', '"mpp":[null,null]')
        spoil(store, "jobs", "j", '"model":"bicubic"', '"model":7')
        spoil(store, "tokens", token.id, '"created":1000.0', '"created":"long ago"')
        assert (ids(store.slides(9)), store.slide("b"), store.has_slide("b")) == (["c", "a"], None, True)
        assert (ids(store.jobs(9)), store.job("j"), store.has_job("j")) == (["k"], None, True)
        assert [change.job.id for change in (*store.changes(0, 9), *store.unfinished())] == ["k", "k"]
        assert [change.job.id for change in store.changes(0, 1)] == ["k"], "an invalid row must not hide later changes"
        assert [one.id for one in store.idle_slides(9)] == ["c"]
        assert (store.tokens(), store.token(token.sha256)) == ([], None)
        claimed = store.claim("w")
        assert claimed is not None
        assert claimed.id == "k"
        assert store.claim("w") is None
        assert store.owner_of_slide("b") == "x"
        store.remove_slide("b")
        assert not store.has_slide("b")
        store.settle("k", 1, DONE)
        store.remove_slide("a")  # an invalid job does not need it
        with pytest.raises(UnknownSlideError):
            store.owner_of_slide("a")

    def test_invalid_region_of_interest_does_not_block_other_jobs(self, store: SqlStore) -> None:
        store.add_slide(slide())
        for name in "jk":
            add(store, name, replace(ORDER, region=None, roi=Roi((((((0.0, 0.0), (9.0, 0.0), (9.0, 9.0))),),))))
        with store._database.writing() as db:
            db.execute("UPDATE jobs SET roi = '[NaN' WHERE id = 'j'")
        claimed = store.claim("w")
        assert claimed is not None
        assert (claimed.id, store.claim("w")) == ("k", None)

    def test_invalid_retention_time_is_replaced(self, store: SqlStore, clock: Clock) -> None:
        for spoilt in ("soon", "nan", ""):
            with store._database.writing() as db:
                db.execute("DELETE FROM service_facts")
                db.execute("INSERT INTO service_facts (name, value) VALUES ('retention_time', ?)", (spoilt,))
            assert store.retention_time() == clock.now

    def test_lease_of_a_fast_clock_is_shortened(self, store: Store, clock: Clock) -> None:
        store.add_slide(slide())
        for name in "jkl":
            add(store, name)
        clock.now += 86400
        for _ in "jkl":
            store.claim("of a wrong clock")
        clock.now -= 86400
        assert store.claim("w") is None, "its worker may still be running"
        store.heartbeat("j", 1)
        clock.now += 0.9 * LEASE
        store.heartbeat("j", 1)
        clock.now += 0.2 * LEASE
        taken = store.claim("w")
        assert taken is not None
        assert (taken.id, taken.attempt) == ("k", 2)
        assert store.cancel("l").state is JobState.CANCELLED

    def test_longer_lease_of_other_settings_is_kept(self, store: SqlStore, clock: Clock) -> None:
        store.add_slide(slide())
        add(store, "j")
        patient = SqlStore(store._database, lease_seconds=LEASE + 30)
        assert patient.claim("patient") is not None
        assert store.claim("w") is None
        store.pause("j")
        clock.now += LEASE + 20
        assert store.claim("w") is None
        assert patient.heartbeat("j", 1) is HeartbeatReply.PAUSE

    def test_abandoned_job_of_a_fast_clock_is_cancelled(self, store: Store, clock: Clock) -> None:
        store.add_slide(slide())
        add(store, "j")
        clock.now += 86400
        store.claim("of a wrong clock")
        clock.now -= 86400
        assert store.cancel("j").state is JobState.RUNNING
        clock.now += LEASE
        assert store.cancel("j").state is JobState.CANCELLED

    def test_identity_and_retention_time_are_stored(self, store: Store, clock: Clock) -> None:
        assert (store.identity(), store.has_entries()) == (None, False)
        store.keep_identity("one")
        store.keep_identity("other")
        store.add_slide(slide())
        assert (store.identity(), store.has_entries()) == ("other", True)
        assert store.retention_time() == clock.now
        store.keep_retention_time(clock.now + 5.25)
        store.keep_retention_time(clock.now + 1)
        assert store.retention_time() == clock.now + 5.25

    def test_slide_is_not_removed_while_a_job_for_it_is_added(self, store: Store) -> None:
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

            def add_job(name: str = name, gate: threading.Barrier = gate, outcomes: list[str] = outcomes) -> None:
                gate.wait()
                try:
                    add(store, f"job of {name}", JobOrder(name, model="bicubic"))
                    outcomes.append("added")
                except UnknownSlideError:
                    pass

            threads = [threading.Thread(target=remove), threading.Thread(target=add_job)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(outcomes) == 1


class TestPostgres(StoreContract):
    @pytest.fixture
    def store(self, clock: Clock, postgres: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
        database = Postgres(postgres)
        with database.writing() as db:
            db.execute("TRUNCATE slides, jobs, workers, tokens, keys, service_facts, failures")
        monkeypatch.setattr(database, "now", clock)
        made = SqlStore(database, lease_seconds=LEASE)
        yield made
        made.close()

    def test_time_is_that_of_the_server(self, postgres: str) -> None:
        database = Postgres(postgres)
        assert abs(database.now() - time.time()) < 5
        database.close()

    def test_idle_transaction_is_ended_by_the_server(self, postgres: str) -> None:
        database = Postgres(postgres)
        with database.reading() as db:
            assert db.execute("SHOW idle_in_transaction_session_timeout").fetchone() == ("30s",)
        database.close()

    def test_database_of_the_first_version_is_migrated(self, postgres: str) -> None:
        job = '{"id":"j","order":{"slide":"s","model":"bicubic"},"created":1.0,"state":"succeeded","finished":2.0}'
        with psycopg.connect(postgres, autocommit=True) as db:
            db.execute("CREATE SCHEMA old")
            db.execute("SET search_path = old")
            for statement in postgres_module.MIGRATIONS[0]:
                db.execute(statement.encode())
            db.execute("INSERT INTO jobs (id, document) VALUES ('j', %s), ('k', %s)", (job, job.replace("j", "k", 1)))
            db.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
            db.execute("INSERT INTO schema_version VALUES (1)")
            try:
                store = SqlStore(Postgres(psycopg.conninfo.make_conninfo(postgres, options="-c search_path=old")))
                assert (store.last_change(), [one.number for one in store.changes(0, 9)]) == (2, [1, 2])
                store.close()
            finally:
                db.execute("DROP SCHEMA old CASCADE")

    def test_migration_counts_earlier_failures(self, postgres: str) -> None:
        with psycopg.connect(postgres, autocommit=True) as db:
            db.execute("CREATE SCHEMA uncounted")
            db.execute("SET search_path = uncounted")
            for statement in (one for step in postgres_module.MIGRATIONS[: BEFORE_FAILURES - 1] for one in step):
                db.execute(statement.encode())
            for number, document in enumerate(FAILED_BEFORE):
                db.execute(
                    "INSERT INTO jobs (id, document, changed) VALUES (%s, %s, %s)", (str(number), document, number)
                )
            db.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
            db.execute("INSERT INTO schema_version VALUES (%s)", (BEFORE_FAILURES - 1,))
            try:
                address = psycopg.conninfo.make_conninfo(postgres, options="-c search_path=uncounted")
                for _ in range(2):
                    store = SqlStore(Postgres(address))
                    assert store.failures() == {"storage.full": 2, "internal": 1}
                    store.close()
            finally:
                db.execute("DROP SCHEMA uncounted CASCADE")

    def test_claiming_workers_do_not_wait_for_each_other(self, store: Store, postgres: str) -> None:
        store.add_slide(slide())
        add(store, "a")
        add(store, "b")
        other = Postgres(postgres)
        with other.writing() as db:
            db.execute("SELECT id FROM jobs WHERE id = 'a' FOR UPDATE").fetchone()
            claimed = store.claim("w")
        assert claimed is not None
        assert claimed.id == "b"
        other.close()

    def test_store_survives_a_restart_of_the_server(self, store: Store, postgres: str) -> None:
        store.add_slide(slide())
        with psycopg.connect(postgres, autocommit=True) as db:
            db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        assert store.slide("s") == slide()

    def test_unreachable_server_raises(self) -> None:
        with pytest.raises(StoreUnavailableError):
            Postgres("postgresql://nobody@127.0.0.1:1/x", wait_seconds=0.3)

    def test_database_of_a_newer_version_is_refused(self, store: Store, postgres: str) -> None:
        with psycopg.connect(postgres) as db:
            db.execute("UPDATE schema_version SET version = 99")
        try:
            with pytest.raises(StoreError, match="newer"):
                Postgres(postgres)
        finally:
            with psycopg.connect(postgres) as db:
                db.execute("UPDATE schema_version SET version = %s", (len(postgres_module.MIGRATIONS),))


class TestSqlite(StoreContract):
    @pytest.fixture
    def store(self, clock: Clock, tmp_path: Path) -> Iterator[Store]:
        made = SqlStore(Sqlite(tmp_path / "jobs.sqlite3", clock), lease_seconds=LEASE)
        yield made
        made.close()

    def test_entries_are_durable(self, store: Store, clock: Clock, tmp_path: Path) -> None:
        store.add_slide(slide())
        add(store, "j")
        store.claim("w")
        store.advance("j", 1, Progress(Stage.UPSCALING, 3, 9))
        job = store.settle("j", 1, DONE)
        store.close()
        again = SqlStore(Sqlite(tmp_path / "jobs.sqlite3", clock), lease_seconds=LEASE)
        assert (again.slide("s"), again.job("j")) == (slide(), job)
        again.close()

    def test_database_uses_a_write_ahead_log_with_full_sync(self, store: SqlStore) -> None:
        with store._database.reading() as db:
            assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert db.execute("PRAGMA synchronous").fetchone() == (2,)
            assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)

    def test_database_of_a_newer_version_is_refused(self, store: Store, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "jobs.sqlite3") as db:
            db.execute("PRAGMA user_version = 99")
        db.close()
        with pytest.raises(StoreError, match="newer"):
            Sqlite(tmp_path / "jobs.sqlite3")

    def test_database_of_the_first_version_is_migrated(self, tmp_path: Path) -> None:
        old = tmp_path / "old.sqlite3"
        db = sqlite3.connect(old)
        for statement in MIGRATIONS[0]:
            db.execute(statement)
        job = '{"id":"j","order":{"slide":"s","model":"bicubic"},"created":1.0,"state":"succeeded","finished":2.0}'
        db.execute("INSERT INTO jobs (id, document) VALUES ('j', ?)", (job,))
        db.execute("PRAGMA user_version = 1")
        db.commit()
        db.close()
        store = SqlStore(Sqlite(old))
        assert store.revisions(["j"]) == {"j": 0}
        assert (store.last_change(), [one.job.id for one in store.changes(0, 9)]) == (1, ["j"])
        store.add_slide(slide("s"))
        add(store, "k")
        assert [one.job.id for one in store.changes(1, 9)] == ["k"]
        assert ids(store.jobs(9, wanted=JobFilter(slide="s"))) == ["k", "j"]
        store.close()

    def test_migration_counts_earlier_failures(self, tmp_path: Path) -> None:
        old = tmp_path / "old.sqlite3"
        db = sqlite3.connect(old)
        for statement in (one for step in MIGRATIONS[:BEFORE_FAILURES] for one in step):
            db.execute(statement)
        for number, document in enumerate(FAILED_BEFORE):
            db.execute("INSERT INTO jobs (id, document, changed) VALUES (?, ?, ?)", (str(number), document, number))
        db.execute(f"PRAGMA user_version = {BEFORE_FAILURES}")
        db.commit()
        db.close()
        for _ in range(2):
            store = SqlStore(Sqlite(old))
            assert store.failures() == {"storage.full": 2, "internal": 1}
            store.close()

    def test_check_fails_without_write_access(self, store: SqlStore) -> None:
        store.check()
        with store._database.reading() as db:
            db.execute("PRAGMA query_only = ON")
        with pytest.raises(StoreUnavailableError):
            store.check()
        store.check()

    def test_removed_or_replaced_file_refuses_writes(self, store: SqlStore, tmp_path: Path) -> None:
        store.add_slide(slide())
        for path in tmp_path.glob("jobs.sqlite3*"):
            path.unlink()
        for refused in (store.check, lambda: add(store, "j")):
            with pytest.raises(StoreUnavailableError, match="removed or replaced"):
                refused()
        other = SqlStore(Sqlite(tmp_path / "jobs.sqlite3"))
        with pytest.raises(StoreUnavailableError, match="removed or replaced"):
            store.check()
        other.close()

    def test_damaged_file_is_refused_at_startup(self, store: SqlStore, tmp_path: Path) -> None:
        store.add_slide(slide())
        for number in range(200):
            add(store, f"j{number}")
        store.close()
        with (tmp_path / "jobs.sqlite3").open("r+b") as file:
            file.seek(4096)
            file.write(b"\xa5" * 8192)
        with pytest.raises(StoreError, match="damaged"):
            Sqlite(tmp_path / "jobs.sqlite3")

    def test_refused_write_changes_nothing_and_releases_the_store(self, store: Store) -> None:
        with pytest.raises(UnknownSlideError):
            add(store, "j")
        store.add_slide(slide())
        assert ids(store.jobs(9)) == []


def test_several_processes_can_start_on_a_new_database_at_once(tmp_path: Path) -> None:
    script = "import sys, pathlib; from slidelift.service.jobs.sqlite import Sqlite; Sqlite(pathlib.Path(sys.argv[1]))"
    started = [subprocess.Popen([sys.executable, "-c", script, tmp_path / "new.sqlite3"]) for _ in range(4)]
    assert [process.wait(60) for process in started] == [0] * 4


WRITER = """
import sys
from pathlib import Path
from slidelift.service.jobs.job import Job, JobOrder
from slidelift.service.jobs.slide import Slide, SlideFacts
from slidelift.service.jobs.sql_store import SqlStore
from slidelift.service.jobs.sqlite import Sqlite
store = SqlStore(Sqlite(Path(sys.argv[1])))
if store.slide("s") is None:
    store.add_slide(Slide("s", "n", "f", 1, "00", 0.0, SlideFacts(1, 1, None, None, None, ())))
for number in range(10**6):
    store.add_jobs([Job(f"{sys.argv[2]}-{number}", JobOrder("s", model="bicubic"), 0.0)])
    print(f"{sys.argv[2]}-{number}", flush=True)
"""


def test_kill_9_loses_no_acknowledged_job(tmp_path: Path) -> None:
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
    store = SqlStore(Sqlite(database))
    kept = set(ids(store.jobs(10**6)))
    with store._database.reading() as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()
    assert len(acknowledged) > 20
    assert set(acknowledged) <= kept
