"""The durable store: slides, jobs and tokens as JSON documents in SQL tables.

Each row holds its slide or job as one JSON document; what SQL must see of it are columns generated from the document,
so that there is one truth. A region of interest, which may be large, stands beside its job's document: written once,
and read by the worker that claims the job. Every write is one short transaction: read, move (`service.jobs.job`),
write. The database behind it is a SQLite file or PostgreSQL (`service.jobs.database`).
"""

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from slidelift.service.auth.tokens import Token
from slidelift.service.jobs.database import Connection, Database
from slidelift.service.jobs.job import LEASE_SLACK_SECONDS, UNFINISHED, Job, JobState, Outcome
from slidelift.service.jobs.slide import Slide
from slidelift.service.jobs.store import (
    Admit,
    Beat,
    Change,
    Entry,
    IdempotencyKey,
    JobFilter,
    KeyReusedError,
    LeaseLostError,
    Page,
    SlideInUseError,
    UnknownJobError,
    UnknownSlideError,
    UnknownTokenError,
    WorkerSign,
    admit_all,
    admit_any_bytes,
)
from slidelift.service.pipeline.progress import Progress
from slidelift.wsi.roi import Roi

WORKER_MEMORY_SECONDS = 24 * 3600
"""How long the sign of life of a worker that is gone is kept."""

log = logging.getLogger(__name__)

_JOB = TypeAdapter(Job)
_SLIDE = TypeAdapter(Slide)
_TOKEN = TypeAdapter(Token)
_ROI = TypeAdapter(Roi)
_SIGN = TypeAdapter(WorkerSign)
_OPEN = "(" + ", ".join(f"'{state.value}'" for state in sorted(UNFINISHED)) + ")"


