"""Columns for revisions, which serve the same on both databases: what `tables.define` would have made.

```python
from rosey_rowstore.migrations.columns import Decimal, service_columns

op.create_table("quotes", *service_columns(), sa.Column("text", sa.Text, nullable=False))
```
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import UserDefinedType

__all__ = ["SERVICE", "Datetime", "Decimal", "Double", "Json", "Uuid", "moment", "service_columns"]


SERVICE: Final = "rosey_service"
"""The mark, in a column's `info`, of those that `service_columns` made."""


class _Declared(UserDefinedType[Any]):
    """A type that each database declares in its own words."""

    cache_ok = True
    postgres = ""
    sqlite = ""

    def get_col_spec(self, **_: Any) -> str:
        """Return Postgres' words."""
        return self.postgres


@compiles(_Declared, "sqlite")
def _sqlite_words(element: _Declared, *_: Any, **__: Any) -> str:
    return element.sqlite


class Decimal(_Declared):
    """`decimal`: exact, of any size, or with so many digits, so many of them after the point."""

    def __init__(self, precision: int | None = None, scale: int | None = None) -> None:
        self.precision, self.scale = precision, scale
        size = "" if precision is None else f"({precision}, {scale or 0})"
        self.postgres, self.sqlite = f"numeric{size}", f"DECIMAL_TEXT{size} COLLATE rosey_decimal"


class Double(_Declared):
    """`float`: 64 bit."""

    postgres, sqlite = "double precision", "DOUBLE"


class Datetime(_Declared):
    """`datetime`: a moment, in UTC."""

    postgres, sqlite = "timestamp with time zone", "DATETIME"


class Json(_Declared):
    """`json`: kept letter by letter."""

    postgres, sqlite = "json", "JSON"


class Uuid(_Declared):
    """`uuid`."""

    postgres, sqlite = "uuid", "UUID"


class moment(sa.sql.functions.FunctionElement[Any]):  # noqa: N801 - reads like a function of SQL
    """The present moment as the service writes it, for defaults and backfills."""

    inherit_cache = True
    type = Datetime()


@compiles(moment)
def _moment_postgres(*_: Any, **__: Any) -> str:
    return "clock_timestamp()"


@compiles(moment, "sqlite")
def _moment_sqlite(*_: Any, **__: Any) -> str:
    return "(strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))"


def service_columns() -> tuple[sa.Column[Any], ...]:
    """Return `id`, `created_at` and `updated_at`: with them the service keeps the table as one it defined."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    columns: tuple[sa.Column[Any], ...] = (
        sa.Column("id", number, sa.Identity(always=True), primary_key=True),
        sa.Column("created_at", Datetime(), nullable=False, server_default=moment()),
        sa.Column("updated_at", Datetime(), nullable=False, server_default=moment()),
    )
    for column in columns:
        column.info[SERVICE] = True
    sa.event.listen(columns[0], "after_parent_attach", _never_give_an_id_again)
    return columns


def _never_give_an_id_again(_: Any, table: sa.Table) -> None:
    table.dialect_options["sqlite"]["autoincrement"] = True
