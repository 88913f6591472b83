"""Where the dialects meet SQLAlchemy: tables, parameters, casts, and each difference by its name.

SQLAlchemy builds and compiles a statement once a shape; nothing here runs one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from attrs import field, frozen
from sqlalchemy.dialects.postgresql.psycopg import PGDialectAsync_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.types import UserDefinedType

from rosey_rowstore.engine.catalog_types import is_foreign, postgres_type
from rosey_rowstore.engine.codecs import CODECS, Codec
from rosey_rowstore.engine.model import Column, ColumnType, Dialect, Table
from rosey_rowstore.engine.values import TEXTUAL

__all__ = ["Binder", "Compiled", "Expression", "PostgresText", "Sql", "literal"]

Expression = sa.ColumnElement[Any]
Binder = Callable[[Sequence[Any]], Sequence[Any]]

_COLLATION: Final = "rosey_decimal"
_READ_AS_TEXT: Final = (ColumnType.DECIMAL, ColumnType.JSON, ColumnType.UUID)


@frozen(kw_only=True)
class PostgresText:
    """How a Postgres database is told to treat text.

    Attributes:
        order: The collation to compare and sort by, where the database's own is not by code point: `C`.
        fold: The collation with which `lower` knows all letters, where the database's own does not.
    """

    order: str | None = None
    fold: str | None = None


@frozen
class Compiled:
    """A statement of one shape: its SQL, and which value goes to which place."""

    sql: str
    positions: tuple[int, ...]
    in_order: bool = field(init=False)

    @in_order.default
    def _is_in_order(self) -> bool:
        return self.positions == tuple(range(len(self.positions)))

    def bind(self, values: Sequence[Any]) -> Sequence[Any]:
        """Return the driver's parameters from the values in the order in which the shape takes them."""
        if self.in_order and len(values) == len(self.positions):
            return values
        return [values[position] for position in self.positions]


