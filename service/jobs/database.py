"""The interface of a database that the store uses: `service.jobs.sqlite` and `service.jobs.postgres` implement it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol


class Rows(Protocol):
    """Result of a statement."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...


class Connection(Protocol):
    """A connection for one thread. Placeholders of parameters are ``?``."""

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Rows:
        """Run one statement."""
        ...


class Database(Protocol):
    """A database with the tables of `service.jobs.sql_store`.

    Both contexts raise StoreUnavailableError if the database does not respond, and StoreFullError if the disk is full.

    Attributes
    ----------
    for_update
        Clause of a SELECT that locks the row until the transaction ends.
    skip_locked
        Clause of a SELECT that locks the row, and skips rows that others have locked.
    """

    for_update: str
    skip_locked: str

    def reading(self) -> AbstractContextManager[Connection]:
        """Borrow a connection; each SELECT sees one consistent state."""
        ...

    def writing(self) -> AbstractContextManager[Connection]:
        """Run a transaction, which is committed durably unless the body raises."""
        ...

    def alone(self, db: Connection) -> None:
        """Wait until no other transaction that called this is running, and block others until this one ends."""
        ...

    def now(self) -> float:
        """Seconds since 1970, by the clock that all users of the database share."""
        ...

    def check(self) -> None:
        """Write without changing anything."""
        ...

    def close(self) -> None:
        """Close files and connections."""
        ...
