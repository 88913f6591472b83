"""Definitions to DDL: what a table should be, against what it is; additions alone are made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import frozen

from rosey_rowstore.engine.catalog_types import (
    LENGTHS_DROP,
    LENGTHS_SET,
    LENGTHS_TABLE,
    SERVICE_COLUMNS,
    declared_type,
)
from rosey_rowstore.engine.model import Column, ColumnType, Dialect, Table
from rosey_rowstore.engine.values import check_written, json_key
from rosey_rowstore.protocol import ColumnDefinition, DefineRequest, Fault, check_identifier, nearest

__all__ = ["DefinitionPlan", "index_name", "plan_definition", "plan_drop"]

DEFAULT_LENGTH: Final = 255
LONGEST_LENGTH: Final = 10_485_760  # Postgres' own for varchar
MOST_COLUMNS: Final = 500
MOST_INDEX_COLUMNS: Final = 32  # Postgres' own
LONGEST_NAME: Final = 63

_SERVICE_DDL: Final = {
    Dialect.POSTGRES: (
        '"id" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY',
        '"created_at" timestamp with time zone NOT NULL DEFAULT clock_timestamp()',
        '"updated_at" timestamp with time zone NOT NULL DEFAULT clock_timestamp()',
    ),
    # AUTOINCREMENT: the number of a deleted row is not given again, as in Postgres.
    Dialect.SQLITE: (
        '"id" INTEGER PRIMARY KEY AUTOINCREMENT',
        "\"created_at\" DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))",
        "\"updated_at\" DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))",
    ),
}


@frozen(kw_only=True)
class DefinitionPlan:
    """What a definition changes, one sentence each, and the statements that do it, in order."""

    changes: list[str]
    ddl: tuple[str, ...]


@frozen
class _Wanted:
    """A column as declared, checked; `default` is in its stored form."""

    name: str
    kind: ColumnType
    required: bool
    default: Any
    unique: bool
    max_length: int | None
    references: str | None


@frozen
class _WantedIndex:
    columns: tuple[str, ...]
    unique: bool


def plan_definition(request: DefineRequest, existing: Table | None, dialect: Dialect) -> DefinitionPlan:
    """Return what makes the table as the request says.

    Args:
        request: The table as it should be.
        existing: The table as it is, None when there is none.
        dialect: For which database.

    Raises:
        Fault: The request is wrong (with its path), or `schema_conflict` with the list of what is no
            addition; nothing is to be done then.
    """
    check_identifier(request.table, "table", "table")
    wanted = _check_columns(request.columns)
    indexes = _check_indexes(request, wanted, existing)
    if existing is None:
        return _make(request.table, wanted, indexes, dialect)
    return _extend(existing, wanted, indexes, dialect)


def plan_drop(table: str, dialect: Dialect) -> tuple[str, ...]:
    """Return the statements that remove a table and what is noted about it."""
    drop = f"DROP TABLE {_quoted(table)}"
    if dialect is Dialect.POSTGRES:
        return (drop,)
    return (LENGTHS_TABLE, LENGTHS_DROP.format(table=_text(table)), drop)


def index_name(table: str, columns: Sequence[str], *, unique: bool) -> str:
    """Return the name of a generated index: readable, and different for different indexes of a schema."""
    parts = (table, *columns)
    name = "__".join((*parts, "key" if unique else "idx"))
    if len(name) <= LONGEST_NAME and not any("__" in part or part.endswith("_") for part in parts):
        return name
    digest = hashlib.blake2b("\0".join((*parts, str(unique))).encode(), digest_size=6).hexdigest()
    return f"{name[: LONGEST_NAME - len(digest) - 1]}_{digest}"


# what is asked


def _check_columns(columns: Sequence[ColumnDefinition]) -> list[_Wanted]:
    if len(columns) > MOST_COLUMNS:
        raise Fault("request_too_large", f"The table has more than {MOST_COLUMNS} columns.", path="columns")
    wanted: list[_Wanted] = []
    names: set[str] = set()
    for index, column in enumerate(columns):
        try:
            wanted.append(_check_column(column))
            if column.name in names:
                raise Fault("invalid_request", f"The column {column.name} stands twice.", path="name")
        except Fault as fault:
            raise fault.at(f"columns[{index}]") from None
        names.add(column.name)
    return wanted


def _check_column(column: ColumnDefinition) -> _Wanted:
    check_identifier(column.name, "column", "name")
    if column.name in SERVICE_COLUMNS:
        raise Fault(
            "invalid_request",
            f"The column {column.name} belongs to the service, and every table has it.",
            path="name",
            hint="Leave it out.",
        )
    kind = _check_type(column.type)
    length = _check_length(column, kind)
    if column.references is not None:
        _check_reference(column, kind)
    if column.unique and kind is ColumnType.JSON:
        raise Fault("invalid_request", "A json column cannot be unique.", path="unique")
    return _Wanted(
        name=column.name,
        kind=kind,
        required=column.required,
        default=_check_default(column, kind, length),
        unique=column.unique,
        max_length=length,
        references=column.references,
    )


def _check_type(name: str) -> ColumnType:
    known = [kind.value for kind in ColumnType]
    if name not in known:
        near = nearest(name, known)
        raise Fault(
            "invalid_request",
            f"{name!r} is no type" + (f"; did you mean {near!r}?" if near else "."),
            path="type",
            hint="The types are " + ", ".join(known) + ".",
        )
    return ColumnType(name)


def _check_length(column: ColumnDefinition, kind: ColumnType) -> int | None:
    if kind is not ColumnType.STRING:
        if column.max_length is not None:
            raise Fault(
                "invalid_request", f"A column of type {kind.value} has no max_length.", path="max_length"
            )
        return None
    length = DEFAULT_LENGTH if column.max_length is None else column.max_length
    if not 1 <= length <= LONGEST_LENGTH:
        raise Fault(
            "out_of_range", f"The max_length {length} is not 1 to {LONGEST_LENGTH}.", path="max_length"
        )
    return length


def _check_reference(column: ColumnDefinition, kind: ColumnType) -> None:
    check_identifier(column.references or "", "table", "references")
    if kind is not ColumnType.INTEGER:
        raise Fault(
            "invalid_request",
            f"The column {column.name} refers to a table, and is of type {kind.value}.",
            path="type",
            hint="A reference holds the id of a row: integer.",
        )
    if column.default is not None:
        raise Fault("invalid_request", "A column that refers to a table has no default.", path="default")


def _check_default(column: ColumnDefinition, kind: ColumnType, length: int | None) -> Any:
    if column.default is None:
        return None
    try:
        return check_written(Column(name=column.name, type=kind, max_length=length), column.default)
    except Fault as fault:
        raise fault.at("default") from None


def _check_indexes(
    request: DefineRequest, wanted: Sequence[_Wanted], existing: Table | None
) -> list[_WantedIndex]:
    kinds = {column.name: column.kind for column in wanted} | {
        "id": ColumnType.INTEGER,
        "created_at": ColumnType.DATETIME,
        "updated_at": ColumnType.DATETIME,
    }
    if existing is not None:
        kinds = {column.name: column.type for column in existing.columns} | kinds
    found: dict[_WantedIndex, None] = {_WantedIndex((c.name,), unique=True): None for c in wanted if c.unique}
    for index, definition in enumerate(request.indexes):
        path = f"indexes[{index}].columns"
        names = tuple(definition.columns)
        if not 1 <= len(names) <= MOST_INDEX_COLUMNS:
            raise Fault("invalid_request", f"An index has 1 to {MOST_INDEX_COLUMNS} columns.", path=path)
        if len(set(names)) < len(names):
            raise Fault("invalid_request", "A column stands twice in the index.", path=path)
        for place, name in enumerate(names):
            _check_indexed(name, kinds, f"{path}[{place}]")
        found[_WantedIndex(names, unique=definition.unique)] = None
    return list(found)


def _check_indexed(name: str, kinds: dict[str, ColumnType], path: str) -> None:
    if name not in kinds:
        near = nearest(name, kinds)
        raise Fault(
            "column_not_found",
            f"There is no column {name!r} to index" + (f"; did you mean {near!r}?" if near else "."),
            path=path,
        )
    if kinds[name] is ColumnType.JSON:
        raise Fault("invalid_request", f"The column {name} is json and has no order to index.", path=path)


# what is done


def _make(
    table: str, wanted: Sequence[_Wanted], indexes: Sequence[_WantedIndex], dialect: Dialect
) -> DefinitionPlan:
    columns = [*_SERVICE_DDL[dialect], *(_column_ddl(column, dialect) for column in wanted)]
    ddl = [f"CREATE TABLE {_quoted(table)} ({', '.join(columns)})"]
    changes = [f"The table {table} is made."]
    for index in indexes:
        ddl.append(_index_ddl(table, index))
        changes.append(_index_sentence(index))
    return DefinitionPlan(changes=changes, ddl=tuple(ddl))


def _extend(
    existing: Table, wanted: Sequence[_Wanted], indexes: Sequence[_WantedIndex], dialect: Dialect
) -> DefinitionPlan:
    if not existing.managed:
        raise Fault(
            "schema_conflict",
            f"The table {existing.name} was not made by a definition.",
            path="table",
            hint="Its migrations change it.",
        )
    changes: list[str] = []
    ddl: list[str] = []
    conflicts: list[str] = []
    for column in wanted:
        found = existing.by_name.get(column.name)
        if found is None:
            if column.required and column.default is None:
                conflicts.append(
                    f"The new column {column.name} is required, and rows that exist have no value for it."
                )
            ddl.append(f"ALTER TABLE {_quoted(existing.name)} ADD COLUMN {_column_ddl(column, dialect)}")
            changes.append(f"The column {column.name} ({column.kind.value}) is added.")
            continue
        conflicts += _differences(column, found)
        if _grows(column, found):
            ddl += _lengthen(existing.name, column, dialect)
            changes.append(
                f"The column {column.name} holds {column.max_length} characters, not {found.max_length}."
            )
    known = {_WantedIndex(index.columns, unique=index.unique) for index in existing.indexes}
    conflicts += _lost_uniqueness(wanted, indexes, known)
    for index in indexes:
        if index not in known:
            ddl.append(_index_ddl(existing.name, index))
            changes.append(_index_sentence(index))
    if conflicts:
        raise Fault(
            "schema_conflict",
            f"The definition of {existing.name} is more than an addition: " + " ".join(conflicts),
            hint="A migration makes such changes; nothing was done.",
            details={"conflicts": conflicts},
        )
    return DefinitionPlan(changes=changes, ddl=tuple(ddl))


def _differences(wanted: _Wanted, found: Column) -> list[str]:
    name = wanted.name
    if wanted.kind is not found.type:
        return [f"The column {name} is {found.type.value}, not {wanted.kind.value}."]
    conflicts = []
    if wanted.required == found.nullable:
        now, then = ("required", "optional") if not found.nullable else ("optional", "required")
        conflicts.append(f"The column {name} is {now}, not {then}.")
    if not _same_default(wanted, found):
        conflicts.append(
            f"The default of {name} is {json.dumps(found.default)}, not {json.dumps(wanted.default)}."
        )
    if wanted.references != found.references:
        conflicts.append(
            f"The column {name} refers to {found.references or 'nothing'},"
            f" not {wanted.references or 'nothing'}."
        )
    if (
        wanted.max_length is not None
        and found.max_length is not None
        and wanted.max_length < found.max_length
    ):
        conflicts.append(f"The column {name} holds {found.max_length} characters, not {wanted.max_length}.")
    return conflicts


def _same_default(wanted: _Wanted, found: Column) -> bool:
    if wanted.default is None or found.default is None:
        return wanted.default is None and found.default is None
    if wanted.kind is ColumnType.JSON:
        return json_key(json.loads(wanted.default)) == json_key(found.default)
    return type(wanted.default) is type(found.default) and bool(wanted.default == found.default)


def _grows(wanted: _Wanted, found: Column) -> bool:
    return (
        wanted.kind is found.type
        and wanted.max_length is not None
        and found.max_length is not None
        and wanted.max_length > found.max_length
    )


def _lost_uniqueness(
    wanted: Sequence[_Wanted], indexes: Sequence[_WantedIndex], known: set[_WantedIndex]
) -> list[str]:
    asked = {index.columns for index in indexes if index.unique}
    conflicts = [
        f"The index on {', '.join(index.columns)} is unique, and the definition says it is not."
        for index in indexes
        if not index.unique
        and _WantedIndex(index.columns, unique=True) in known
        and index.columns not in asked
    ]
    declared = {index.columns for index in indexes}
    conflicts += [
        f"The column {column.name} is unique, and the definition says it is not."
        for column in wanted
        if _WantedIndex((column.name,), unique=True) in known and (column.name,) not in declared
    ]
    return conflicts


# SQL


def _column_ddl(column: _Wanted, dialect: Dialect) -> str:
    parts = [_quoted(column.name), declared_type(column.kind, column.max_length, dialect)]
    if column.required:
        parts.append("NOT NULL")
    if column.default is not None:
        parts.append(f"DEFAULT {_DEFAULTS[dialect](column.kind, column.default)}")
    if column.references is not None:
        parts.append(f'REFERENCES {_quoted(column.references)} ("id")')
    return " ".join(parts)


def _postgres_default(kind: ColumnType, stored: Any) -> str:
    if kind is ColumnType.BOOLEAN:
        return "true" if stored else "false"
    return _text(repr(stored) if kind is ColumnType.FLOAT else str(stored))


def _sqlite_default(kind: ColumnType, stored: Any) -> str:
    if kind in (ColumnType.BOOLEAN, ColumnType.INTEGER):
        return str(int(stored))
    if kind is ColumnType.FLOAT:
        return repr(stored)
    if kind is ColumnType.JSON and stored[0] in "-0123456789":
        # As the codec stores it: a JSON column would make a number of the text.
        return f"x'{stored.encode().hex()}'"
    return _text(str(stored))


_DEFAULTS: Final[dict[Dialect, Callable[[ColumnType, Any], str]]] = {
    Dialect.POSTGRES: _postgres_default,
    Dialect.SQLITE: _sqlite_default,
}


def _index_ddl(table: str, index: _WantedIndex) -> str:
    name = index_name(table, index.columns, unique=index.unique)
    columns = ", ".join(_quoted(column) for column in index.columns)
    return f"CREATE {'UNIQUE ' if index.unique else ''}INDEX {_quoted(name)} ON {_quoted(table)} ({columns})"


def _index_sentence(index: _WantedIndex) -> str:
    return f"The {'unique ' if index.unique else ''}index on {', '.join(index.columns)} is added."


def _lengthen(table: str, column: _Wanted, dialect: Dialect) -> list[str]:
    if dialect is Dialect.POSTGRES:
        kind = declared_type(column.kind, column.max_length, dialect)
        return [f"ALTER TABLE {_quoted(table)} ALTER COLUMN {_quoted(column.name)} TYPE {kind}"]
    return [
        LENGTHS_TABLE,
        LENGTHS_SET.format(table=_text(table), column=_text(column.name), length=column.max_length),
    ]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
