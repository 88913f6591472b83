"""A file's tables as SQLite's pragmas tell them."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from typing import Any, Final

from rosey_rowstore.databases.base import Size
from rosey_rowstore.databases.defaults import sqlite_default
from rosey_rowstore.engine.catalog_types import LENGTHS_QUERY, as_served, column_type
from rosey_rowstore.engine.model import Column, Dialect, Index, Table

__all__ = ["reflect", "sizes"]

# The service's own tables begin with `_`, the KV store's too: no plugin can name them.
_SERVED: Final = re.compile(r"[a-z][a-z0-9_]*")
_COMPUTED: Final = (2, 3)


def reflect(connection: sqlite3.Connection, generation: int) -> dict[str, Table]:
    """Return the tables of the file by name."""
    lengths = _lengths(connection)
    return {name: _table(connection, name, lengths, generation) for name in _names(connection)}


def _names(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*' ORDER BY name"
    )
    return [name for (name,) in rows if _SERVED.fullmatch(name)]


def _lengths(connection: sqlite3.Connection) -> Mapping[tuple[str, str], int]:
    try:
        rows = connection.execute(LENGTHS_QUERY).fetchall()
    except sqlite3.OperationalError:
        return {}  # no length ever grew in this file
    return {(table, column): length for table, column, length in rows}


def _table(
    connection: sqlite3.Connection, name: str, lengths: Mapping[tuple[str, str], int], generation: int
) -> Table:
    described = connection.execute(
        'SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?) ORDER BY cid',
        (name,),
    ).fetchall()
    keys = [row for row in described if row[4]]
    primary_key = tuple(row[0] for row in sorted(keys, key=lambda row: row[4]))
    references = {
        column: table
        for table, column, count in connection.execute(
            'SELECT "table", min("from"), count(*) FROM pragma_foreign_key_list(?) GROUP BY id', (name,)
        )
        if count == 1
    }
    columns = tuple(
        _column(row, references, lengths.get((name, row[0])), alone_in_key=len(keys) == 1)
        for row in described
    )
    table = Table(
        name=name,
        columns=columns,
        primary_key=primary_key,
        indexes=tuple(_indexes(connection, name)),
        generation=generation,
    )
    return as_served(table, {row[0] for row in keys if _is_row_number(row, alone_in_key=len(keys) == 1)})


def _column(
    row: tuple[Any, ...], references: Mapping[str, str], longer: int | None, *, alone_in_key: bool
) -> Column:
    name, declared, required, default, key, hidden = row
    members = column_type(declared, Dialect.SQLITE)
    generated = hidden in _COMPUTED or _is_row_number(row, alone_in_key=alone_in_key)
    if longer is not None and members.get("max_length") is not None:
        members["max_length"] = max(longer, members["max_length"])
    return Column(
        name=name,
        nullable=not (required or key),  # SQLite alone takes null in a key
        has_default=generated or default is not None,
        default=None if default is None or generated else sqlite_default(default, members["type"]),
        generated=generated,
        references=references.get(name),
        **members,
    )


def _is_row_number(row: tuple[Any, ...], *, alone_in_key: bool) -> bool:
    """Whether the column is an INTEGER PRIMARY KEY: SQLite numbers it where an insert does not."""
    _, declared, _, _, key, _ = row
    return bool(key) and alone_in_key and declared.upper() == "INTEGER"


def _indexes(connection: sqlite3.Connection, table: str) -> list[Index]:
    found = []
    listed = connection.execute(
        'SELECT name, "unique", origin, partial FROM pragma_index_list(?) ORDER BY name', (table,)
    ).fetchall()
    for name, unique, origin, partial in listed:
        columns = [
            column
            for (column,) in connection.execute(
                "SELECT name FROM pragma_index_info(?) ORDER BY seqno", (name,)
            )
        ]
        if origin != "pk" and not partial and None not in columns:  # None is an expression
            found.append(Index(name=name, columns=tuple(columns), unique=bool(unique)))
    return found


def sizes(connection: sqlite3.Connection) -> dict[str, Size]:
    """Return the rows of every table and its bytes, as nearly as this SQLite can tell."""
    found = {}
    for name in _names(connection):
        (rows,) = connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()  # noqa: S608 - a name of the catalog
        found[name] = Size(rows=rows, bytes=_bytes(connection, name))
    return found


def _bytes(connection: sqlite3.Connection, table: str) -> int:
    try:
        (size,) = connection.execute(
            "SELECT sum(pgsize) FROM dbstat WHERE name = ?"
            " OR name IN (SELECT name FROM sqlite_master WHERE tbl_name = ?)",
            (table, table),
        ).fetchone()
    except sqlite3.OperationalError:  # built without dbstat: the whole file is all that is known
        (size,) = connection.execute(
            "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
        ).fetchone()
    return int(size or 0)
