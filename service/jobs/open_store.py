"""Opens the store that the settings name: SQLite, or PostgreSQL by its URL."""

from pathlib import Path

from slidelift.service.errors import refusal
from slidelift.service.jobs.database import Database
from slidelift.service.jobs.sql_store import SqlStore
from slidelift.service.settings import Settings


def open_store(settings: Settings) -> SqlStore:
    """Open it, and make its tables if need be; whoever opens it closes it.

    Raises
    ------
    ServiceError
        database.url: it names no database that can be opened.
    StoreError
        The database does not answer, or was written by a newer slidelift.
    """
    url = settings.database_url.get_secret_value() if settings.database_url else None
    return SqlStore(database_of(url, settings.database), lease_seconds=settings.lease_seconds)


def database_of(url: str | None, file: Path) -> Database:
    """Open the database of a URL, or a SQLite file where there is none; makes its tables if need be.

    Raises
    ------
    ServiceError
        database.url: not a PostgreSQL address, or its driver is not installed.
    StoreError
        The database was written by a newer slidelift, or does not answer.
    """
    if url is None:
        from slidelift.service.jobs.sqlite import Sqlite

        return Sqlite(file)
    if not url.startswith(("postgresql://", "postgres://")):
        raise refusal("database.url", "SLIDELIFT_DATABASE_URL must be postgresql://USER@HOST/NAME, or not be set")
    try:
        from slidelift.service.jobs.postgres import Postgres
    except ModuleNotFoundError as error:
        raise refusal("database.url", f"{error.name} is not installed: pip install 'slidelift[postgres]'") from error
    return Postgres(url)
