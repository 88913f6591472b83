"""Definitions: a table as it should be against the table as it is, to the changes and the SQL that makes them.

Only additions are made. Whatever else differs is a conflict, and then nothing is done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

from attrs import define, field, frozen

from rosey_rowstore.engine.catalog_types import (
    LENGTHS_DROP,
    LENGTHS_SET,
    LENGTHS_TABLE,
    SERVICE_COLUMNS,
    declared_type,
)
from rosey_rowstore.engine.filters import find_column
from rosey_rowstore.engine.model import Column, ColumnType, Dialect, Index, Table
from rosey_rowstore.engine.values import check_value, check_written
from rosey_rowstore.protocol import ColumnDefinition, DefineRequest, Fault, check_identifier, nearest

__all__ = ["DefinitionPlan", "plan_definition", "plan_drop"]

_DEFAULT_LENGTH: Final = 255
_LONGEST: Final = 10_485_760  # what varchar of Postgres takes
_MOST_COLUMNS: Final = 500
_LONGEST_NAME: Final = 63

_SERVICE_DDL: Final = {
    Dialect.POSTGRES: (
        '"id" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY',
        '"created_at" timestamp with time zone NOT NULL DEFAULT clock_timestamp()',
        '"updated_at" timestamp with time zone NOT NULL DEFAULT clock_timestamp()',
    ),
    # AUTOINCREMENT: the number of a deleted row is given to no other, as on Postgres.
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


@define
class _Draft:
    changes: list[str] = field(factory=list)
    ddl: list[str] = field(factory=list)
    conflicts: list[str] = field(factory=list)

    def do(self, change: str, *statements: str) -> None:
        self.changes.append(change)
        self.ddl += statements


def plan_definition(request: DefineRequest, existing: Table | None, dialect: Dialect) -> DefinitionPlan:
    """Return what makes the table as the request says.

    The tables that `references` names are not looked up here.

    Raises:
        Fault: The request is wrong in itself (with its path), or `schema_conflict` with the list of what
            differs in more than additions.
    """
    check_identifier(request.table, "table", "table")
    columns = _columns(request)
    indexes = _indexes(request, columns, existing)
    draft = _Draft()
    if existing is None:
        _create(draft, request.table, columns, dialect)
    elif not existing.managed:
        draft.conflicts.append(
            f"The table {request.table} was not made by a definition; migrations change it."
        )
    else:
        for column in columns:
            _compare(draft, existing, column, dialect)
        _compare_unique(draft, existing, columns, indexes)
    for index in indexes:
        _add_index(draft, request.table, index, existing, indexes)
    if draft.conflicts:
        raise Fault(
            "schema_conflict",
            f"The table {request.table} differs in more than additions: " + " ".join(draft.conflicts),
            hint="A definition adds columns and indexes and lengthens text; a migration does the rest.",
            details={"conflicts": draft.conflicts},
        )
    return DefinitionPlan(changes=draft.changes, ddl=tuple(draft.ddl))


def plan_drop(table: str, dialect: Dialect) -> tuple[str, ...]:
    """Return the statements that remove a table with its rows."""
    statements: tuple[str, ...] = (f"DROP TABLE {_name(table)}",)
    if dialect is Dialect.SQLITE:
        statements += (LENGTHS_TABLE, LENGTHS_DROP.format(table=_text(table)))
    return statements


# reading the request


def _columns(request: DefineRequest) -> list[Column]:
    if len(request.columns) > _MOST_COLUMNS:
        raise Fault("request_too_large", f"A table has at most {_MOST_COLUMNS} columns.", path="columns")
    found: dict[str, Column] = {}
    for place, definition in enumerate(request.columns):
        try:
            column = _column(definition)
            if column.name in found:
                raise Fault("invalid_request", f"The column {column.name} stands twice.", path="name")
        except Fault as fault:
            raise fault.at(f"columns[{place}]") from None
        found[column.name] = column
    return list(found.values())


def _column(definition: ColumnDefinition) -> Column:
    name = check_identifier(definition.name, "column", "name")
    if name in SERVICE_COLUMNS:
        raise Fault(
            "invalid_request",
            f"The column {name} belongs to the service; every table has it.",
            path="name",
            hint="Leave it out.",
        )
    kinds = [kind.value for kind in ColumnType]
    if definition.type not in kinds:
        near = nearest(definition.type, kinds)
        raise Fault(
            "invalid_request",
            f"{definition.type[:80]!r} is no type" + (f"; did you mean {near!r}?" if near else "."),
            path="type",
            hint="One of " + ", ".join(kinds) + ".",
        )
    kind = ColumnType(definition.type)
    if definition.unique and kind is ColumnType.JSON:
        raise Fault("invalid_request", "json has no order, and no unique index.", path="unique")
    column = Column(
        name=name,
        type=kind,
        nullable=not definition.required,
        max_length=_length(definition, kind),
        references=_reference(definition, kind),
    )
    if definition.default is None:
        return column
    try:
        check_written(column, definition.default)
    except Fault as fault:
        raise fault.at("default") from None
    return _with_default(column, definition.default)


def _with_default(column: Column, default: Any) -> Column:
    return Column(
        name=column.name,
        type=column.type,
        nullable=column.nullable,
        max_length=column.max_length,
        references=column.references,
        has_default=True,
        default=default,
    )


def _length(definition: ColumnDefinition, kind: ColumnType) -> int | None:
    if kind is not ColumnType.STRING:
        if definition.max_length is not None:
            raise Fault("invalid_request", f"A column of type {kind} has no max_length.", path="max_length")
        return None
    length = _DEFAULT_LENGTH if definition.max_length is None else definition.max_length
    if not 1 <= length <= _LONGEST:
        raise Fault("out_of_range", f"max_length is 1 to {_LONGEST}.", path="max_length")
    return length


def _reference(definition: ColumnDefinition, kind: ColumnType) -> str | None:
    if definition.references is None:
        return None
    if kind is not ColumnType.INTEGER:
        raise Fault(
            "invalid_request",
            "A column that references a table is an integer: it holds the id of a row.",
            path="references",
        )
    return check_identifier(definition.references, "table", "references")


def _indexes(request: DefineRequest, columns: Sequence[Column], existing: Table | None) -> list[Index]:
    """Return the indexes that the request asks for, those of unique columns first, each once."""
    known = _known(request.table, columns, existing)
    wanted: dict[tuple[tuple[str, ...], bool], Index] = {}
    for name, definition in zip((column.name for column in columns), request.columns, strict=True):
        if definition.unique:
            wanted[(name,), True] = _index(request.table, (name,), unique=True)
    for place, index in enumerate(request.indexes):
        path = f"indexes[{place}].columns"
        if not index.columns:
            raise Fault("invalid_request", "The index has no columns.", path=path)
        if len(set(index.columns)) < len(index.columns):
            raise Fault("invalid_request", "The index has a column twice.", path=path)
        if len(index.columns) > 32:
            raise Fault("request_too_large", "An index has at most 32 columns.", path=path)
        for at, name in enumerate(index.columns):
            if find_column(known, name, f"{path}[{at}]").type is ColumnType.JSON:
                raise Fault("invalid_request", f"{name} is json, which has no order.", path=f"{path}[{at}]")
        key = (tuple(index.columns), index.unique)
        wanted.setdefault(key, _index(request.table, key[0], unique=index.unique))
    return list(wanted.values())


def _known(table: str, columns: Sequence[Column], existing: Table | None) -> Table:
    service = (
        Column(name="id", type=ColumnType.INTEGER),
        Column(name="created_at", type=ColumnType.DATETIME),
        Column(name="updated_at", type=ColumnType.DATETIME),
    )
    before = existing.columns if existing is not None else service
    merged = {column.name: column for column in (*before, *columns)}
    return Table(name=table, columns=tuple(merged.values()), primary_key=("id",))


def _index(table: str, columns: tuple[str, ...], *, unique: bool) -> Index:
    """Name an index for what it covers; a hash where the name would be too long or could mean another."""
    name = "__".join((table, *columns, "key" if unique else "ix"))
    parts = (table, *columns)
    if len(name) > _LONGEST_NAME or any("__" in part or part.endswith("_") for part in parts):
        digest = hashlib.blake2b("\n".join((*parts, str(unique))).encode(), digest_size=6).hexdigest()
        name = f"{name[: _LONGEST_NAME - 13]}_{digest}"
    return Index(name=name, columns=columns, unique=unique)


# comparing and changing


def _create(draft: _Draft, table: str, columns: Sequence[Column], dialect: Dialect) -> None:
    parts = [*_SERVICE_DDL[dialect], *(_declaration(column, dialect) for column in columns)]
    names = ", ".join((*SERVICE_COLUMNS, *(column.name for column in columns)))
    draft.do(f"Create the table {table} ({names}).", f"CREATE TABLE {_name(table)} ({', '.join(parts)})")


def _compare(draft: _Draft, existing: Table, column: Column, dialect: Dialect) -> None:
    before = existing.by_name.get(column.name)
    if before is None:
        _add_column(draft, existing.name, column, dialect)
        return
    draft.conflicts += _differences(before, column)
    if before.type is column.type and column.max_length is not None and before.max_length is not None:
        if column.max_length > before.max_length:
            _lengthen(draft, existing.name, before, column.max_length, dialect)
        elif column.max_length < before.max_length:
            draft.conflicts.append(
                f"The column {column.name} holds {before.max_length} characters, not {column.max_length}."
            )


def _differences(before: Column, column: Column) -> Iterator[str]:
    name = column.name
    if before.type is not column.type:
        yield f"The column {name} is of type {before.type}, not {column.type}."
        return
    if before.nullable != column.nullable:
        yield f"The column {name} is {'not ' if before.nullable else ''}required."
    if before.references != column.references:
        yield f"The column {name} references {before.references or 'no table'}."
    if not _same_default(before, column):
        said = "no default" if not before.has_default else f"the default {before.default!r}"
        yield f"The column {name} has {said}."


def _same_default(before: Column, column: Column) -> bool:
    if before.has_default != column.has_default:
        return False
    if not column.has_default or before.default is None:
        return not column.has_default
    return bool(check_value(column, before.default) == check_value(column, column.default))


def _add_column(draft: _Draft, table: str, column: Column, dialect: Dialect) -> None:
    if not column.nullable and not column.has_default:
        draft.conflicts.append(
            f"The new column {column.name} is required and has no default for the rows that exist."
        )
        return
    if column.references is not None and column.has_default:
        draft.conflicts.append(f"The new column {column.name} references a table and has a default.")
        return
    draft.do(
        f"Add the column {column.name} ({column.type}).",
        f"ALTER TABLE {_name(table)} ADD COLUMN {_declaration(column, dialect)}",
    )


def _lengthen(draft: _Draft, table: str, before: Column, length: int, dialect: Dialect) -> None:
    if dialect is Dialect.POSTGRES:
        kind = declared_type(ColumnType.STRING, length, dialect)
        statements: tuple[str, ...] = (
            f"ALTER TABLE {_name(table)} ALTER COLUMN {_name(before.name)} TYPE {kind}",
        )
    else:
        change = LENGTHS_SET.format(table=_text(table), column=_text(before.name), length=length)
        statements = (LENGTHS_TABLE, change)
    draft.do(f"Lengthen the column {before.name} from {before.max_length} to {length}.", *statements)


def _compare_unique(
    draft: _Draft, existing: Table, columns: Sequence[Column], indexes: Sequence[Index]
) -> None:
    """A column that is unique and is defined again without it would be told a success it did not get."""
    unique = {index.columns for index in existing.indexes if index.unique}
    wanted = {index.columns for index in indexes if index.unique}
    for column in columns:
        if (column.name,) in unique - wanted:
            draft.conflicts.append(f"The column {column.name} is unique.")


def _add_index(
    draft: _Draft, table: str, index: Index, existing: Table | None, wanted: Sequence[Index]
) -> None:
    same = [other for other in existing.indexes if other.columns == index.columns] if existing else []
    if any(other.unique == index.unique for other in same):
        return
    over = ", ".join(index.columns)
    wanted_unique = any(other.unique and other.columns == index.columns for other in wanted)
    if same and not index.unique and not wanted_unique:
        draft.conflicts.append(f"The index over {over} is unique.")
        return
    unique = "UNIQUE " if index.unique else ""
    names = ", ".join(map(_name, index.columns))
    draft.do(
        f"Add {'a unique' if index.unique else 'an'} index over {over}.",
        f"CREATE {unique}INDEX {_name(index.name)} ON {_name(table)} ({names})",
    )


# SQL


def _declaration(column: Column, dialect: Dialect) -> str:
    kind = declared_type(column.type, column.max_length, dialect)
    parts = [_name(column.name), kind]
    if not column.nullable:
        parts.append("NOT NULL")
    if column.has_default:
        parts.append(f"DEFAULT {_default(column, kind, dialect)}")
    if column.references is not None:
        parts.append(f'REFERENCES {_name(column.references)} ("id")')
    return " ".join(parts)


def _default(column: Column, kind: str, dialect: Dialect) -> str:
    stored = check_value(column, column.default)
    if dialect is Dialect.POSTGRES:
        text = str(stored).lower() if isinstance(stored, bool) else str(stored)
        return f"{_text(text)}::{kind}"
    if isinstance(stored, str):
        return _text(stored)
    return str(int(stored)) if isinstance(stored, bool) else repr(stored)


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
