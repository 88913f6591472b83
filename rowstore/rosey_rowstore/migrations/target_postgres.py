"""The child's connection to Postgres: a schema, as the plugin's owner."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import psycopg
from psycopg import sql

from rosey_rowstore.migrations import snapshot
from rosey_rowstore.migrations.names import VERSION_TABLE
from rosey_rowstore.migrations.snapshot import Snapshot
from rosey_rowstore.migrations.targets import TransactionEndedError, standing_connection

__all__ = ["PostgresTarget"]

_LOCK_PAUSE: Final = 0.05


class PostgresTarget:
    """A schema, as the plugin's owner.

    Args:
        dsn: Of the owner, with the schema as its search path.
        schema: The schema's name, also that of the rows' role.
        lock: The name of the lock that definitions of tables take too.
        channel: Where changes of schemas are announced.
        plugin: The announcement's payload.
    """

    def __init__(
        self, dsn: str, *, schema: str, lock: str, channel: str, plugin: str, lock_seconds: float
    ) -> None:
        self._schema, self._channel, self._plugin = schema, channel, plugin
        self._raw: psycopg.Connection[Any] = psycopg.connect(dsn, autocommit=True, prepare_threshold=None)
        self._take_lock(lock, lock_seconds)
        self.connection = standing_connection(
            "postgresql+psycopg://", self._raw, isolation_level="AUTOCOMMIT", use_native_hstore=False
        )
        self._transaction: int | None = None

    def _take_lock(self, name: str, seconds: float) -> None:
        # Asked again and again: whoever waits inside of a statement holds a snapshot, and CREATE INDEX
        # CONCURRENTLY waits for every older snapshot.
        deadline = time.monotonic() + seconds
        while not self._one("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (name,)):
            if time.monotonic() > deadline:
                raise TimeoutError("A table of the plugin is being defined, or another migration still ends.")
            time.sleep(_LOCK_PAUSE)

    def _one(self, statement: Any, parameters: Sequence[Any] = ()) -> Any:
        row = self._raw.execute(statement, parameters or None).fetchone()
        return row[0] if row else None

    def begin(self) -> None:
        """Begin; the lock on the version table is the last word on who runs."""
        self._raw.execute("BEGIN")
        table = sql.Identifier(VERSION_TABLE)
        if not self._has_version_table():
            self._raw.execute(sql.SQL("CREATE TABLE {} (revision text PRIMARY KEY)").format(table))
            self._raw.execute(
                sql.SQL("REVOKE ALL ON {} FROM PUBLIC, {}").format(table, sql.Identifier(self._schema))
            )
        self._raw.execute(sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(table))
        self._transaction = self._one("SELECT pg_current_xact_id()::text::bigint")

    def _has_version_table(self) -> bool:
        return self._one("SELECT to_regclass(%s)", (f'"{self._schema}"."{VERSION_TABLE}"',)) is not None

    def check(self) -> None:
        """Check that the transaction is the one that was begun."""
        status = self._raw.info.transaction_status
        if status == psycopg.pq.TransactionStatus.INERROR:
            return  # the failing statement's own error is on its way
        if (
            status != psycopg.pq.TransactionStatus.INTRANS
            or self._one("SELECT pg_current_xact_id_if_assigned()::text::bigint") != self._transaction
        ):
            raise TransactionEndedError("The revision ended the transaction that it runs in.")

    def commit(self, *, announce: bool) -> None:
        """Commit, and notify every service process."""
        if announce:
            self._raw.execute("SELECT pg_notify(%s, %s)", (self._channel, self._plugin))
        self._raw.execute("COMMIT")
        self._transaction = None

    def rollback(self) -> None:
        """Undo what there is to undo."""
        if not self._raw.closed and self._raw.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            self._raw.execute("ROLLBACK")
        self._transaction = None

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Drop the invalid indexes of an interrupted attempt, then let statements commit one by one."""
        # It blocks nobody, so it may wait for its turn however long that takes.
        self._raw.execute("SET lock_timeout = 0")
        for (name,) in self._raw.execute(
            "SELECT i.relname FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid"
            " WHERE NOT x.indisvalid AND i.relnamespace = to_regnamespace(%s) AND i.relkind = 'i'",
            (f'"{self._schema}"',),
        ).fetchall():
            self._raw.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(name)))
        try:
            yield
        finally:
            if not self._raw.closed:
                self._raw.execute("RESET lock_timeout")

    def read_version(self) -> str | None:
        """Return the revision at which the schema stands."""
        if not self._has_version_table():
            return None
        version: str | None = self._one(
            sql.SQL("SELECT revision FROM {}").format(sql.Identifier(VERSION_TABLE))
        )
        return version

    def write_version(self, revision: str | None) -> None:
        """Note the revision at which the schema now stands."""
        table = sql.Identifier(VERSION_TABLE)
        self._raw.execute(sql.SQL("DELETE FROM {}").format(table))
        if revision is not None:
            self._raw.execute(sql.SQL("INSERT INTO {} VALUES (%s)").format(table), (revision,))

    def snapshot(self) -> Snapshot:
        """Return the schema; Postgres' own numbers tell renamed from new."""
        parameters = {"schema": f'"{self._schema}"'}
        return snapshot.from_postgres(
            {
                part: self._raw.execute(query, parameters).fetchall()
                for part, query in snapshot.POSTGRES_QUERIES.items()
            }
        )

    def written(self, statement: str, parameters: Any) -> str:
        """Return a statement with its parameters written into it."""
        if not parameters:
            return statement
        return psycopg.ClientCursor(self._raw).mogrify(statement, parameters)

    def note_statement(self, statement: str) -> None:
        """Postgres numbers its tables and columns itself."""

    def note_rename(self, table: str, column: str, name: str) -> None:
        """Postgres numbers its tables and columns itself."""

    def note_drop(self, table: str, column: str) -> None:
        """Postgres numbers its tables and columns itself."""
