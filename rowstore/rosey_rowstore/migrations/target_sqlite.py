"""The child's connection to SQLite: the plugin's file, with the doors to everything else closed."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.base import ischema_names
from sqlalchemy.ext.compiler import compiles

from rosey_rowstore.engine import sqlite_functions
from rosey_rowstore.migrations import snapshot
from rosey_rowstore.migrations.columns import Datetime, Decimal, Uuid
from rosey_rowstore.migrations.names import VERSION_TABLE
from rosey_rowstore.migrations.numbering import REBUILT, Numbers
from rosey_rowstore.migrations.snapshot import Snapshot
from rosey_rowstore.migrations.targets import TransactionEndedError, standing_connection

__all__ = ["SqliteTarget"]

_OWN: Final = "_rosey_"
_BUSY_SECONDS: Final = 10.0

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


@compiles(sa.Uuid, "sqlite")
def _uuid(*_: Any, **__: Any) -> str:
    """As rows keep it; SQLAlchemy's own way, 32 letters without dashes, would not be served as one."""
    return Uuid.sqlite


@compiles(sa.Numeric, "sqlite")
def _numeric(element: sa.Numeric[Any], compiler: Any, **options: Any) -> str:
    """Exact, as on Postgres: a NUMERIC of SQLite's is a float."""
    if isinstance(element, sa.Float):
        return str(getattr(compiler, f"visit_{element.__visit_name__}")(element, **options))
    return Decimal(element.precision, element.scale).sqlite


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
        sa.event.listen(sa.Table, "before_create", self._keep_autoincrement)
        self.connection = standing_connection("sqlite://", self._raw)
        self._trusted = False
        self._numbers = Numbers()
        self._raw.set_authorizer(self._authorize)

    def _keep_autoincrement(self, table: sa.Table, *_: Any, **__: Any) -> None:
        """A rebuilt table gives no id again either: SQLAlchemy does not reflect that."""
        rebuilt = table.name.removeprefix(REBUILT)
        if rebuilt != table.name:
            query = "SELECT 1 FROM sqlite_master WHERE name = ? AND upper(sql) LIKE '%AUTOINCREMENT%'"
            if self._raw.execute(query, (rebuilt,)).fetchone():
                table.dialect_options["sqlite"]["autoincrement"] = True

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
        """Begin as the file's one writer: nobody reads first and writes later here."""
        with self._own() as raw:
            raw.execute("BEGIN IMMEDIATE")
            raw.execute(f"CREATE TABLE IF NOT EXISTS {VERSION_TABLE} (revision TEXT PRIMARY KEY)")

    def check(self) -> None:
        """Check that the transaction still stands."""
        if not self._raw.in_transaction:
            raise TransactionEndedError("The revision ended the transaction that it runs in.")

    def commit(self, *, announce: bool) -> None:
        """Check what refers to what, then commit; every connection sees the file's schema version."""
        del announce
        with self._own() as raw:
            broken = raw.execute("PRAGMA foreign_key_check").fetchone()
            if broken is not None:
                raise sqlite3.IntegrityError(
                    f"A row of {broken[0]} refers to a row of {broken[2]} that is not there."
                )
            raw.execute("COMMIT")

    def rollback(self) -> None:
        """Undo what there is to undo."""
        with self._own() as raw:
            if raw.in_transaction:
                raw.execute("ROLLBACK")

    def outside(self) -> contextlib.AbstractContextManager[None]:
        """Never called: every revision is transactional on SQLite."""
        raise NotImplementedError

    def read_version(self) -> str | None:
        """Return the revision at which the schema stands."""
        with self._own() as raw:
            try:
                row = raw.execute(f"SELECT revision FROM {VERSION_TABLE}").fetchone()  # noqa: S608 - a constant
            except sqlite3.OperationalError:
                return None
            return row[0] if row else None

    def write_version(self, revision: str | None) -> None:
        """Note the revision at which the schema now stands."""
        with self._own() as raw:
            raw.execute(f"DELETE FROM {VERSION_TABLE}")  # noqa: S608 - a constant
            if revision is not None:
                raw.execute(f"INSERT INTO {VERSION_TABLE} VALUES (?)", (revision,))  # noqa: S608 - a constant

    def snapshot(self) -> Snapshot:
        """Return the schema, numbered."""
        with self._own() as raw:
            return self._numbers.numbered(snapshot.from_sqlite(raw))

    def written(self, statement: str, parameters: Any) -> str:
        """Return a statement with its parameters written into it."""
        if not parameters or isinstance(parameters, Mapping):
            return statement
        values = iter(parameters)
        return re.sub(r"\?", lambda _: _literal(next(values, None)), statement)

    def note_statement(self, statement: str) -> None:
        """Keep the numbers of what a statement renames."""
        self._numbers.note(statement)

    def note_rename(self, table: str, column: str, name: str) -> None:
        """Keep the number of a column that a batch operation renames."""
        self._numbers.rename_column(table, column, name)

    def note_drop(self, table: str, column: str) -> None:
        """Forget the number of a column that a batch operation drops."""
        self._numbers.drop_column(table, column)


def _literal(value: Any) -> str:
    kinds: Mapping[type, Callable[[Any], str]] = {
        type(None): lambda _: "NULL",
        int: str,
        float: repr,
        bool: lambda flag: str(int(flag)),
        bytes: lambda data: f"X'{data.hex()}'",
    }
    return kinds.get(type(value), lambda text: "'" + str(text).replace("'", "''") + "'")(value)
