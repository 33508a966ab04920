"""The durable store: one SQLite file, shared by the API and its workers on one machine.

Write-ahead log with synchronous=FULL: a commit survives kill -9 and power loss and costs about 0.3 ms. Each row holds
its slide or job as one JSON document; what SQL must see of it are columns generated from the document, so that there is
one truth. Every write is one short immediate transaction: read, move (`service.jobs.job`), write.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pydantic import TypeAdapter

from service.jobs.job import Job, JobOrder, JobState, Outcome
from service.jobs.slide import Slide
from service.jobs.store import (
    Beat,
    LeaseLostError,
    SlideInUseError,
    StoreError,
    StoreFullError,
    UnknownJobError,
    UnknownSlideError,
)
from service.progress import Progress

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE slides (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            document TEXT NOT NULL
        )""",
        """CREATE TABLE jobs (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            document TEXT NOT NULL,
            slide TEXT GENERATED ALWAYS AS (json_extract(document, '$.order.slide')) VIRTUAL,
            state TEXT GENERATED ALWAYS AS (json_extract(document, '$.state')) VIRTUAL,
            lease_until REAL GENERATED ALWAYS AS (json_extract(document, '$.lease_until')) VIRTUAL
        )""",
        "CREATE INDEX jobs_by_state ON jobs (state, lease_until)",
        "CREATE INDEX jobs_by_slide ON jobs (slide, state)",
        "CREATE TABLE workers (id TEXT PRIMARY KEY, seen REAL NOT NULL)",
    ),
)
"""Step n brings a database from `user_version` n to n + 1. Steps are added, never changed."""

BUSY_SECONDS = 10
"""How long a write waits for another's; writes take milliseconds, so this much means that something is wrong."""

WORKER_MEMORY_SECONDS = 24 * 3600
"""How long the sign of life of a worker that is gone is kept."""

_JOB = TypeAdapter(Job)
_SLIDE = TypeAdapter(Slide)


