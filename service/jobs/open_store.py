"""The store that the settings name."""

from slidelift.service.jobs.database import database_of
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
