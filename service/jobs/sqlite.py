"""Database in a SQLite file, which the API and the workers of one machine share.

It uses a write-ahead log with synchronous=FULL: a commit survives kill -9 and power loss and takes about 0.3 ms. Every
write is one short immediate transaction, so that writers wait for each other and never fail halfway.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from slidelift.service.jobs.database import Connection
from slidelift.service.jobs.errors import StoreError
from slidelift.service.jobs.store import StoreFullError, StoreUnavailableError

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
    (
        "ALTER TABLE slides ADD COLUMN owner TEXT GENERATED ALWAYS AS (json_extract(document, '$.owner')) VIRTUAL",
        "ALTER TABLE slides ADD COLUMN bytes INTEGER GENERATED ALWAYS AS (json_extract(document, '$.bytes')) VIRTUAL",
        "CREATE INDEX slides_by_owner ON slides (owner)",
        "ALTER TABLE jobs ADD COLUMN owner TEXT GENERATED ALWAYS AS (json_extract(document, '$.owner')) VIRTUAL",
        "ALTER TABLE jobs ADD COLUMN batch TEXT GENERATED ALWAYS AS (json_extract(document, '$.batch')) VIRTUAL",
        "ALTER TABLE jobs ADD COLUMN finished REAL GENERATED ALWAYS AS (json_extract(document, '$.finished')) VIRTUAL",
        "ALTER TABLE jobs ADD COLUMN result_deleted REAL "
        "GENERATED ALWAYS AS (json_extract(document, '$.result_deleted')) VIRTUAL",
        "ALTER TABLE jobs ADD COLUMN revision INTEGER "
        "GENERATED ALWAYS AS (coalesce(json_extract(document, '$.revision'), 0)) VIRTUAL",
        "ALTER TABLE jobs ADD COLUMN code TEXT GENERATED ALWAYS AS (json_extract(document, '$.problem.code')) VIRTUAL",
        "CREATE INDEX jobs_by_batch ON jobs (batch)",
        "CREATE INDEX jobs_by_owner ON jobs (owner)",
        "CREATE INDEX jobs_by_end ON jobs (finished)",
        "DROP TABLE workers",
        "CREATE TABLE workers (id TEXT PRIMARY KEY, seen REAL NOT NULL, document TEXT NOT NULL)",
        "CREATE TABLE tokens (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, "
        "sha256 TEXT NOT NULL UNIQUE, document TEXT NOT NULL)",
        "CREATE TABLE keys (owner TEXT NOT NULL, key TEXT NOT NULL, fingerprint TEXT NOT NULL, jobs TEXT NOT NULL, "
        "created REAL NOT NULL, PRIMARY KEY (owner, key))",
        "ALTER TABLE jobs ADD COLUMN roi TEXT",
    ),
    (
        "ALTER TABLE jobs ADD COLUMN changed INTEGER NOT NULL DEFAULT 0",
        "UPDATE jobs SET changed = seq",
        "CREATE UNIQUE INDEX jobs_by_change ON jobs (changed)",
        "CREATE TABLE changes (number INTEGER NOT NULL)",
        "INSERT INTO changes (number) SELECT coalesce(max(seq), 0) FROM jobs",
    ),
    ("CREATE TABLE service_facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",),
    (
        "CREATE TABLE failures (code TEXT PRIMARY KEY, number INTEGER NOT NULL)",
        "INSERT INTO failures (code, number) SELECT coalesce(code, 'internal'), count(*) FROM jobs "
        "WHERE state = 'failed' GROUP BY coalesce(code, 'internal')",
    ),
)
"""Step n brings a database from `user_version` n to n + 1. Steps are added, never changed."""

BUSY_SECONDS = 10
"""Timeout of the write lock. Writes take milliseconds, so that a longer wait indicates a fault."""


class Sqlite:
    """Implements `service.jobs.database.Database`.

    Connections are pooled, with one for each thread that is using the database at the same time.
    """

    for_update = ""
    skip_locked = ""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self.now = path, clock
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._inode: int | None = None
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # will contain slides
        self._migrate()
        self._inode = path.stat().st_ino

    def alone(self, db: Connection) -> None:
        """Do nothing: SQLite allows one writer at a time."""

    def check(self) -> None:
        """Write the schema version again."""
        with self.writing() as db:
            db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _migrate(self) -> None:
        with closing(self._connect()) as db:
            _switch_to_write_ahead_log(db)
            _require_sound(db, self._path)
        with self.writing() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > len(MIGRATIONS):
                raise StoreError(f"{self._path} was written by a newer slidelift (schema {version}): update slidelift")
            for statements in MIGRATIONS[version:]:
                for statement in statements:
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """See `Database`; each autocommitted SELECT sees one consistent state."""
        with self._borrow() as db:
            yield db

    @contextmanager
    def _borrow(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            db = self._idle.pop() if self._idle else None
        db = db or self._connect()
        healthy = True
        try:
            yield db
        except sqlite3.Error as error:
            healthy = False
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise StoreFullError(f"the disk of {self._path.parent} is full") from error
            raise StoreUnavailableError(f"the database {self._path.name} can't be used ({error})") from error
        finally:
            if healthy:
                with self._lock:
                    self._idle.append(db)
            else:
                db.close()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """See `Database`; BEGIN IMMEDIATE locks the database before the first read."""
        self._require_in_place()
        with self._borrow() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def _require_in_place(self) -> None:
        """Refuse to write to a file that was removed or replaced, because the write would be lost."""
        try:
            in_place = self._inode in (None, self._path.stat().st_ino)
        except OSError:
            in_place = False
        if not in_place:
            raise StoreUnavailableError(f"the database {self._path.name} was removed or replaced: restart the service")

    def _connect(self) -> sqlite3.Connection:
        # check_same_thread: a connection is used by one thread at a time, but not always by the same.
        try:
            db = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error as error:
            raise StoreUnavailableError(f"the database {self._path.name} can't be opened ({error})") from error
        return db


def _require_sound(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a damaged file at startup rather than in later requests; takes 0.05 s with 10,000 jobs."""
    try:
        (result,) = db.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        result = str(error)
    if result != "ok":
        raise StoreError(f"{path} is damaged ({result}): stop the service and restore a backup")


def _switch_to_write_ahead_log(db: sqlite3.Connection) -> None:
    """Set the journal mode, which is stored in the file.

    The switch needs exclusive access and ignores the timeout: of two processes that start on a new file at the same
    time, one gets an error that the file is locked, and tries again.
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
