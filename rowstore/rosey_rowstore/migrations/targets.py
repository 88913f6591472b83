"""The child's one connection to the plugin's database: transactions, the version row, the schema as it is."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import attrs
import psycopg
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.dialects.sqlite.base import ischema_names
from sqlalchemy.pool import StaticPool

from rosey_rowstore.engine import sqlite_functions
from rosey_rowstore.migrations import snapshot
from rosey_rowstore.migrations.columns import Datetime, Decimal, Uuid
from rosey_rowstore.migrations.names import VERSION_TABLE
from rosey_rowstore.migrations.snapshot import Snapshot, TableState

__all__ = ["MovedError", "PostgresTarget", "SqliteTarget", "Target", "TransactionEndedError"]

_OWN: Final = "_rosey_"
_BUSY_SECONDS: Final = 10.0
_LOCK_PAUSE: Final = 0.05


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


def _engine(url: str, connection: Any, **options: Any) -> sa.Engine:
    engine = sa.create_engine(url, creator=lambda: connection, poolclass=StaticPool, **options)
    sa.event.listen(engine, "commit", _refuse_end)
    return engine


def _connect(engine: sa.Engine) -> sa.Connection:
    connection = engine.connect()
    # In SQLAlchemy's eyes one transaction stands all the time, so that Alembic neither begins nor commits.
    connection.begin()
    return connection


def _refuse_end(_: sa.Connection) -> None:
    raise TransactionEndedError("A revision may not commit: the whole run is one transaction.")


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
        engine = _engine(
            "postgresql+psycopg://", self._raw, isolation_level="AUTOCOMMIT", use_native_hstore=False
        )
        self.connection = _connect(engine)
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
        self._raw.execute("BEGIN")
        self._raw.execute(
            sql.SQL("CREATE TABLE IF NOT EXISTS {} (revision text PRIMARY KEY)").format(
                sql.Identifier(VERSION_TABLE)
            )
            if not self._has_version_table()
            else "SELECT 1"
        )
        self._raw.execute(
            sql.SQL("REVOKE ALL ON {} FROM PUBLIC, {}").format(
                sql.Identifier(VERSION_TABLE), sql.Identifier(self._schema)
            )
        )
        self._raw.execute(sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(sql.Identifier(VERSION_TABLE)))
        self._transaction = self._one("SELECT pg_current_xact_id()::text::bigint")

    def _has_version_table(self) -> bool:
        return self._one("SELECT to_regclass(%s)", (f'"{self._schema}"."{VERSION_TABLE}"',)) is not None

    def check(self) -> None:
        status = self._raw.info.transaction_status
        if status == psycopg.pq.TransactionStatus.INERROR:
            return  # the failing statement's own error is on its way
        if (
            status != psycopg.pq.TransactionStatus.INTRANS
            or self._one("SELECT pg_current_xact_id_if_assigned()::text::bigint") != self._transaction
        ):
            raise TransactionEndedError("The revision ended the transaction that it runs in.")

    def commit(self, *, announce: bool) -> None:
        if announce:
            self._raw.execute("SELECT pg_notify(%s, %s)", (self._channel, self._plugin))
        self._raw.execute("COMMIT")
        self._transaction = None

    def rollback(self) -> None:
        if not self._raw.closed and self._raw.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            self._raw.execute("ROLLBACK")
        self._transaction = None

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
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
        if not self._has_version_table():
            return None
        version: str | None = self._one(
            sql.SQL("SELECT revision FROM {}").format(sql.Identifier(VERSION_TABLE))
        )
        return version

    def write_version(self, revision: str | None) -> None:
        table = sql.Identifier(VERSION_TABLE)
        self._raw.execute(sql.SQL("DELETE FROM {}").format(table))
        if revision is not None:
            self._raw.execute(sql.SQL("INSERT INTO {} VALUES (%s)").format(table), (revision,))

    def snapshot(self) -> Snapshot:
        parameters = {"schema": f'"{self._schema}"'}
        return snapshot.from_postgres(
            {
                part: self._raw.execute(query, parameters).fetchall()
                for part, query in snapshot.POSTGRES_QUERIES.items()
            }
        )

    def written(self, statement: str, parameters: Any) -> str:
        if not parameters:
            return statement
        return psycopg.ClientCursor(self._raw).mogrify(statement, parameters)  # type: ignore[arg-type]  # composed before

    def note_statement(self, statement: str) -> None:
        """Postgres numbers its tables and columns itself."""

    def note_rename(self, table: str, column: str, name: str) -> None:
        """Postgres numbers its tables and columns itself."""

    def note_drop(self, table: str, column: str) -> None:
        """Postgres numbers its tables and columns itself."""


_NAME: Final = r'["`\[]?(\w+)["`\]]?'
_RENAME_TABLE: Final = re.compile(rf"\s*ALTER\s+TABLE\s+{_NAME}\s+RENAME\s+TO\s+{_NAME}", re.IGNORECASE)
_RENAME_COLUMN: Final = re.compile(
    rf"\s*ALTER\s+TABLE\s+{_NAME}\s+RENAME\s+(?:COLUMN\s+)?(?!TO\b){_NAME}\s+TO\s+{_NAME}", re.IGNORECASE
)
_DROP_TABLE: Final = re.compile(rf"\s*DROP\s+TABLE\s+(?:IF\s+EXISTS\s+)?{_NAME}", re.IGNORECASE)
_DROP_COLUMN: Final = re.compile(rf"\s*ALTER\s+TABLE\s+{_NAME}\s+DROP\s+(?:COLUMN\s+)?{_NAME}", re.IGNORECASE)
_COPY: Final = "_alembic_tmp_"

# What a revision may ask of SQLite's settings: to look at the schema.
_PRAGMAS: Final = frozenset(
    {"table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "database_list"}
    | {
        "foreign_key_list",
        "foreign_key_check",
        "collation_list",
        "function_list",
        "foreign_keys",
        "read_uncommitted",
    }
)


class SqliteTarget:
    """A plugin's file."""

    def __init__(self, path: str, *, lock_seconds: float) -> None:
        self._raw = sqlite3.connect(path, isolation_level=None, timeout=min(_BUSY_SECONDS, lock_seconds))
        for pragma in (
            # A table that is rebuilt is dropped for a moment; what refers to it is checked before the commit.
            "foreign_keys = OFF",
            "synchronous = NORMAL",
            "temp_store = MEMORY",
            "journal_mode = WAL",
        ):
            self._raw.execute(f"PRAGMA {pragma}").fetchall()
        sqlite_functions.register(self._raw)
        # Opens what SQLite opens late, before the doors are closed.
        self._raw.execute("SELECT count(*) FROM sqlite_master").fetchall()
        # A rebuilt table keeps the types that SQLAlchemy does not know.
        ischema_names.update({"UUID": Uuid, "DECIMAL_TEXT": Decimal, "DATETIME": Datetime})
        self.connection = _connect(_engine("sqlite://", self._raw))
        self._trusted = False
        self._numbers = _Numbers()
        self._raw.set_authorizer(self._authorize)

    def _authorize(
        self, action: int, first: str | None, second: str | None, database: str | None, source: str | None
    ) -> int:
        del database, source
        if self._trusted:
            return sqlite3.SQLITE_OK
        if action in (sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH):
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_PRAGMA and (first or "").lower() not in _PRAGMAS:
            return sqlite3.SQLITE_DENY
        if any(name is not None and name.lower().startswith(_OWN) for name in (first, second)):
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    @contextlib.contextmanager
    def _own(self) -> Iterator[sqlite3.Connection]:
        self._trusted = True
        try:
            yield self._raw
        finally:
            self._trusted = False

    def begin(self) -> None:
        with self._own() as raw:
            raw.execute("BEGIN IMMEDIATE")
            raw.execute(f"CREATE TABLE IF NOT EXISTS {VERSION_TABLE} (revision TEXT PRIMARY KEY)")

    def check(self) -> None:
        if not self._raw.in_transaction:
            raise TransactionEndedError("The revision ended the transaction that it runs in.")

    def commit(self, *, announce: bool) -> None:
        del announce  # every connection compares the file's schema version
        with self._own() as raw:
            broken = raw.execute("PRAGMA foreign_key_check").fetchone()
            if broken is not None:
                raise sqlite3.IntegrityError(
                    f"A row of {broken[0]} refers to a row of {broken[2]} that is not there."
                )
            raw.execute("COMMIT")

    def rollback(self) -> None:
        with self._own() as raw:
            if raw.in_transaction:
                raw.execute("ROLLBACK")

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        raise AssertionError("every revision is transactional on SQLite")
        yield

    def read_version(self) -> str | None:
        with self._own() as raw:
            try:
                row = raw.execute(f"SELECT revision FROM {VERSION_TABLE}").fetchone()  # noqa: S608 - a constant
            except sqlite3.OperationalError:
                return None
            return row[0] if row else None

    def write_version(self, revision: str | None) -> None:
        with self._own() as raw:
            raw.execute(f"DELETE FROM {VERSION_TABLE}")  # noqa: S608 - a constant
            if revision is not None:
                raw.execute(f"INSERT INTO {VERSION_TABLE} VALUES (?)", (revision,))  # noqa: S608 - a constant

    def snapshot(self) -> Snapshot:
        with self._own() as raw:
            return self._numbers.numbered(snapshot.from_sqlite(raw))

    def written(self, statement: str, parameters: Any) -> str:
        if not parameters or isinstance(parameters, Mapping):
            return statement
        values = iter(parameters)
        return re.sub(r"\?", lambda _: _literal(next(values, None)), statement)

    def note_statement(self, statement: str) -> None:
        self._numbers.note(statement)

    def note_rename(self, table: str, column: str, name: str) -> None:
        self._numbers.rename_column(table, column, name)

    def note_drop(self, table: str, column: str) -> None:
        self._numbers.drop_column(table, column)


