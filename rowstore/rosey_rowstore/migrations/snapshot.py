"""What a schema consists of, as text: to tell what a run destroyed, and what was changed beside the runs."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, LiteralString

import attrs
from attrs import field, frozen

__all__ = [
    "POSTGRES_QUERIES",
    "ColumnState",
    "Snapshot",
    "TableState",
    "from_postgres",
    "from_sqlite",
]

_OF_SCHEMA: Final[LiteralString] = (
    "c.relnamespace = to_regnamespace(%(schema)s) AND left(c.relname, 1) <> '_'"
)

POSTGRES_QUERIES: Final[Mapping[str, LiteralString]] = {
    "columns": f"""
        SELECT c.relname, c.oid::bigint, a.attname, a.attnum, format_type(a.atttypid, a.atttypmod),
               NOT a.attnotnull, pg_get_expr(d.adbin, d.adrelid)
          FROM pg_class c
          LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
         WHERE {_OF_SCHEMA} AND c.relkind IN ('r', 'p')
         ORDER BY c.relname, a.attnum""",  # noqa: S608 - constants
    "indexes": f"""
        SELECT c.relname, i.relname,
               pg_get_indexdef(x.indexrelid) || CASE WHEN x.indisvalid THEN '' ELSE ' (not finished)' END
          FROM pg_class c
          JOIN pg_index x ON x.indrelid = c.oid
          JOIN pg_class i ON i.oid = x.indexrelid
         WHERE {_OF_SCHEMA} AND c.relkind IN ('r', 'p')
           AND NOT EXISTS (
               SELECT FROM pg_constraint r WHERE r.conindid = x.indexrelid AND r.contype IN ('p', 'u', 'x'))
         ORDER BY 1, 2""",  # noqa: S608 - constants
    "constraints": f"""
        SELECT c.relname, r.conname, pg_get_constraintdef(r.oid)
          FROM pg_class c
          JOIN pg_constraint r ON r.conrelid = c.oid
         WHERE {_OF_SCHEMA} AND r.contype IN ('p', 'u', 'x', 'f', 'c')
         ORDER BY 1, 2""",  # noqa: S608 - constants
    "views": f"""
        SELECT c.relname, pg_get_viewdef(c.oid)
          FROM pg_class c WHERE {_OF_SCHEMA} AND c.relkind IN ('v', 'm') ORDER BY 1""",  # noqa: S608 - constants
}
"""By part of the snapshot, with the parameter `schema`: the quoted name."""


@frozen(kw_only=True)
class ColumnState:
    """A column; `number` tells it from another of the same name, where the database numbers them."""

    type: str
    nullable: bool
    default: str | None = None
    number: int | None = field(default=None, eq=False)


@frozen(kw_only=True)
class TableState:
    """A table with everything that hangs on it, each as the database words it."""

    columns: Mapping[str, ColumnState] = field(factory=dict)
    indexes: Mapping[str, str] = field(factory=dict)
    constraints: Mapping[str, str] = field(factory=dict)
    number: int | None = field(default=None, eq=False)


@frozen(kw_only=True)
class Snapshot:
    """A plugin's schema; the service's own tables, whose names begin with `_`, are left out."""

    tables: Mapping[str, TableState] = field(factory=dict)
    views: Mapping[str, str] = field(factory=dict)

    def dump(self) -> str:
        """Return it as JSON text."""
        return json.dumps(attrs.asdict(self), sort_keys=True)

    @classmethod
    def load(cls, text: str) -> Snapshot:
        """Return what `dump` wrote."""
        body = json.loads(text)
        tables = {
            name: TableState(
                **{
                    **table,
                    "columns": {key: ColumnState(**column) for key, column in table["columns"].items()},
                }
            )
            for name, table in body["tables"].items()
        }
        return cls(tables=tables, views=body["views"])


def from_postgres(answers: Mapping[str, Iterable[Sequence[Any]]]) -> Snapshot:
    """Return the snapshot that the answers to `POSTGRES_QUERIES` make."""
    columns: dict[str, dict[str, ColumnState]] = {}
    numbers: dict[str, int] = {}
    for table, oid, name, number, kind, nullable, default in answers["columns"]:
        numbers[table] = oid
        found = columns.setdefault(table, {})
        if name is not None:
            found[name] = ColumnState(type=kind, nullable=nullable, default=default, number=number)
    indexes = _by_table(answers["indexes"])
    constraints = _by_table(answers["constraints"])
    return Snapshot(
        tables={
            table: TableState(
                columns=columns[table],
                indexes=indexes.get(table, {}),
                constraints=constraints.get(table, {}),
                number=numbers[table],
            )
            for table in columns
        },
        views=dict(answers["views"]),  # type: ignore[arg-type]  # rows of two columns
    )


def _by_table(rows: Iterable[Sequence[Any]]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for table, name, text in rows:
        found.setdefault(table, {})[name] = text
    return found


def from_sqlite(connection: sqlite3.Connection) -> Snapshot:
    """Return the snapshot of a SQLite file."""
    tables: dict[str, TableState] = {}
    views: dict[str, str] = {}
    rows = connection.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name"
    )
    for kind, name, text in rows.fetchall():
        if name.startswith(("_", "sqlite_")):
            continue
        if kind == "view":
            views[name] = _one_line(text)
        else:
            tables[name] = _sqlite_table(connection, name)
    return Snapshot(tables=tables, views=views)


def _sqlite_table(connection: sqlite3.Connection, name: str) -> TableState:
    columns = {
        column: ColumnState(type=kind, nullable=not required and not key, default=default)
        for column, kind, required, default, key in connection.execute(
            'SELECT name, type, "notnull", dflt_value, pk FROM pragma_table_xinfo(?) ORDER BY cid', (name,)
        ).fetchall()
    }
    indexes = {
        index: _one_line(text)
        for index, text in connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL",
            (name,),
        ).fetchall()
    }
    return TableState(columns=columns, indexes=indexes, constraints=_sqlite_constraints(connection, name))


def _sqlite_constraints(connection: sqlite3.Connection, name: str) -> dict[str, str]:
    """Name constraints by what they say: most have no name of their own."""
    found: dict[str, str] = {}
    keys = connection.execute(
        "SELECT name FROM pragma_table_xinfo(?) WHERE pk > 0 ORDER BY pk", (name,)
    ).fetchall()
    if keys:
        found["primary key"] = f"PRIMARY KEY ({', '.join(key for (key,) in keys)})"
    references = connection.execute(
        "SELECT \"table\", group_concat(\"from\", ', '), group_concat(coalesce(\"to\", ''), ', '),"
        " on_delete, on_update FROM pragma_foreign_key_list(?) GROUP BY id",
        (name,),
    ).fetchall()
    for table, here, there, on_delete, on_update in references:
        found[f"foreign key of {here}"] = (
            f"FOREIGN KEY ({here}) REFERENCES {table} ({there}) ON DELETE {on_delete} ON UPDATE {on_update}"
        )
    unique = connection.execute(
        "SELECT name FROM pragma_index_list(?) WHERE origin = 'u' ORDER BY name", (name,)
    ).fetchall()
    for (index,) in unique:
        over = ", ".join(
            column or "?"
            for (column,) in connection.execute(
                "SELECT name FROM pragma_index_info(?) ORDER BY seqno", (index,)
            )
        )
        found[f"unique ({over})"] = f"UNIQUE ({over})"
    return found


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
