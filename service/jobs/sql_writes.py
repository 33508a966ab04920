"""Writes rows of the database. Each function runs inside the caller's transaction."""

import json
from collections.abc import Sequence

from slidelift.service.jobs.database import Connection
from slidelift.service.jobs.job import Job, JobState
from slidelift.service.jobs.sql_rows import JOB
from slidelift.service.jobs.store import IdempotencyKey


def save_job(db: Connection, before: Job, job: Job) -> Job:
    """Update a job; a change that clients can see gets a number."""
    if job.revision == before.revision:
        db.execute("UPDATE jobs SET document = ? WHERE id = ?", (job_document(job), job.id))
    else:
        (number,) = next_change_numbers(db, 1)
        db.execute("UPDATE jobs SET document = ?, changed = ? WHERE id = ?", (job_document(job), number, job.id))
    if job.state is JobState.FAILED and before.state is not JobState.FAILED:
        _count_failure(db, job)
    return job


def next_change_numbers(db: Connection, count: int) -> range:
    """Number the next changes. The row stays locked until they are committed, so that they become visible in order."""
    db.execute("UPDATE changes SET number = number + ?", (count,))
    (last,) = db.execute("SELECT number FROM changes").fetchone()
    return range(last - count + 1, last + 1)


def save_key(db: Connection, key: IdempotencyKey, jobs: Sequence[Job]) -> None:
    """Store which jobs a request with the key created."""
    db.execute(
        "INSERT INTO keys (owner, key, fingerprint, jobs, created) VALUES (?, ?, ?, ?, ?)",
        (key.owner, key.key, key.fingerprint, json.dumps([job.id for job in jobs]), jobs[0].created),
    )


def save_fact(db: Connection, name: str, value: str) -> None:
    """Save a value of the service."""
    db.execute(
        "INSERT INTO service_facts (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )


def job_document(job: Job) -> str:
    """Encode a job without its region of interest, which has a column of its own."""
    return JOB.dump_json(job, exclude={"order": {"roi"}}).decode()


def _count_failure(db: Connection, job: Job) -> None:
    """Count a failure permanently; a retry or a deletion does not decrease the count."""
    db.execute(
        "INSERT INTO failures (code, number) VALUES (?, 1) "
        "ON CONFLICT (code) DO UPDATE SET number = failures.number + 1",
        (job.problem.code if job.problem else "internal",),
    )
