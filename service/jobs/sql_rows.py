"""Reads rows of the database: JSON documents, skipping those that are not valid."""

import json
import logging
from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from slidelift.service.auth.tokens import Token
from slidelift.service.jobs.database import Connection, Database
from slidelift.service.jobs.job import UNFINISHED, Job
from slidelift.service.jobs.slide import Slide
from slidelift.service.jobs.store import (
    Change,
    Entry,
    IdempotencyKey,
    KeyReusedError,
    Page,
    UnknownSlideError,
    WorkerStatus,
)
from slidelift.wsi.roi import Roi

JOB = TypeAdapter(Job)
SLIDE = TypeAdapter(Slide)
TOKEN = TypeAdapter(Token)
ROI = TypeAdapter(Roi)
WORKER = TypeAdapter(WorkerStatus)
UNFINISHED_STATES = "(" + ", ".join(f"'{state.value}'" for state in sorted(UNFINISHED)) + ")"
"""The unfinished states as an SQL list."""

log = logging.getLogger(__name__)


class RowReader:
    """Decodes rows. An invalid row is skipped and logged once, so that one bad row does not break a list."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def decode(self, kind: TypeAdapter[Entry], row_id: str, document: str) -> Entry | None:
        """Decode a document; None if it is not valid."""
        try:
            return kind.validate_json(document)
        except ValidationError as error:
            if row_id not in self._logged:
                self._logged.add(row_id)
                first = error.errors(include_url=False, include_input=False)[0]
                log.error("the row %s of the database is not valid and is skipped: %s", row_id, first["msg"])
            return None

    def decode_all(self, kind: TypeAdapter[Entry], rows: Iterable[Any]) -> list[Entry]:
        """Decode rows of id and document."""
        decoded = (self.decode(kind, row_id, document) for row_id, document in rows)
        return [entry for entry in decoded if entry is not None]

    def changes(self, rows: Iterable[tuple[int, str, str]]) -> list[Change]:
        """Decode rows of change number, job id and document."""
        decoded = ((number, self.decode(JOB, job_id, document)) for number, job_id, document in rows)
        return [Change(number, job) for number, job in decoded if job is not None]

    def page(
        self,
        database: Database,
        table: str,
        kind: TypeAdapter[Entry],
        equal: dict[str, str | None],
        limit: int,
        before: int | None,
    ) -> Page[Entry]:
        """Read a page of rows whose columns equal the values that are not None, newest first."""
        conditions: dict[str, str | int] = {f"{name} = ?": value for name, value in equal.items() if value is not None}
        if before is not None:
            conditions["seq < ?"] = before
        where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
        with database.reading() as db:
            rows = db.execute(
                f"SELECT seq, id, document FROM {table} {where}ORDER BY seq DESC LIMIT ?",
                (*conditions.values(), limit + 1),  # one more row shows whether there is another page
            ).fetchall()
        cursor = rows[:limit][-1][0] if len(rows) > limit else None
        return Page(tuple(self.decode_all(kind, [row[1:] for row in rows[:limit]])), cursor)

    def find_job(self, db: Connection, job_id: str, lock: str = "") -> Job | None:
        """Read a job; `lock` is a clause of `Database` that ends the SELECT."""
        row = db.execute(f"SELECT document FROM jobs WHERE id = ?{lock}", (job_id,)).fetchone()
        return self.decode(JOB, job_id, row[0]) if row else None

    def unfinished_jobs(self, db: Connection) -> list[Job]:
        """Read the jobs that have not ended."""
        rows = db.execute(f"SELECT id, document FROM jobs WHERE state IN {UNFINISHED_STATES}").fetchall()
        return self.decode_all(JOB, rows)

    def jobs_of_key(self, db: Connection, key: IdempotencyKey) -> list[Job] | None:
        """Read the jobs that a request with the key created; None for a new key.

        Raises
        ------
        KeyReusedError
            The key was used with another request.
        """
        row = db.execute(
            "SELECT fingerprint, jobs FROM keys WHERE owner = ? AND key = ?", (key.owner, key.key)
        ).fetchone()
        if row is None:
            return None
        if row[0] != key.fingerprint:
            raise KeyReusedError("the key was used with another request; use a new key for each request")
        return [job for job_id in json.loads(row[1]) if (job := self.find_job(db, job_id)) is not None]


def owner_of(document: str) -> str | None:
    """Owner in a document that may be invalid otherwise."""
    try:
        members = json.loads(document)
    except ValueError:
        return None
    owner = members.get("owner") if isinstance(members, dict) else None
    return owner if isinstance(owner, str) else None


def kept_bytes(db: Connection, owner: str | None) -> int:
    """Total size of an owner's slides; of all slides for None."""
    where, values = ("WHERE owner = ?", (owner,)) if owner is not None else ("", ())
    row = db.execute(f"SELECT coalesce(sum(bytes), 0) FROM slides {where}", values).fetchone()
    return int(row[0])


def require_slide(db: Connection, slide_id: str) -> None:
    """Raise UnknownSlideError unless the slide exists."""
    if not db.execute("SELECT 1 FROM slides WHERE id = ?", (slide_id,)).fetchone():
        raise UnknownSlideError(slide_id)


def read_fact(db: Connection, name: str) -> str | None:
    """Read a value of the service, None if it was never saved."""
    row = db.execute("SELECT value FROM service_facts WHERE name = ?", (name,)).fetchone()
    return str(row[0]) if row else None
