"""The values that pass between the engine, which builds statements, and the databases, which run them."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from attrs import field, frozen

__all__ = [
    "Column",
    "ColumnType",
    "Dialect",
    "Index",
    "Limits",
    "Result",
    "Shared",
    "Statement",
    "Table",
]


class Dialect(enum.StrEnum):
    """The two databases."""

    POSTGRES = "postgres"
    SQLITE = "sqlite"


class ColumnType(enum.StrEnum):
    """The types of the contract."""

    STRING = "string"
    TEXT = "text"
    INTEGER = "integer"
    FLOAT = "float"
    DECIMAL = "decimal"
    BOOLEAN = "boolean"
    DATETIME = "datetime"
    DATE = "date"
    UUID = "uuid"
    JSON = "json"


@frozen(kw_only=True)
class Column:
    """A column as reflected.

    Attributes:
        nullable: Null may be stored.
        has_default: The database (or the service) fills it when an insert leaves it out.
        default: The default as a JSON value, None when there is none or it is an expression.
        max_length: Code points that fit, for `string` columns that limit them.
        bits: The size of an `integer` column: 16, 32 or 64.
        precision, scale: Of a limited `decimal`; None for an unlimited one.
        aware: A `datetime` column with time zone (`timestamptz`); a naive one holds UTC.
        generated: Identity, serial or computed: never writable.
        indexed_bytes: UTF-8 bytes that fit a text, because an index holds it; None without an index.
        references: The table that a foreign key names, None without one.
        database_type: The type as the catalog says it, for the places where a cast must name it.
    """

    name: str
    type: ColumnType
    nullable: bool = True
    has_default: bool = False
    default: Any = None
    max_length: int | None = None
    bits: int = 64
    precision: int | None = None
    scale: int | None = None
    aware: bool = True
    generated: bool = False
    references: str | None = None
    indexed_bytes: int | None = None
    database_type: str = ""


@frozen(kw_only=True)
class Index:
    """An index as reflected; only plain, whole-table ones over columns are listed."""

    name: str
    columns: tuple[str, ...]
    unique: bool = False


@frozen(kw_only=True)
class Table:
    """A table as reflected.

    Attributes:
        reacts: A trigger or a rule of the plugin's own acts on its writes: one statement for many rows may
            do something else than many statements.
        steady: What a role reads of it changes by writes to it alone: no row security, no other table's rows.
        managed: Made by `tables.define`: `id`, `created_at` and `updated_at` belong to the service.
        generation: Grows with every definition and migration of the plugin; part of every cache key.
    """

    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    indexes: tuple[Index, ...] = ()
    managed: bool = False
    reacts: bool = False
    steady: bool = False
    generation: int = 0
    by_name: dict[str, Column] = field(init=False, eq=False, repr=False)

    @by_name.default
    def _index_columns(self) -> dict[str, Column]:
        return {column.name: column for column in self.columns}


@frozen(kw_only=True)
class Limits:
    """A plugin's limits; the figures are DESIGN §7's defaults. Sizes in bytes, times in seconds."""

    value_size: int = 64 * 1024
    bucket_size: int = 16 * 1024 * 1024
    history: int = 10
    request_size: int = 1024 * 1024
    reply_size: int = 1024 * 1024
    rows_per_insert: int = 1000
    rows_per_page: int = 1000
    statement_timeout: float = 5.0
    lock_timeout: float = 2.0
    migration_timeout: float = 600.0
    requests_in_flight: int = 96
    requests_waiting: int = 256
    requests_per_second: float = 1000.0
    burst: float = 2000.0


class Result(NamedTuple):
    """What the database answered to one statement: the rows as it gave them, and the rows it touched."""

    rows: Sequence[Sequence[Any]]
    touched: int


class Statement(NamedTuple):
    """One SQL statement, ready for the driver: `$1 …` on Postgres, `?` on SQLite, with driver values.

    `sql` is the same object for every request of one shape, so that a driver can prepare it once.
    """

    sql: str
    parameters: Sequence[Any] = ()


class Shared(Protocol):
    """How requests of one shape that wait become one statement; there is one object a shape."""

    def together(self, each: Sequence[Sequence[Any]], /) -> Statement:
        """Return the statement that does what the single one would do with each of the parameters."""

    def apart(self, each: Sequence[Sequence[Any]], result: Result, /) -> list[Result]:
        """Return what the single statement would have given to each."""

    def replies(self, result: Result, /) -> list[bytes] | None:
        """Return the reply to each, where all together are made faster than by the plans; else None."""