class _Numbers:
    """Numbers for tables and columns of SQLite, which has none: given at the first snapshot, kept on renames."""

    def __init__(self) -> None:
        self._tables: dict[str, int] | None = None
        self._columns: dict[str, dict[str, int]] = {}
        self._dropped: dict[str, tuple[int | None, dict[str, int]]] = {}
        self._next = 0

    def _number(self) -> int:
        self._next += 1
        return self._next

    def numbered(self, found: Snapshot) -> Snapshot:
        """Return the snapshot with the numbers, new ones for what is new."""
        self._tables = self._tables or {}
        return attrs.evolve(
            found, tables={name: self._numbered_table(name, table) for name, table in found.tables.items()}
        )

    def _numbered_table(self, name: str, table: TableState) -> TableState:
        assert self._tables is not None  # noqa: S101 - made by `numbered`
        number = self._tables.setdefault(name, self._number())
        columns = self._columns.setdefault(name, {})
        return attrs.evolve(
            table,
            number=number,
            columns={
                column: attrs.evolve(state, number=columns.setdefault(column, self._number()))
                for column, state in table.columns.items()
            },
        )

    def note(self, statement: str) -> None:
        """Follow what a statement renames or drops."""
        if self._tables is None:
            return
        if found := _RENAME_TABLE.match(statement):
            self._rename_table(found[1], found[2])
        elif found := _RENAME_COLUMN.match(statement):
            self.rename_column(found[1], found[2], found[3])
        elif found := _DROP_TABLE.match(statement):
            self._dropped[found[1]] = (self._tables.pop(found[1], None), self._columns.pop(found[1], {}))
        elif found := _DROP_COLUMN.match(statement):
            self.drop_column(found[1], found[2])

    def _rename_table(self, old: str, new: str) -> None:
        assert self._tables is not None  # noqa: S101 - checked by `note`
        if old == _COPY + new and new in self._dropped:  # Alembic rebuilt the table
            number, columns = self._dropped.pop(new)
        else:
            number, columns = self._tables.pop(old, None), self._columns.pop(old, {})
        if number is not None:
            self._tables[new] = number
        self._columns[new] = columns

    def rename_column(self, table: str, old: str, new: str) -> None:
        """Let a column keep its number under its new name."""
        columns = self._columns.get(table, {})
        if old in columns and old != new:
            columns[new] = columns.pop(old)

    def drop_column(self, table: str, column: str) -> None:
        """Let the next column of this name be another."""
        self._columns.get(table, {}).pop(column, None)


def _literal(value: Any) -> str:
    kinds: Mapping[type, Callable[[Any], str]] = {
        type(None): lambda _: "NULL",
        int: str,
        float: repr,
        bool: lambda flag: str(int(flag)),
        bytes: lambda data: f"X'{data.hex()}'",
    }
    return kinds.get(type(value), lambda text: "'" + str(text).replace("'", "''") + "'")(value)