class _Named(UserDefinedType[Any]):
    """A type by its name, for casts: SQLAlchemy's own types would bring conversions along."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


@functools.cache
def _named(name: str) -> _Named:
    return _Named(name)


def literal(text: str) -> Expression:
    """Return SQL as it stands, for constants of our own: never anything that a request brought."""
    return sa.literal_column(text)


def _quoted(name: str) -> sa.quoted_name:
    return sa.quoted_name(name, quote=True)


class Sql:
    """Builds the expressions of one dialect."""

    def __init__(self, dialect: Dialect, text: PostgresText | None = None) -> None:
        self.dialect = dialect
        self.postgres = dialect is Dialect.POSTGRES
        self.codec: Codec = CODECS[dialect]
        self._text = text or PostgresText()
        self._compiler = (
            PGDialectAsync_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]  # SQLAlchemy's
            if self.postgres
            else SQLiteDialect_pysqlite()
        )

    def compile(self, statement: sa.ClauseElement) -> Compiled:
        """Return a statement's SQL and the order of its values."""
        compiled = statement.compile(dialect=self._compiler)
        names: Sequence[str] = getattr(compiled, "positiontup", None) or ()
        return Compiled(str(compiled), tuple(int(name[1:]) for name in names))

    # tables and columns

    def table(self, table: Table) -> sa.TableClause:
        """Return the table with its columns, all names quoted."""
        columns: list[sa.ColumnClause[Any]] = [sa.column(_quoted(column.name)) for column in table.columns]
        return sa.table(_quoted(table.name), *columns)

    def reads(self, table: sa.FromClause, column: Column) -> Expression:
        """Return the column as it is selected; where a driver would make an object, as text."""
        return self.read(column, table.c[column.name], column.name)

    def read(self, column: Column, found: Expression, name: str) -> Expression:
        """Return a value of `column`'s type as it is selected, called `name`."""
        if self.postgres and (column.type in _READ_AS_TEXT or is_foreign(column)):
            return sa.cast(found, _named("text")).label(_quoted(name))
        return found

    # parameters

    def parameter(self, position: int) -> sa.BindParameter[Any]:
        """Return the place of the value at `position`, as the driver gives it."""
        # SQLAlchemy refuses a parameter called like a column; no column is called #0.
        return sa.bindparam(f"#{position}", type_=sa.types.NullType())

    def written(self, column: Column, position: int) -> Expression:
        """Return the place of a value that is stored in `column`."""
        place = self.parameter(position)
        return sa.cast(place, _named(postgres_type(column))) if self.postgres else place

    def compared(self, column: Column, position: int) -> Expression:
        """Return the place of a value that `column` is compared with."""
        place = self.parameter(position)
        return sa.cast(place, _named(postgres_type(column, compared=True))) if self.postgres else place

    def array(self, column: Column, position: int, *, compared: bool) -> Expression:
        """Return the place of a list of values for `column`; Postgres only."""
        return sa.cast(self.parameter(position), _named(postgres_type(column, compared=compared) + "[]"))

    # comparisons

    def comparable(self, column: Column, found: Expression) -> Expression:
        """Return `found`, a value of `column`'s type, as it compares, sorts and groups."""
        kind = column.type
        if kind in TEXTUAL and self.postgres and self._text.order and not is_foreign(column):
            return sa.collate(found, self._text.order)
        if kind is ColumnType.DECIMAL and not self.postgres:
            return sa.collate(found, _COLLATION)
        if kind is ColumnType.JSON:
            return sa.cast(found, _named("jsonb")) if self.postgres else sa.func.rosey_json_key(found)
        return found

    def is_one_of(self, column: Column, found: Expression, position: int) -> Expression:
        """Return whether `found` is in a list that travels as one value, whatever its length."""
        if self.postgres:
            return self.comparable(column, found) == sa.func.any(self.array(column, position, compared=True))
        value: Expression = literal("value")
        if column.type is ColumnType.FLOAT:
            value = sa.func.rosey_float(value)
        values = sa.select(value).select_from(sa.func.json_each(self.parameter(position)))
        return self.comparable(column, found).in_(values)

    def folded(self, found: Expression) -> Expression:
        """Return text in lower case."""
        if not self.postgres:
            return sa.func.rosey_lower(found)
        return sa.func.lower(sa.collate(found, self._text.fold) if self._text.fold else found)

    def text(self, column: Column, found: Expression) -> Expression:
        """Return a value of a column as text, for patterns."""
        return sa.cast(found, _named("text")) if self.postgres and is_foreign(column) else found

    def text_parameter(self, position: int) -> Expression:
        """Return the place of a text that is no value of a column: a pattern."""
        place = self.parameter(position)
        return sa.cast(place, _named("text")) if self.postgres else place

    # order and limits

    def ordering(self, column: Column, found: Expression, *, descending: bool) -> Expression:
        """Return the sort key of a column: nulls last in both directions."""
        key = self.comparable(column, found)
        ordered = key.desc() if descending else key.asc()
        # Postgres sorts nulls last by itself when rising, and may then use a plain index.
        return ordered.nulls_last() if column.nullable and (descending or not self.postgres) else ordered

    def limited(self, query: sa.Select[Any], limit: int) -> sa.Select[Any]:
        """Return the query with its limit as a literal: as a parameter it doubles Postgres' work."""
        limited = query.limit(literal(str(limit)))
        return limited if self.postgres else limited.offset(literal("0"))

    # moments

    def now(self, column: Column, position: int, *, at_start: bool = False) -> Expression:
        """Return the present moment for a datetime or date column.

        Postgres' clock is used there, with microseconds, so that every service process agrees; SQLite
        has milliseconds only, and takes the value at `position`. `at_start` gives all rows of a
        statement one moment; without it each row has its own, read after waiting for its lock.
        """
        if not self.postgres:
            return self.parameter(position)
        moment: Expression = sa.func.statement_timestamp() if at_start else sa.func.clock_timestamp()
        if column.type is ColumnType.DATE:
            return sa.cast(sa.func.timezone(literal("'UTC'"), moment), _named("date"))
        return moment if column.aware else sa.func.timezone(literal("'UTC'"), moment)

    def cast(self, found: Expression, name: str) -> Expression:
        """Return a cast by a type's name; Postgres only."""
        return sa.cast(found, _named(name))