class SqlStore:
    """A Store in one SQLite file; see `service.jobs.store.Store` for what each method promises.

    Connections are pooled: at most one for each thread that is inside a method at the same time. The store owns them
    and `close` closes them.
    """

    def __init__(self, path: Path, *, lease_seconds: float = 15, clock: Callable[[], float] = time.time) -> None:
        self._path, self._lease_seconds, self._clock = path, lease_seconds, clock
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._migrate()

    def add_slide(self, slide: Slide) -> None:
        with self._writing() as db:
            db.execute("INSERT INTO slides (id, document) VALUES (?, ?)", (slide.id, _SLIDE.dump_json(slide).decode()))

    def slide(self, slide_id: str) -> Slide | None:
        with self._reading() as db:
            row = db.execute("SELECT document FROM slides WHERE id = ?", (slide_id,)).fetchone()
        return _SLIDE.validate_json(row[0]) if row else None

    def slides(self, limit: int, before: str | None = None) -> list[Slide]:
        with self._reading() as db:
            rows = db.execute(
                "SELECT document FROM slides WHERE ?2 IS NULL OR seq < (SELECT seq FROM slides WHERE id = ?2) "
                "ORDER BY seq DESC LIMIT ?1",
                (limit, before),
            ).fetchall()
        return [_SLIDE.validate_json(document) for (document,) in rows]

    def remove_slide(self, slide_id: str) -> None:
        with self._writing() as db:
            user = db.execute(
                "SELECT id, state FROM jobs WHERE slide = ? AND state IN ('queued', 'running')", (slide_id,)
            ).fetchone()
            if user:
                raise SlideInUseError(f"job {user[0]} is {user[1]} and needs the slide")
            if not db.execute("DELETE FROM slides WHERE id = ?", (slide_id,)).rowcount:
                raise UnknownSlideError(slide_id)

    def add_job(self, job_id: str, order: JobOrder) -> Job:
        job = Job(job_id, order, self._clock())
        with self._writing() as db:
            if not db.execute("SELECT 1 FROM slides WHERE id = ?", (order.slide,)).fetchone():
                raise UnknownSlideError(order.slide)
            db.execute("INSERT INTO jobs (id, document) VALUES (?, ?)", (job.id, _JOB.dump_json(job).decode()))
        return job

    def job(self, job_id: str) -> Job | None:
        with self._reading() as db:
            return _find(db, job_id)

    def jobs(self, limit: int, before: str | None = None, state: JobState | None = None) -> list[Job]:
        with self._reading() as db:
            rows = db.execute(
                "SELECT document FROM jobs WHERE (?2 IS NULL OR seq < (SELECT seq FROM jobs WHERE id = ?2)) "
                "AND (?3 IS NULL OR state = ?3) ORDER BY seq DESC LIMIT ?1",
                (limit, before, state),
            ).fetchall()
        return [_JOB.validate_json(document) for (document,) in rows]

    def cancel(self, job_id: str) -> Job:
        with self._writing() as db:
            return _keep(db, _known(db, job_id).cancelled(self._clock()))

    def delete_result(self, job_id: str) -> Job:
        with self._writing() as db:
            return _keep(db, _known(db, job_id).without_result(self._clock()))

    def claim(self, worker: str) -> Job | None:
        with self._writing() as db:
            now = self._clock()
            while row := db.execute(
                "SELECT document FROM jobs WHERE state = 'queued' OR (state = 'running' AND lease_until <= ?) "
                "ORDER BY seq LIMIT 1",
                (now,),
            ).fetchone():
                job = _keep(db, _JOB.validate_json(row[0]).claimed(worker, now, self._lease_seconds))
                if job.state is JobState.RUNNING:
                    return job
        return None

    def heartbeat(self, job_id: str, attempt: int) -> Beat:
        with self._writing() as db:
            job = _keep(db, _held(db, job_id, attempt).extended(self._clock(), self._lease_seconds))
        return Beat.CANCEL if job.cancel_requested else Beat.GO_ON

    def advance(self, job_id: str, attempt: int, progress: Progress) -> None:
        with self._writing() as db:
            _keep(db, _held(db, job_id, attempt).advanced(progress))

    def settle(self, job_id: str, attempt: int, outcome: Outcome) -> Job:
        with self._writing() as db:
            return _keep(db, _held(db, job_id, attempt).settled(outcome, self._clock()))

    def sign_of_life(self, worker: str) -> None:
        now = self._clock()
        with self._writing() as db:
            db.execute(
                "INSERT INTO workers (id, seen) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET seen = excluded.seen",
                (worker, now),
            )
            db.execute("DELETE FROM workers WHERE seen < ?", (now - WORKER_MEMORY_SECONDS,))

    def last_sign_of_life(self) -> float | None:
        with self._reading() as db:
            seen: float | None = db.execute("SELECT max(seen) FROM workers").fetchone()[0]
        return seen

    def check(self) -> None:
        """Commit the version number again: a real write that changes nothing."""
        with self._writing() as db:
            db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def close(self) -> None:
        """Close the connections that no thread is using."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _migrate(self) -> None:
        with closing(self._connect()) as db:
            _switch_to_write_ahead_log(db)
        with self._writing() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > len(MIGRATIONS):
                raise StoreError(f"{self._path} was written by a newer slidelift (schema {version}): update this one")
            for statements in MIGRATIONS[version:]:
                for statement in statements:
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection; an autocommitted SELECT sees one consistent state."""
        with self._lock:
            db = self._idle.pop() if self._idle else None
        db = db or self._connect()
        healthy = True
        try:
            yield db
        except sqlite3.Error:
            healthy = False
            raise
        finally:
            if healthy:
                with self._lock:
                    self._idle.append(db)
            else:
                db.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, committed unless the body raises; immediate, so that what it read can't change meanwhile."""
        with self._reading() as db:
            try:
                db.execute("BEGIN IMMEDIATE")
                try:
                    yield db
                    db.execute("COMMIT")
                except BaseException:
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                    raise
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                    raise StoreFullError(f"the disk of {self._path.parent} is full") from error
                raise

    def _connect(self) -> sqlite3.Connection:
        # One thread at a time uses a connection, though not always the same one; hence check_same_thread.
        db = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA synchronous = FULL")
        return db


def _switch_to_write_ahead_log(db: sqlite3.Connection) -> None:
    """Set the journal mode, which stays with the file.

    The switch needs the file alone and does not wait its turn: of two processes that start at once on a new file
    one is told that it is locked.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _find(db: sqlite3.Connection, job_id: str) -> Job | None:
    row = db.execute("SELECT document FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return _JOB.validate_json(row[0]) if row else None


def _known(db: sqlite3.Connection, job_id: str) -> Job:
    job = _find(db, job_id)
    if job is None:
        raise UnknownJobError(job_id)
    return job


def _held(db: sqlite3.Connection, job_id: str, attempt: int) -> Job:
    job = _find(db, job_id)
    if job is None or not job.is_held(attempt):
        raise LeaseLostError(f"attempt {attempt} holds job {job_id} no longer")
    return job


def _keep(db: sqlite3.Connection, job: Job) -> Job:
    db.execute("UPDATE jobs SET document = ? WHERE id = ?", (_JOB.dump_json(job).decode(), job.id))
    return job
