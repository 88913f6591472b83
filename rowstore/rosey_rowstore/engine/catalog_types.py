"""The types of both databases' catalogs and the types of the contract, each way."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, Final

import attrs

from rosey_rowstore.engine.model import Column, ColumnType, Dialect, Table

__all__ = [
    "LENGTHS_DROP",
    "LENGTHS_QUERY",
    "LENGTHS_SET",
    "LENGTHS_TABLE",
    "SERVICE_COLUMNS",
    "as_served",
    "column_type",
    "declared_type",
    "is_foreign",
    "postgres_type",
]

SERVICE_COLUMNS: Final = ("id", "created_at", "updated_at")
"""The columns of a defined table that belong to the service, in their order."""

# SQLite cannot change the type of a column that exists: a `max_length` that grew stands here, and
# reflection takes the larger of this figure and the declared one.
LENGTHS_TABLE: Final = (
    'CREATE TABLE IF NOT EXISTS "_rosey_lengths" '
    '("table" TEXT NOT NULL, "column" TEXT NOT NULL, "max_length" BIGINT NOT NULL, '
    'PRIMARY KEY ("table", "column")) WITHOUT ROWID'
)
LENGTHS_QUERY: Final = 'SELECT "table", "column", "max_length" FROM "_rosey_lengths"'
LENGTHS_SET: Final = (
    'INSERT INTO "_rosey_lengths" ("table", "column", "max_length") VALUES ({table}, {column}, {length}) '
    'ON CONFLICT ("table", "column") DO UPDATE SET "max_length" = excluded."max_length"'
)
LENGTHS_DROP: Final = 'DELETE FROM "_rosey_lengths" WHERE "table" = {table}'

_SIZED: Final = re.compile(
    r"\s*([a-zA-Z_][a-zA-Z_ ]*?)\s*(?:\(\s*(\d+)\s*(?:,\s*(-?\d+)\s*)?\)\s*([a-zA-Z ]*))?\s*"
)

_INDEXED_BYTES: Final = 2600
"""What one text of an index entry may take; an entry of Postgres has 2,704 bytes in all, whatever it holds.

