"""What steps need of the child's one connection: transactions, the version row, the schema as it is."""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from rosey_rowstore.migrations.snapshot import Snapshot

__all__ = ["MovedError", "Target", "TransactionEndedError", "standing_connection"]


class MovedError(Exception):
    """The schema does not stand where the run begins; another run was first."""


class TransactionEndedError(Exception):
    """A revision ended the transaction that it runs in."""


class Target(Protocol):
    """What the steps need of a database."""

    connection: sa.Connection

    def begin(self) -> None:
        """Begin the run's transaction, alone among all runs of the plugin."""

    def check(self) -> None:
        """Check that the transaction still stands.

        Raises:
            TransactionEndedError: It does not.
        """

    def commit(self, *, announce: bool) -> None:
        """Commit, and with it tell every service process that the schema changed."""

    def rollback(self) -> None:
        """Undo everything since `begin`."""

    def outside(self) -> contextlib.AbstractContextManager[None]:
        """Run statements outside of a transaction, after clearing what an interrupted attempt left."""

    def read_version(self) -> str | None:
        """Return the revision at which the schema stands."""

    def write_version(self, revision: str | None) -> None:
        """Note the revision at which the schema now stands."""

    def snapshot(self) -> Snapshot:
        """Return the schema, with numbers that tell a renamed table or column from a new one."""

    def written(self, statement: str, parameters: Any) -> str:
        """Return a statement with its parameters written into it."""

    def note_statement(self, statement: str) -> None:
        """Take note of what a statement renames or drops."""

    def note_rename(self, table: str, column: str, name: str) -> None:
        """Take note of a column that a batch operation renames."""

    def note_drop(self, table: str, column: str) -> None:
        """Take note of a column that a batch operation drops."""


def standing_connection(url: str, raw: Any, **options: Any) -> sa.Connection:
    """Return SQLAlchemy's view of an open connection: one transaction that stands all the time.

    Neither Alembic nor a revision begins or commits then; what tries to is a `TransactionEndedError`.
    """
    engine = sa.create_engine(url, creator=lambda: raw, poolclass=StaticPool, **options)
    sa.event.listen(engine, "commit", _refuse_end)
    connection = engine.connect()
    connection.begin()
    return connection


def _refuse_end(_: sa.Connection) -> None:
    raise TransactionEndedError("A revision may not commit: the whole run is one transaction.")
