"""Store of slides, jobs and tokens as JSON documents in SQL tables.

Each row contains its entry as one JSON document; the columns that SQL queries use are generated from the document. The
polygons of a region of interest may be large and have a separate column: they are written once, and read only when a
worker claims the job. Every write is one short transaction: read, change (`service.jobs.job`), write. The database
is a SQLite file or PostgreSQL (`service.jobs.database`).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from slidelift.service.auth.tokens import Token
from slidelift.service.jobs.database import Connection, Database
from slidelift.service.jobs.job import LEASE_SLACK_SECONDS, Job, JobState, Outcome
from slidelift.service.jobs.slide import Slide
from slidelift.service.jobs.sql_rows import (
    JOB,
    ROI,
    SLIDE,
    TOKEN,
    UNFINISHED_STATES,
    WORKER,
    RowReader,
    kept_bytes,
    owner_of,
    read_fact,
    require_slide,
)
from slidelift.service.jobs.sql_writes import job_document, next_change_numbers, save_fact, save_job, save_key
from slidelift.service.jobs.store import (
    Admit,
    Change,
    HeartbeatReply,
    IdempotencyKey,
    JobFilter,
    LeaseLostError,
    Page,
    SlideInUseError,
    UnknownJobError,
    UnknownSlideError,
    UnknownTokenError,
    WorkerStatus,
    admit_all,
    admit_any_bytes,
)
from slidelift.service.pipeline.progress import Progress

WORKER_MEMORY_SECONDS = 24 * 3600
"""How long the last status of a worker is kept after it has disappeared."""


class SqlStore:
    """A Store in a database; see `service.jobs.store.Store` for the methods."""

    def __init__(self, database: Database, *, lease_seconds: float = 15) -> None:
        self._database, self._lease_seconds = database, lease_seconds
        self._rows = RowReader()

    def add_slide(self, slide: Slide, admit_bytes: Callable[[int], None] = admit_any_bytes) -> None:
        with self._database.writing() as db:
            self._database.alone(db)
            admit_bytes(kept_bytes(db, slide.owner))
            db.execute("INSERT INTO slides (id, document) VALUES (?, ?)", (slide.id, SLIDE.dump_json(slide).decode()))

    def slide(self, slide_id: str) -> Slide | None:
        with self._database.reading() as db:
            row = db.execute("SELECT document FROM slides WHERE id = ?", (slide_id,)).fetchone()
        return self._rows.decode(SLIDE, slide_id, row[0]) if row else None

    def owner_of_slide(self, slide_id: str) -> str | None:
        with self._database.reading() as db:
            row = db.execute("SELECT document FROM slides WHERE id = ?", (slide_id,)).fetchone()
        if row is None:
            raise UnknownSlideError(slide_id)
        return owner_of(row[0])

    def has_slide(self, slide_id: str) -> bool:
        with self._database.reading() as db:
            return db.execute("SELECT 1 FROM slides WHERE id = ?", (slide_id,)).fetchone() is not None

    def slides(self, limit: int, before: int | None = None, owner: str | None = None) -> Page[Slide]:
        return self._rows.page(self._database, "slides", SLIDE, {"owner": owner}, limit, before)

    def idle_slides(self, limit: int) -> list[Slide]:
        with self._database.reading() as db:
            rows = db.execute(
                "SELECT id, document FROM slides WHERE NOT EXISTS (SELECT 1 FROM jobs "
                f"WHERE jobs.slide = slides.id AND jobs.state IN {UNFINISHED_STATES}) ORDER BY seq LIMIT ?",
                (limit,),
            ).fetchall()
        return self._rows.decode_all(SLIDE, rows)

    def remove_slide(self, slide_id: str) -> None:
        with self._database.writing() as db:
            self._database.alone(db)
            rows = db.execute(
                f"SELECT id, document FROM jobs WHERE slide = ? AND state IN {UNFINISHED_STATES}", (slide_id,)
            ).fetchall()
            if jobs := self._rows.decode_all(JOB, rows):
                raise SlideInUseError(f"job {jobs[0].id} is {jobs[0].state} and needs the slide")
            if not db.execute("DELETE FROM slides WHERE id = ?", (slide_id,)).rowcount:
                raise UnknownSlideError(slide_id)

    def kept_bytes(self, owner: str | None) -> int:
        with self._database.reading() as db:
            return kept_bytes(db, owner)

    def add_jobs(
        self, jobs: Sequence[Job], admit: Admit = admit_all, key: IdempotencyKey | None = None
    ) -> tuple[list[Job], bool]:
        with self._database.writing() as db:
            self._database.alone(db)
            if key is not None and (existing := self._rows.jobs_of_key(db, key)) is not None:
                return existing, False
            admit(self._rows.unfinished_jobs(db))
            for job, number in zip(jobs, next_change_numbers(db, len(jobs)), strict=True):
                require_slide(db, job.order.slide)
                polygons = job.order.loaded_roi()
                roi = None if polygons is None else ROI.dump_json(polygons).decode()
                db.execute(
                    "INSERT INTO jobs (id, document, changed, roi) VALUES (?, ?, ?, ?)",
                    (job.id, job_document(job), number, roi),
                )
            if key is not None:
                save_key(db, key, jobs)
        return list(jobs), True

    def jobs_of_key(self, key: IdempotencyKey) -> list[Job] | None:
        with self._database.reading() as db:
            return self._rows.jobs_of_key(db, key)

    def job(self, job_id: str) -> Job | None:
        with self._database.reading() as db:
            return self._rows.find_job(db, job_id)

    def has_job(self, job_id: str) -> bool:
        with self._database.reading() as db:
            return db.execute("SELECT 1 FROM jobs WHERE id = ?", (job_id,)).fetchone() is not None

    def jobs(self, limit: int, before: int | None = None, wanted: JobFilter = JobFilter()) -> Page[Job]:  # noqa: B008
        equal = {name: getattr(wanted, name) for name in ("state", "slide", "batch", "owner")}
        return self._rows.page(self._database, "jobs", JOB, equal, limit, before)

    def revisions(self, job_ids: Iterable[str]) -> dict[str, int]:
        ids = list(job_ids)
        with self._database.reading() as db:
            rows = db.execute(
                f"SELECT id, revision FROM jobs WHERE id IN ({', '.join('?' * len(ids)) or 'NULL'})", ids
            ).fetchall()
        return dict(rows)

    def last_change(self) -> int:
        with self._database.reading() as db:
            return int(db.execute("SELECT number FROM changes").fetchone()[0])

    def changes(self, after: int, limit: int) -> list[Change]:
        with self._database.reading() as db:
            while rows := db.execute(
                "SELECT changed, id, document FROM jobs WHERE changed > ? ORDER BY changed LIMIT ?", (after, limit)
            ).fetchall():
                if changes := self._rows.changes(rows):
                    return changes
                after = rows[-1][0]  # all rows were invalid: continue with those that follow
        return []

    def unfinished(self) -> list[Change]:
        with self._database.reading() as db:
            rows = db.execute(f"SELECT changed, id, document FROM jobs WHERE state IN {UNFINISHED_STATES}").fetchall()
        return self._rows.changes(sorted(rows))

    def ended(self, state: JobState, before: float, limit: int) -> list[Job]:
        with self._database.reading() as db:
            rows = db.execute(
                "SELECT id, document FROM jobs WHERE state = ? AND finished < ? AND result_deleted IS NULL "
                "ORDER BY finished LIMIT ?",
                (state.value, before, limit),
            ).fetchall()
        return self._rows.decode_all(JOB, rows)

    def cancel(self, job_id: str) -> Job:
        return self._change(job_id, lambda job, now: job.cancelled(now))

    def pause(self, job_id: str) -> Job:
        return self._change(job_id, lambda job, now: job.paused(now))

    def resume(self, job_id: str) -> Job:
        return self._change(job_id, lambda job, _now: job.resumed())

    def retry(self, job_id: str, admit: Admit = admit_all) -> Job:
        with self._database.writing() as db:
            self._database.alone(db)
            job = self._require_job(db, job_id)
            retried = job.retried()
            admit(self._rows.unfinished_jobs(db))
            require_slide(db, retried.order.slide)
            return save_job(db, job, retried)

    def delete_result(self, job_id: str) -> Job:
        return self._change(job_id, lambda job, now: job.without_result(now))

    def claim(self, worker: str) -> Job | None:
        now = self._database.now()
        with self._database.writing() as db:
            self._bound_leases(db, now)
            skipped = [""]  # no job has this id; PostgreSQL does not accept an empty list
            while row := db.execute(
                "SELECT id, document, roi FROM jobs "
                "WHERE (state = 'queued' OR (state = 'running' AND lease_until <= ?)) "
                f"AND id NOT IN ({', '.join(['?'] * len(skipped))}) "
                f"ORDER BY seq LIMIT 1{self._database.skip_locked}",
                (now, *skipped),
            ).fetchone():
                job_id, document, polygons = row
                found = self._rows.decode(JOB, job_id, document)
                roi = self._rows.decode(ROI, job_id, polygons) if polygons is not None else None
                if found is None or (roi is None and polygons is not None):
                    skipped.append(job_id)
                    continue
                job = save_job(db, found, found.claimed(worker, now, self._lease_seconds))
                if job.state is JobState.RUNNING:
                    return replace(job, order=replace(job.order, roi=roi))
        return None

    def _bound_leases(self, db: Connection, now: float) -> None:
        """Shorten leases of workers whose clock was ahead, so that their jobs can be taken over if they died."""
        rows = db.execute(
            "SELECT id, document FROM jobs WHERE state = 'running' AND lease_until > ?" + self._database.skip_locked,
            (now + self._lease_seconds + LEASE_SLACK_SECONDS,),
        ).fetchall()
        for job in self._rows.decode_all(JOB, rows):
            save_job(db, job, job.with_bounded_lease(now, self._lease_seconds))

    def heartbeat(self, job_id: str, attempt: int) -> HeartbeatReply:
        now = self._database.now()
        with self._held_job(job_id, attempt) as (db, job):
            job = save_job(db, job, job.extended(now, self._lease_seconds))
        if job.cancel_requested:
            return HeartbeatReply.CANCEL
        return HeartbeatReply.PAUSE if job.pause_requested else HeartbeatReply.CONTINUE

    def advance(self, job_id: str, attempt: int, progress: Progress) -> None:
        with self._held_job(job_id, attempt) as (db, job):
            save_job(db, job, job.advanced(progress))

    def settle(self, job_id: str, attempt: int, outcome: Outcome) -> Job:
        now = self._database.now()
        with self._held_job(job_id, attempt) as (db, job):
            return save_job(db, job, job.settled(outcome, now))

    def counts(self) -> dict[JobState, int]:
        with self._database.reading() as db:
            rows = db.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall()
        return {JobState(state): number for state, number in rows}

    def failures(self) -> dict[str, int]:
        with self._database.reading() as db:
            rows = db.execute("SELECT code, number FROM failures").fetchall()
        return dict(rows)

    def record_worker(self, status: WorkerStatus) -> None:
        now = self._database.now()
        document = WORKER.dump_json(replace(status, seen=now)).decode()
        with self._database.writing() as db:
            db.execute(
                "INSERT INTO workers (id, seen, document) VALUES (?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET seen = excluded.seen, document = excluded.document",
                (status.id, now, document),
            )
            db.execute("DELETE FROM workers WHERE seen < ?", (now - WORKER_MEMORY_SECONDS,))

    def workers(self) -> list[WorkerStatus]:
        with self._database.reading() as db:
            rows = db.execute("SELECT id, document FROM workers ORDER BY seen DESC").fetchall()
        return self._rows.decode_all(WORKER, rows)

    def now(self) -> float:
        return self._database.now()

    def add_token(self, token: Token) -> None:
        with self._database.writing() as db:
            db.execute(
                "INSERT INTO tokens (id, sha256, document) VALUES (?, ?, ?)",
                (token.id, token.sha256, TOKEN.dump_json(token).decode()),
            )

    def tokens(self) -> list[Token]:
        with self._database.reading() as db:
            rows = db.execute("SELECT id, document FROM tokens ORDER BY seq").fetchall()
        return self._rows.decode_all(TOKEN, rows)

    def token(self, sha256: str) -> Token | None:
        with self._database.reading() as db:
            row = db.execute("SELECT id, document FROM tokens WHERE sha256 = ?", (sha256,)).fetchone()
        return self._rows.decode(TOKEN, *row) if row else None

    def revoke_token(self, token_id: str) -> None:
        with self._database.writing() as db:
            if not db.execute("DELETE FROM tokens WHERE id = ?", (token_id,)).rowcount:
                raise UnknownTokenError(token_id)

    def end_sessions(self, token_id: str) -> None:
        with self._database.writing() as db:
            row = db.execute(
                f"SELECT document FROM tokens WHERE id = ?{self._database.for_update}", (token_id,)
            ).fetchone()
            if row is None:
                raise UnknownTokenError(token_id)
            token = TOKEN.validate_json(row[0])
            document = TOKEN.dump_json(replace(token, generation=token.generation + 1)).decode()
            db.execute("UPDATE tokens SET document = ? WHERE id = ?", (document, token_id))

    def forget_keys(self, before: float) -> None:
        with self._database.writing() as db:
            db.execute("DELETE FROM keys WHERE created < ?", (before,))

    def identity(self) -> str | None:
        with self._database.reading() as db:
            return read_fact(db, "identity")

    def keep_identity(self, identity: str) -> None:
        with self._database.writing() as db:
            save_fact(db, "identity", identity)

    def has_entries(self) -> bool:
        with self._database.reading() as db:
            row = db.execute(
                "SELECT 1 FROM slides UNION ALL "
                "SELECT 1 FROM jobs WHERE state = 'succeeded' AND result_deleted IS NULL LIMIT 1"
            ).fetchone()
        return row is not None

    def retention_time(self) -> float:
        with self._database.reading() as db:
            stored = _finite(read_fact(db, "retention_time"))
        if stored is None:
            stored = self._database.now()
            self.keep_retention_time(stored)
        return stored

    def keep_retention_time(self, moment: float) -> None:
        with self._database.writing() as db:
            self._database.alone(db)
            stored = _finite(read_fact(db, "retention_time"))
            if stored is None or stored < moment:
                save_fact(db, "retention_time", repr(moment))

    def check(self) -> None:
        self._database.check()

    def close(self) -> None:
        self._database.close()

    def _change(self, job_id: str, change: Callable[[Job, float], Job]) -> Job:
        now = self._database.now()
        with self._database.writing() as db:
            job = self._require_job(db, job_id).with_bounded_lease(now, self._lease_seconds)
            return save_job(db, job, change(job, now))

    def _require_job(self, db: Connection, job_id: str) -> Job:
        job = self._rows.find_job(db, job_id, self._database.for_update)
        if job is None:
            raise UnknownJobError(job_id)
        return job

    @contextmanager
    def _held_job(self, job_id: str, attempt: int) -> Iterator[tuple[Connection, Job]]:
        """Open a transaction and read the job. Raises LeaseLostError if the attempt no longer holds it."""
        with self._database.writing() as db:
            job = self._rows.find_job(db, job_id, self._database.for_update)
            if job is None or not job.is_held(attempt):
                raise LeaseLostError(f"attempt {attempt} no longer holds job {job_id}")
            yield db, job


def _finite(value: str | None) -> float | None:
    """Parse a time; None if the value is not a finite number."""
    try:
        moment = float(value or "")
    except ValueError:
        return None
    return moment if math.isfinite(moment) else None