It compresses texts first, so some longer ones would fit: which, no caller could know beforehand.
"""

_COMMON: Final = {
    "text": ColumnType.TEXT,
    "varchar": ColumnType.STRING,
    "character varying": ColumnType.STRING,
    "character": ColumnType.STRING,
    "char": ColumnType.STRING,
    "nvarchar": ColumnType.STRING,
    "smallint": ColumnType.INTEGER,
    "integer": ColumnType.INTEGER,
    "int": ColumnType.INTEGER,
    "bigint": ColumnType.INTEGER,
    "real": ColumnType.FLOAT,
    "float": ColumnType.FLOAT,
    "double": ColumnType.FLOAT,
    "double precision": ColumnType.FLOAT,
    "numeric": ColumnType.DECIMAL,
    "decimal": ColumnType.DECIMAL,
    "decimal_text": ColumnType.DECIMAL,
    "boolean": ColumnType.BOOLEAN,
    "bool": ColumnType.BOOLEAN,
    "timestamp": ColumnType.DATETIME,
    "timestamp without time zone": ColumnType.DATETIME,
    "timestamp with time zone": ColumnType.DATETIME,
    "timestamptz": ColumnType.DATETIME,
    "datetime": ColumnType.DATETIME,
    "date": ColumnType.DATE,
    "uuid": ColumnType.UUID,
    "json": ColumnType.JSON,
    "jsonb": ColumnType.JSON,
}
_BITS: Final = {"smallint": 16, "integer": 32, "int": 32}
_LENGTHS: Final = {"varchar", "character varying", "nvarchar", "character", "char"}

_DECLARED: Final = {
    Dialect.POSTGRES: {
        ColumnType.STRING: "varchar({length})",
        ColumnType.TEXT: "text",
        ColumnType.INTEGER: "bigint",
        ColumnType.FLOAT: "double precision",
        ColumnType.DECIMAL: "numeric",
        ColumnType.BOOLEAN: "boolean",
        ColumnType.DATETIME: "timestamp with time zone",
        ColumnType.DATE: "date",
        ColumnType.UUID: "uuid",
        # json keeps what was stored, letter by letter; jsonb drops the order of members and makes a
        # whole number of 1e300. Comparisons cast.
        ColumnType.JSON: "json",
    },
    Dialect.SQLITE: {
        ColumnType.STRING: "VARCHAR({length})",
        ColumnType.TEXT: "TEXT",
        ColumnType.INTEGER: "BIGINT",
        ColumnType.FLOAT: "DOUBLE",
        ColumnType.DECIMAL: "DECIMAL_TEXT COLLATE rosey_decimal",
        ColumnType.BOOLEAN: "BOOLEAN",
        ColumnType.DATETIME: "DATETIME",
        ColumnType.DATE: "DATE",
        ColumnType.UUID: "UUID",
        ColumnType.JSON: "JSON",
    },
}
_CASTS: Final = {
    ColumnType.STRING: "text",
    ColumnType.TEXT: "text",
    ColumnType.DECIMAL: "numeric",
    ColumnType.BOOLEAN: "boolean",
    ColumnType.DATE: "date",
    ColumnType.UUID: "uuid",
}


def column_type(catalog_type: str, dialect: Dialect) -> dict[str, Any]:
    """Return the members of `Column` that follow from a catalog's type, as `{"type": …, "max_length": 64}`.

    Args:
        catalog_type: `format_type(atttypid, atttypmod)` on Postgres, the declared type on SQLite.
        dialect: Whose catalog it is; SQLite's integers have 64 bits whatever they are called.

    A type that the contract does not know is served as text, cast both ways by its own name.
    """
    match = _SIZED.fullmatch(catalog_type)
    name, size, scale, rest = match.groups() if match else (catalog_type, None, None, "")
    name = f"{name} {rest}".strip().lower() if rest else name.lower()
    found: dict[str, Any] = {"type": _COMMON.get(name, ColumnType.TEXT), "database_type": catalog_type}
    if name in _LENGTHS and size is not None:
        found["max_length"] = int(size)
    if found["type"] is ColumnType.DECIMAL and size is not None:
        found |= {"precision": int(size), "scale": int(scale or 0)}
    if dialect is Dialect.POSTGRES:
        found["bits"] = _BITS.get(name, 64)
        found["aware"] = name not in ("timestamp", "timestamp without time zone")
    return found


def declared_type(kind: ColumnType, max_length: int | None, dialect: Dialect) -> str:
    """Return the type that a definition declares."""
    return _DECLARED[dialect][kind].format(length=max_length)


def postgres_type(column: Column, *, compared: bool = False) -> str:
    """Return the type that a value for `column` is cast to; `compared` widens what may be compared wider."""
    kind = column.type
    if is_foreign(column):
        return column.database_type
    if kind is ColumnType.INTEGER:
        return "bigint" if compared else {16: "smallint", 32: "integer"}.get(column.bits, "bigint")
    if kind is ColumnType.FLOAT:
        return "real" if column.database_type == "real" else "double precision"
    if kind is ColumnType.DATETIME:
        return "timestamp with time zone" if column.aware else "timestamp without time zone"
    if kind is ColumnType.JSON:
        return "jsonb" if compared or column.database_type == "jsonb" else "json"
    return _CASTS[kind]


def is_foreign(column: Column) -> bool:
    """Return whether Postgres' type of `column` is none of the contract's, and is served as text."""
    name = column.database_type.partition("(")[0].strip().lower()
    return column.type is ColumnType.TEXT and name not in ("", *_COMMON)


def as_served(table: Table, numbered: Collection[str]) -> Table:
    """Return a reflected table as it is served: as the service's own where it has that shape.

    Args:
        table: As reflected, with every column that the database numbers as generated.
        numbered: Those that it numbers only where an insert leaves them out. In a table that a migration
            made they are written like any other; in one that a definition made `id` is the service's.
    """
    managed = _is_managed(table.columns, table.primary_key)
    indexed = {
        name for columns in (table.primary_key, *(i.columns for i in table.indexes)) for name in columns
    }

    def served(column: Column) -> Column:
        if column.name in numbered and not managed:
            column = attrs.evolve(column, generated=False)
        if column.name in indexed and column.type in (ColumnType.STRING, ColumnType.TEXT):
            column = attrs.evolve(column, indexed_bytes=_INDEXED_BYTES)
        return column

    return attrs.evolve(table, managed=managed, columns=tuple(map(served, table.columns)))


def _is_managed(columns: Sequence[Column], primary_key: Sequence[str]) -> bool:
    """Return whether a table has the shape that `tables.define` gives: the service keeps its columns."""
    by_name = {column.name: column for column in columns}
    found = [by_name.get(name) for name in SERVICE_COLUMNS]
    if tuple(primary_key) != ("id",) or None in found:
        return False
    identity, created, updated = (column for column in found if column is not None)
    return (
        identity.type is ColumnType.INTEGER
        and identity.generated
        and all(
            column.type is ColumnType.DATETIME and not column.nullable and column.has_default
            for column in (created, updated)
        )
    )