class SqlStore:
    """A Store in a database; see `service.jobs.store.Store` for what each method promises."""

    def __init__(self, database: Database, *, lease_seconds: float = 15) -> None:
        self._database, self._lease_seconds = database, lease_seconds
        self._unreadable: set[str] = set()

    def add_slide(self, slide: Slide, admit_bytes: Callable[[int], None] = admit_any_bytes) -> None:
        with self._database.writing() as db:
            self._database.alone(db)
            admit_bytes(_kept_bytes(db, slide.owner))
            db.execute("INSERT INTO slides (id, document) VALUES (?, ?)", (slide.id, _SLIDE.dump_json(slide).decode()))

    def slide(self, slide_id: str) -> Slide | None:
        with self._database.reading() as db:
            row = db.execute("SELECT document FROM slides WHERE id = ?", (slide_id,)).fetchone()
        return self._read(_SLIDE, slide_id, row[0]) if row else None

    def owner_of_slide(self, slide_id: str) -> str | None:
        with self._database.reading() as db:
            row = db.execute("SELECT document FROM slides WHERE id = ?", (slide_id,)).fetchone()
        if row is None:
            raise UnknownSlideError(slide_id)
        return _owner(row[0])

    def slide_is_known(self, slide_id: str) -> bool:
        with self._database.reading() as db:
            return db.execute("SELECT 1 FROM slides WHERE id = ?", (slide_id,)).fetchone() is not None

    def slides(self, limit: int, before: int | None = None, owner: str | None = None) -> Page[Slide]:
        return self._page("slides", {"owner": owner}, limit, before, _SLIDE)

    def idle_slides(self, limit: int) -> list[Slide]:
        with self._database.reading() as db:
            rows = db.execute(
                "SELECT id, document FROM slides WHERE NOT EXISTS (SELECT 1 FROM jobs "
                f"WHERE jobs.slide = slides.id AND jobs.state IN {_OPEN}) ORDER BY seq LIMIT ?",
                (limit,),
            ).fetchall()
        return self._read_all(_SLIDE, rows)

    def remove_slide(self, slide_id: str) -> None:
        with self._database.writing() as db:
            self._database.alone(db)
            rows = db.execute(
                f"SELECT id, document FROM jobs WHERE slide = ? AND state IN {_OPEN}", (slide_id,)
            ).fetchall()
            if users := self._read_all(_JOB, rows):
                raise SlideInUseError(f"job {users[0].id} is {users[0].state} and needs the slide")
            if not db.execute("DELETE FROM slides WHERE id = ?", (slide_id,)).rowcount:
                raise UnknownSlideError(slide_id)

    def kept_bytes(self, owner: str | None) -> int:
        with self._database.reading() as db:
            return _kept_bytes(db, owner)

    def add_jobs(
        self, jobs: Sequence[Job], admit: Admit = admit_all, key: IdempotencyKey | None = None
    ) -> tuple[list[Job], bool]:
        with self._database.writing() as db:
            self._database.alone(db)
            if key is not None and (made := self._made_before(db, key)) is not None:
                return made, False
            admit(self._unfinished(db))
            for job, number in zip(jobs, _numbers(db, len(jobs)), strict=True):
                _require_slide(db, job.order.slide)
                polygons = job.order.loaded_roi()
                roi = None if polygons is None else _ROI.dump_json(polygons).decode()
                db.execute(
                    "INSERT INTO jobs (id, document, changed, roi) VALUES (?, ?, ?, ?)",
                    (job.id, _document(job), number, roi),
                )
            if key is not None:
                ids = json.dumps([job.id for job in jobs])
                db.execute(
                    "INSERT INTO keys (owner, key, fingerprint, jobs, created) VALUES (?, ?, ?, ?, ?)",
                    (key.owner, key.key, key.fingerprint, ids, jobs[0].created),
                )
        return list(jobs), True

    def made_before(self, key: IdempotencyKey) -> list[Job] | None:
        with self._database.reading() as db:
            return self._made_before(db, key)

    def job(self, job_id: str) -> Job | None:
        with self._database.reading() as db:
            return self._find(db, job_id)

    def job_is_known(self, job_id: str) -> bool:
        with self._database.reading() as db:
            return db.execute("SELECT 1 FROM jobs WHERE id = ?", (job_id,)).fetchone() is not None

    def jobs(self, limit: int, before: int | None = None, wanted: JobFilter = JobFilter()) -> Page[Job]:  # noqa: B008
        asked = {name: getattr(wanted, name) for name in ("state", "slide", "batch", "owner")}
        return self._page("jobs", asked, limit, before, _JOB)

    def revisions(self, job_ids: Iterable[str]) -> dict[str, int]:
        wanted = list(job_ids)
        with self._database.reading() as db:
            rows = db.execute(
                f"SELECT id, revision FROM jobs WHERE id IN ({', '.join('?' * len(wanted)) or 'NULL'})",
                wanted,
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
                if found := self._changes(rows):
                    return found
                after = rows[-1][0]  # none of these can be read: they must not hide what comes after them
        return []

    def unfinished(self) -> list[Change]:
        with self._database.reading() as db:
            rows = db.execute(f"SELECT changed, id, document FROM jobs WHERE state IN {_OPEN}").fetchall()
        return self._changes(sorted(rows))

    def _changes(self, rows: Iterable[tuple[int, str, str]]) -> list[Change]:
        found = ((number, self._read(_JOB, job_id, document)) for number, job_id, document in rows)
        return [Change(number, job) for number, job in found if job is not None]

    def ended(self, state: JobState, before: float, limit: int) -> list[Job]:
        with self._database.reading() as db:
            rows = db.execute(
                "SELECT id, document FROM jobs WHERE state = ? AND finished < ? AND result_deleted IS NULL "
                "ORDER BY finished LIMIT ?",
                (state.value, before, limit),
            ).fetchall()
        return self._read_all(_JOB, rows)

    def cancel(self, job_id: str) -> Job:
        return self._move(job_id, lambda job, now: job.cancelled(now))

    def pause(self, job_id: str) -> Job:
        return self._move(job_id, lambda job, now: job.paused(now))

    def resume(self, job_id: str) -> Job:
        return self._move(job_id, lambda job, _now: job.resumed())

    def retry(self, job_id: str, admit: Admit = admit_all) -> Job:
        with self._database.writing() as db:
            self._database.alone(db)
            job = self._known(db, job_id)
            retried = job.retried()
            admit(self._unfinished(db))
            _require_slide(db, retried.order.slide)
            return _keep(db, job, retried)

    def delete_result(self, job_id: str) -> Job:
        return self._move(job_id, lambda job, now: job.without_result(now))

    def claim(self, worker: str) -> Job | None:
        now = self._database.now()
        with self._database.writing() as db:
            self._bound_leases(db, now)
            passed_over = [""]  # no job's id; an empty list of SQL would be NULL, which is like nothing
            while row := db.execute(
                "SELECT id, document, roi FROM jobs "
                "WHERE (state = 'queued' OR (state = 'running' AND lease_until <= ?)) "
                f"AND id NOT IN ({', '.join(['?'] * len(passed_over))}) "
                f"ORDER BY seq LIMIT 1{self._database.skip_locked}",
                (now, *passed_over),
            ).fetchone():
                job_id, document, polygons = row
                found = self._read(_JOB, job_id, document)
                roi = self._read(_ROI, job_id, polygons) if polygons is not None else None
                if found is None or (roi is None and polygons is not None):
                    passed_over.append(job_id)
                    continue
                job = _keep(db, found, found.claimed(worker, now, self._lease_seconds))
                if job.state is JobState.RUNNING:
                    return replace(job, order=replace(job.order, roi=roi))
        return None

    def _bound_leases(self, db: Connection, now: float) -> None:
        """Leave no job to a worker that died while its clock was ahead of this one."""
        rows = db.execute(
            "SELECT id, document FROM jobs WHERE state = 'running' AND lease_until > ?" + self._database.skip_locked,
            (now + self._lease_seconds + LEASE_SLACK_SECONDS,),
        ).fetchall()
        for job in self._read_all(_JOB, rows):
            _keep(db, job, job.with_bounded_lease(now, self._lease_seconds))

    def heartbeat(self, job_id: str, attempt: int) -> Beat:
        now = self._database.now()
        with self._holding(job_id, attempt) as (db, job):
            job = _keep(db, job, job.extended(now, self._lease_seconds))
        if job.cancel_requested:
            return Beat.CANCEL
        return Beat.PAUSE if job.pause_requested else Beat.GO_ON

    def advance(self, job_id: str, attempt: int, progress: Progress) -> None:
        with self._holding(job_id, attempt) as (db, job):
            _keep(db, job, job.advanced(progress))

    def settle(self, job_id: str, attempt: int, outcome: Outcome) -> Job:
        now = self._database.now()
        with self._holding(job_id, attempt) as (db, job):
            return _keep(db, job, job.settled(outcome, now))

    def counts(self) -> dict[JobState, int]:
        with self._database.reading() as db:
            rows = db.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall()
        return {JobState(state): number for state, number in rows}

    def failures(self) -> dict[str, int]:
        with self._database.reading() as db:
            rows = db.execute("SELECT code, number FROM failures").fetchall()
        return dict(rows)

    def sign_of_life(self, sign: WorkerSign) -> None:
        now = self._database.now()
        document = _SIGN.dump_json(replace(sign, seen=now)).decode()
        with self._database.writing() as db:
            db.execute(
                "INSERT INTO workers (id, seen, document) VALUES (?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET seen = excluded.seen, document = excluded.document",
                (sign.id, now, document),
            )
            db.execute("DELETE FROM workers WHERE seen < ?", (now - WORKER_MEMORY_SECONDS,))

    def workers(self) -> list[WorkerSign]:
        with self._database.reading() as db:
            rows = db.execute("SELECT id, document FROM workers ORDER BY seen DESC").fetchall()
        return self._read_all(_SIGN, rows)

    def now(self) -> float:
        return self._database.now()

    def add_token(self, token: Token) -> None:
        with self._database.writing() as db:
            db.execute(
                "INSERT INTO tokens (id, sha256, document) VALUES (?, ?, ?)",
                (token.id, token.sha256, _TOKEN.dump_json(token).decode()),
            )

    def tokens(self) -> list[Token]:
        with self._database.reading() as db:
            rows = db.execute("SELECT id, document FROM tokens ORDER BY seq").fetchall()
        return self._read_all(_TOKEN, rows)

    def token(self, sha256: str) -> Token | None:
        with self._database.reading() as db:
            row = db.execute("SELECT id, document FROM tokens WHERE sha256 = ?", (sha256,)).fetchone()
        return self._read(_TOKEN, *row) if row else None

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
            token = _TOKEN.validate_json(row[0])
            ended = _TOKEN.dump_json(replace(token, generation=token.generation + 1)).decode()
            db.execute("UPDATE tokens SET document = ? WHERE id = ?", (ended, token_id))

    def forget_keys(self, before: float) -> None:
        with self._database.writing() as db:
            db.execute("DELETE FROM keys WHERE created < ?", (before,))

    def identity(self) -> str | None:
        return self._fact("identity")

    def keep_identity(self, identity: str) -> None:
        with self._database.writing() as db:
            _keep_fact(db, "identity", identity)

    def has_entries(self) -> bool:
        with self._database.reading() as db:
            row = db.execute(
                "SELECT 1 FROM slides UNION ALL "
                "SELECT 1 FROM jobs WHERE state = 'succeeded' AND result_deleted IS NULL LIMIT 1"
            ).fetchone()
        return row is not None

    def retention_time(self) -> float:
        kept = _moment(self._fact("retention_time"))
        if kept is None:
            kept = self._database.now()
            self.keep_retention_time(kept)
        return kept

    def keep_retention_time(self, moment: float) -> None:
        with self._database.writing() as db:
            self._database.alone(db)
            row = db.execute("SELECT value FROM service_facts WHERE name = 'retention_time'").fetchone()
            kept = _moment(row[0]) if row else None
            if kept is None or kept < moment:
                _keep_fact(db, "retention_time", repr(moment))

    def _fact(self, name: str) -> str | None:
        with self._database.reading() as db:
            row = db.execute("SELECT value FROM service_facts WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else None

    def check(self) -> None:
        self._database.check()

    def close(self) -> None:
        self._database.close()

    def _page(
        self, table: str, asked: dict[str, str | None], limit: int, before: int | None, kind: TypeAdapter[Any]
    ) -> Page[Any]:
        """One more row than asked for tells whether there are more."""
        given: dict[str, str | int] = {f"{name} = ?": value for name, value in asked.items() if value is not None}
        given |= {} if before is None else {"seq < ?": before}
        where = f"WHERE {' AND '.join(given)} " if given else ""
        with self._database.reading() as db:
            rows = db.execute(
                f"SELECT seq, id, document FROM {table} {where}ORDER BY seq DESC LIMIT ?",
                (*given.values(), limit + 1),
            ).fetchall()
        shown = rows[:limit]
        cursor = shown[-1][0] if len(rows) > limit else None
        return Page(tuple(self._read_all(kind, [row[1:] for row in shown])), cursor)

    def _move(self, job_id: str, moved: Callable[[Job, float], Job]) -> Job:
        now = self._database.now()
        with self._database.writing() as db:
            job = self._known(db, job_id).with_bounded_lease(now, self._lease_seconds)
            return _keep(db, job, moved(job, now))

    def _known(self, db: Connection, job_id: str) -> Job:
        job = self._find(db, job_id, self._database.for_update)
        if job is None:
            raise UnknownJobError(job_id)
        return job

    def _find(self, db: Connection, job_id: str, lock: str = "") -> Job | None:
        row = db.execute(f"SELECT document FROM jobs WHERE id = ?{lock}", (job_id,)).fetchone()
        return self._read(_JOB, job_id, row[0]) if row else None

    def _unfinished(self, db: Connection) -> list[Job]:
        return self._read_all(_JOB, db.execute(f"SELECT id, document FROM jobs WHERE state IN {_OPEN}").fetchall())

    def _made_before(self, db: Connection, key: IdempotencyKey) -> list[Job] | None:
        row = db.execute(
            "SELECT fingerprint, jobs FROM keys WHERE owner = ? AND key = ?", (key.owner, key.key)
        ).fetchone()
        if row is None:
            return None
        if row[0] != key.fingerprint:
            raise KeyReusedError("the key came before with another request; take a new one for each")
        return [job for job_id in json.loads(row[1]) if (job := self._find(db, job_id)) is not None]

    def _read_all(self, kind: TypeAdapter[Entry], rows: Iterable[Any]) -> list[Entry]:
        """What can be read of rows of id and document."""
        return [entry for row_id, document in rows if (entry := self._read(kind, row_id, document)) is not None]

    def _read(self, kind: TypeAdapter[Entry], row_id: str, document: str) -> Entry | None:
        """A row's entry; None where it can't be read, which is logged once. One bad row must not break a list."""
        try:
            return kind.validate_json(document)
        except ValidationError as error:
            if row_id not in self._unreadable:
                self._unreadable.add(row_id)
                wrong = error.errors(include_url=False, include_input=False)[0]
                log.error("the row of %s in the database can't be read and is passed over: %s", row_id, wrong["msg"])
            return None

    @contextmanager
    def _holding(self, job_id: str, attempt: int) -> Iterator[tuple[Connection, Job]]:
        """A transaction on a job that the attempt holds."""
        with self._database.writing() as db:
            job = self._find(db, job_id, self._database.for_update)
            if job is None or not job.is_held(attempt):
                raise LeaseLostError(f"attempt {attempt} holds job {job_id} no longer")
            yield db, job


def _keep(db: Connection, before: Job, job: Job) -> Job:
    """Write a job down; a change that a client could see gets its number."""
    if job.revision == before.revision:
        db.execute("UPDATE jobs SET document = ? WHERE id = ?", (_document(job), job.id))
    else:
        (number,) = _numbers(db, 1)
        db.execute("UPDATE jobs SET document = ?, changed = ? WHERE id = ?", (_document(job), number, job.id))
    if job.state is JobState.FAILED and before.state is not JobState.FAILED:
        _count_failure(db, job)
    return job


def _count_failure(db: Connection, job: Job) -> None:
    """Count it for good: a retry, a success after it and a deletion take nothing back."""
    db.execute(
        "INSERT INTO failures (code, number) VALUES (?, 1) "
        "ON CONFLICT (code) DO UPDATE SET number = failures.number + 1",
        (job.problem.code if job.problem else "internal",),
    )


def _numbers(db: Connection, count: int) -> range:
    """Number so many changes. Nobody else is given a number until these are committed: so they are seen in order."""
    db.execute("UPDATE changes SET number = number + ?", (count,))
    (last,) = db.execute("SELECT number FROM changes").fetchone()
    return range(last - count + 1, last + 1)


def _keep_fact(db: Connection, name: str, value: str) -> None:
    db.execute(
        "INSERT INTO service_facts (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )


def _moment(value: str | None) -> float | None:
    """A time that was kept as text; None where that is none."""
    try:
        moment = float(value or "")
    except ValueError:
        return None
    return moment if math.isfinite(moment) else None


def _owner(document: str) -> str | None:
    """Whose a row is, of which nothing else needs to be readable."""
    try:
        found = json.loads(document)
    except ValueError:
        return None
    owner = found.get("owner") if isinstance(found, dict) else None
    return owner if isinstance(owner, str) else None


def _document(job: Job) -> str:
    return _JOB.dump_json(job, exclude={"order": {"roi"}}).decode()


def _kept_bytes(db: Connection, owner: str | None) -> int:
    where, values = ("WHERE owner = ?", (owner,)) if owner is not None else ("", ())
    row = db.execute(f"SELECT coalesce(sum(bytes), 0) FROM slides {where}", values).fetchone()
    return int(row[0])


def _require_slide(db: Connection, slide_id: str) -> None:
    if not db.execute("SELECT 1 FROM slides WHERE id = ?", (slide_id,)).fetchone():
        raise UnknownSlideError(slide_id)
