"""Opens the store of the settings: SQLite, or PostgreSQL if there is a URL."""

from pathlib import Path

from slidelift.service.errors import refusal
from slidelift.service.jobs.database import Database
from slidelift.service.jobs.sql_store import SqlStore
from slidelift.service.settings import Settings


def open_store(settings: Settings) -> SqlStore:
    """Open the store and create missing tables. The caller closes it.

    Raises
    ------
    ServiceError
        database.url: not the URL of a database that can be opened.
    StoreError
        The database does not respond, or was written by a newer version of slidelift.
    """
    url = settings.database_url.get_secret_value() if settings.database_url else None
    return SqlStore(database_of(url, settings.database), lease_seconds=settings.lease_seconds)


def database_of(url: str | None, file: Path) -> Database:
    """Open the database of a URL, or a SQLite file without one, and create missing tables.

    Raises
    ------
    ServiceError
        database.url: not a PostgreSQL URL, or the driver is not installed.
    StoreError
        The database was written by a newer version of slidelift, or does not respond.
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
