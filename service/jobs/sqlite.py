"""The database of one machine: a SQLite file, shared by the API and its workers.

Write-ahead log with synchronous=FULL: a commit survives kill -9 and power loss and costs about 0.3 ms. Every write is
one short immediate transaction, so writers wait for one another and never fail half-way.
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
"""How long a write waits for another's; writes take milliseconds, so this much means that something is wrong."""


class Sqlite:
    """Implements `service.jobs.database.Database`.

    Connections are pooled: at most one for each thread that is inside a method at the same time. The object owns them
    and `close` closes them.
    """

    for_update = ""
    skip_locked = ""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self.now = path, clock
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._inode: int | None = None
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # slides will lie here
        self._migrate()
        self._inode = path.stat().st_ino

    def alone(self, db: Connection) -> None:
        """Nothing to do: there is one writer at a time."""

    def check(self) -> None:
        """Commit the version number again."""
        with self.writing() as db:
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
            _require_sound(db, self._path)
        with self.writing() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > len(MIGRATIONS):
                raise StoreError(f"{self._path} was written by a newer slidelift (schema {version}): update this one")
            for statements in MIGRATIONS[version:]:
                for statement in statements:
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """See `Database`; an autocommitted SELECT sees one consistent state."""
        with self._lent() as db:
            yield db

    @contextmanager
    def _lent(self) -> Iterator[sqlite3.Connection]:
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
        """See `Database`; immediate, so that what it read can't change meanwhile."""
        self._require_in_place()
        with self._lent() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def _require_in_place(self) -> None:
        """Refuse to write into a file that was removed or replaced: what it takes would be gone with the process."""
        try:
            in_place = self._inode in (None, self._path.stat().st_ino)
        except OSError:
            in_place = False
        if not in_place:
            raise StoreUnavailableError(f"the database {self._path.name} was removed or replaced: restart the service")

    def _connect(self) -> sqlite3.Connection:
        # One thread at a time uses a connection, though not always the same one; hence check_same_thread.
        try:
            db = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error as error:
            raise StoreUnavailableError(f"the database {self._path.name} can't be opened ({error})") from error
        return db


def _require_sound(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a damaged file at the start, rather than at each request that meets its damage; 0.05 s at 10,000 jobs."""
    try:
        (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok":
        raise StoreError(f"{path} is damaged ({found}): restore it from a copy, with the service stopped")


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
