"""Database in PostgreSQL, which the APIs and workers of several machines share.

The tables are those of `service.jobs.sqlite`. Rows are locked between reading and writing (`FOR UPDATE`), workers skip
jobs that others are claiming (`SKIP LOCKED`). Leases are timed by the server's clock, so that the clocks of the
machines need not agree.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from slidelift.service.jobs.database import Connection, Rows
from slidelift.service.jobs.errors import StoreError
from slidelift.service.jobs.store import StoreFullError, StoreUnavailableError

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE slides (
            seq BIGSERIAL PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            document TEXT NOT NULL,
            owner TEXT GENERATED ALWAYS AS (document::jsonb ->> 'owner') STORED,
            bytes BIGINT GENERATED ALWAYS AS ((document::jsonb ->> 'bytes')::bigint) STORED
        )""",
        "CREATE INDEX slides_by_owner ON slides (owner)",
        """CREATE TABLE jobs (
            seq BIGSERIAL PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            document TEXT NOT NULL,
            roi TEXT,
            slide TEXT GENERATED ALWAYS AS (document::jsonb #>> '{order,slide}') STORED,
            state TEXT GENERATED ALWAYS AS (document::jsonb ->> 'state') STORED,
            lease_until DOUBLE PRECISION GENERATED ALWAYS AS ((document::jsonb ->> 'lease_until')::float8) STORED,
            owner TEXT GENERATED ALWAYS AS (document::jsonb ->> 'owner') STORED,
            batch TEXT GENERATED ALWAYS AS (document::jsonb ->> 'batch') STORED,
            finished DOUBLE PRECISION GENERATED ALWAYS AS ((document::jsonb ->> 'finished')::float8) STORED,
            result_deleted DOUBLE PRECISION GENERATED ALWAYS AS ((document::jsonb ->> 'result_deleted')::float8) STORED,
            revision BIGINT GENERATED ALWAYS AS (coalesce((document::jsonb ->> 'revision')::bigint, 0)) STORED,
            code TEXT GENERATED ALWAYS AS (document::jsonb #>> '{problem,code}') STORED
        )""",
        "CREATE INDEX jobs_by_state ON jobs (state, lease_until)",
        "CREATE INDEX jobs_by_slide ON jobs (slide, state)",
        "CREATE INDEX jobs_by_batch ON jobs (batch)",
        "CREATE INDEX jobs_by_owner ON jobs (owner)",
        "CREATE INDEX jobs_by_end ON jobs (finished)",
        "CREATE TABLE workers (id TEXT PRIMARY KEY, seen DOUBLE PRECISION NOT NULL, document TEXT NOT NULL)",
        "CREATE TABLE tokens (seq BIGSERIAL PRIMARY KEY, id TEXT NOT NULL UNIQUE, sha256 TEXT NOT NULL UNIQUE, "
        "document TEXT NOT NULL)",
        "CREATE TABLE keys (owner TEXT NOT NULL, key TEXT NOT NULL, fingerprint TEXT NOT NULL, jobs TEXT NOT NULL, "
        "created DOUBLE PRECISION NOT NULL, PRIMARY KEY (owner, key))",
    ),
    (
        "ALTER TABLE jobs ADD COLUMN changed BIGINT NOT NULL DEFAULT 0",
        "UPDATE jobs SET changed = seq",
        "CREATE UNIQUE INDEX jobs_by_change ON jobs (changed)",
        "CREATE TABLE changes (number BIGINT NOT NULL)",
        "INSERT INTO changes (number) SELECT coalesce(max(seq), 0) FROM jobs",
    ),
    ("CREATE TABLE service_facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",),
    (
        "CREATE TABLE failures (code TEXT PRIMARY KEY, number BIGINT NOT NULL)",
        "INSERT INTO failures (code, number) SELECT coalesce(code, 'internal'), count(*) FROM jobs "
        "WHERE state = 'failed' GROUP BY coalesce(code, 'internal')",
    ),
)
"""Step n migrates a database from version n to n + 1. New steps are appended; existing steps are never changed."""

CONNECTIONS = 16
"""Maximum per process; further threads wait."""

WAIT_SECONDS = 10
"""How long a thread waits for a free connection."""

SILENT_SECONDS = 30
"""The server ends a transaction that is idle for this time, for example because its machine lost power. Until then, all
writers wait for the lock of the change number, which the transaction holds."""

_LOCK = 7_365_122_001
"""Key of the advisory lock: an arbitrary number that no other program uses."""


class Postgres:
    """Implements `service.jobs.database.Database` with a pool of connections."""

    for_update = " FOR UPDATE"
    skip_locked = " FOR UPDATE SKIP LOCKED"

    def __init__(self, url: str, wait_seconds: float = WAIT_SECONDS) -> None:
        self._pool = ConnectionPool(
            url,
            min_size=1,
            max_size=CONNECTIONS,
            timeout=wait_seconds,
            check=ConnectionPool.check_connection,
            configure=_configure,
            name="slidelift",
            open=True,
        )
        try:
            self._migrate()
        except BaseException:
            self._pool.close()
            raise

    def alone(self, db: Connection) -> None:
        """Hold the advisory lock until the transaction ends."""
        db.execute("SELECT pg_advisory_xact_lock(?)", (_LOCK,))

    def now(self) -> float:
        """Time of the server."""
        with self.reading() as db:
            return float(db.execute("SELECT extract(epoch FROM clock_timestamp())").fetchone()[0])

    def check(self) -> None:
        """Write the schema version again, to check that the database accepts writes."""
        with self.writing() as db:
            db.execute("UPDATE schema_version SET version = version")

    def close(self) -> None:
        """Close the pool."""
        self._pool.close()

    def _migrate(self) -> None:
        with self.writing() as db:
            self.alone(db)
            db.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
            row = db.execute("SELECT version FROM schema_version").fetchone()
            if row is None:
                db.execute("INSERT INTO schema_version (version) VALUES (0)")
            version = row[0] if row else 0
            if version > len(MIGRATIONS):
                raise StoreError(f"the database was written by a newer slidelift (schema {version}): update slidelift")
            for statements in MIGRATIONS[version:]:
                for statement in statements:
                    db.execute(statement)
            db.execute("UPDATE schema_version SET version = ?", (len(MIGRATIONS),))

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """See `Database`."""
        try:
            with self._pool.connection() as connection:
                yield _Connection(connection)
        except psycopg.errors.DiskFull as error:
            raise StoreFullError("the disk of the database is full") from error
        except (psycopg.Error, PoolTimeout) as error:
            raise StoreUnavailableError(f"the database does not answer ({type(error).__name__})") from error

    writing = reading  # a pooled connection is one transaction, committed unless the body raises


def _configure(connection: "psycopg.Connection[Any]") -> None:
    connection.execute(f"SET idle_in_transaction_session_timeout = '{SILENT_SECONDS}s'".encode())
    connection.commit()


class _Connection:
    """A psycopg connection with ``?`` as the placeholder."""

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Rows:
        # PostgreSQL text can't contain NUL, but an id from a client can; the replacement makes it an unknown id.
        values = [value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in parameters]
        return self._connection.execute(sql.replace("?", "%s").encode(), values)
