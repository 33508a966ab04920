"""The interface of a database that the store uses: `service.jobs.sqlite` and `service.jobs.postgres` implement it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol


class Rows(Protocol):
    """What a statement answers."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...


class Connection(Protocol):
    """One connection, lent to one thread; parameters stand as ``?``."""

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Rows:
        """Run one statement."""
        ...


class Database(Protocol):
    """A database with the tables of `service.jobs.sql_store`.

    Both contexts raise StoreUnavailableError for whatever keeps the database from answering, and StoreFullError where
    there is no room.

    Attributes
    ----------
    for_update
        Ends a SELECT whose row is written next, so that it can't change meanwhile.
    skip_locked
        Ends a SELECT that takes a row nobody else is about to take.
    """

    for_update: str
    skip_locked: str

    def reading(self) -> AbstractContextManager[Connection]:
        """Lend a connection; each SELECT sees one consistent state."""
        ...

    def writing(self) -> AbstractContextManager[Connection]:
        """One transaction, committed and durable unless the body raises."""
        ...

    def alone(self, db: Connection) -> None:
        """Let no other transaction that asks for this go on beside this one."""
        ...

    def now(self) -> float:
        """Seconds since 1970, by the one clock of all who use the database."""
        ...

    def check(self) -> None:
        """Write something that changes nothing."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...
