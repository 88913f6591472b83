"""Two snapshots compared: what a run would destroy, and what was changed beside the migrations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from rosey_rowstore.migrations.snapshot import ColumnState, Snapshot, TableState

__all__ = ["destroyed", "drift"]

_SIZED: Final = re.compile(
    r"\s*([a-zA-Z_][a-zA-Z_ ]*?)\s*(?:\(\s*(\d+)\s*(?:,\s*(-?\d+)\s*)?\)\s*([a-zA-Z ]*))?"
)
_SAME: Final = {
    "varchar": "character varying",
    "int": "integer",
    "timestamptz": "timestamp with time zone",
    "double": "double precision",
    "decimal": "numeric",
    "decimal_text": "numeric",
}
# A type, and those that hold every value of it.
_WIDER: Final[Mapping[str, frozenset[str]]] = {
    "smallint": frozenset({"integer", "bigint", "numeric"}),
    "integer": frozenset({"bigint", "numeric"}),
    "bigint": frozenset({"numeric"}),
    "real": frozenset({"double precision"}),
    "character": frozenset({"text"}),
    "character varying": frozenset({"text"}),
    "uuid": frozenset({"text"}),
    "date": frozenset({"text"}),
    "jsonb": frozenset({"json", "text"}),
    "json": frozenset({"text"}),
    "timestamp without time zone": frozenset({"timestamp with time zone"}),
}
_LARGEST: Final = 10**9


def destroyed(before: Snapshot, after: Snapshot) -> list[str]:
    """Return what of `before` is dropped or narrowed in `after`, as sentences.

    Tables and columns are told apart by their numbers where both snapshots have them: a rename destroys
    nothing, and what was dropped and made again under its old name is another.
    """
    by_number = {
        table.number: (name, table) for name, table in after.tables.items() if table.number is not None
    }
    found = []
    for name, table in before.tables.items():
        now = by_number.get(table.number) if table.number is not None else _named(after, name)
        if now is None:
            found.append(f"drops the table {name!r}")
        else:
            found += _destroyed_columns(name, table, now[1])
    return found


def _named(snapshot: Snapshot, name: str) -> tuple[str, TableState] | None:
    return (name, snapshot.tables[name]) if name in snapshot.tables else None


def _destroyed_columns(name: str, before: TableState, after: TableState) -> list[str]:
    by_number = {column.number: column for column in after.columns.values() if column.number is not None}
    found = []
    for column_name, column in before.columns.items():
        now = by_number.get(column.number) if column.number is not None else after.columns.get(column_name)
        if now is None:
            found.append(f"drops the column {name}.{column_name}")
        elif not _holds(column.type, now.type):
            found.append(f"narrows {name}.{column_name} from {column.type} to {now.type}")
    return found


def _parsed(kind: str) -> tuple[str, int, int]:
    match = _SIZED.fullmatch(kind)
    if match is None:
        return kind.strip().lower(), _LARGEST, 0
    name, size, scale, rest = match.groups()
    name = f"{name} {rest}".strip().lower() if rest else name.strip().lower()
    return _SAME.get(name, name), _LARGEST if size is None else int(size), int(scale or 0)


def _holds(old: str, new: str) -> bool:
    """Whether every value of the type `old` fits `new` as it is."""
    old_name, old_size, old_scale = _parsed(old)
    new_name, new_size, new_scale = _parsed(new)
    if old_name != new_name:
        return new_name in _WIDER.get(old_name, ()) and new_size == _LARGEST
    if old_name == "numeric" and new_size != _LARGEST:
        return (
            old_size != _LARGEST and new_scale >= old_scale and new_size - new_scale >= old_size - old_scale
        )
    return new_size >= old_size


def drift(made: Snapshot, found: Snapshot) -> list[str]:
    """Return how `found` differs from what the migrations made, as sentences."""
    told = []
    for name in sorted(made.tables.keys() | found.tables.keys()):
        if name not in found.tables:
            told.append(f"The table {name!r} is gone.")
        elif name not in made.tables:
            told.append(f"The table {name!r} was not made by a migration.")
        else:
            told += _table_drift(name, made.tables[name], found.tables[name])
    told += _named_drift("view", made.views, found.views, "")
    return told


def _table_drift(name: str, made: TableState, found: TableState) -> list[str]:
    told = []
    for column in sorted(made.columns.keys() | found.columns.keys()):
        if column not in found.columns:
            told.append(f"The column {name}.{column} is gone.")
        elif column not in made.columns:
            told.append(f"The column {name}.{column} was not made by a migration.")
        elif made.columns[column] != found.columns[column]:
            told.append(_column_drift(f"{name}.{column}", made.columns[column], found.columns[column]))
    told += _named_drift("index", made.indexes, found.indexes, f" of {name}")
    told += _named_drift("constraint", made.constraints, found.constraints, f" of {name}")
    return told


def _column_drift(place: str, made: ColumnState, found: ColumnState) -> str:
    parts = []
    if made.type != found.type:
        parts.append(f"has the type {found.type} instead of {made.type}")
    if made.nullable != found.nullable:
        parts.append("takes nulls" if found.nullable else "takes no nulls any more")
    if made.default != found.default:
        parts.append(f"has the default {found.default or 'nothing'} instead of {made.default or 'nothing'}")
    return f"The column {place} {', '.join(parts)}."


def _named_drift(kind: str, made: Mapping[str, str], found: Mapping[str, str], place: str) -> list[str]:
    told = []
    for name in sorted(made.keys() | found.keys()):
        if name not in found:
            told.append(f"The {kind} {name!r}{place} is gone.")
        elif name not in made:
            told.append(f"The {kind} {name!r}{place} was not made by a migration.")
        elif made[name] != found[name]:
            told.append(f"The {kind} {name!r}{place} is now {found[name]}.")
    return told
