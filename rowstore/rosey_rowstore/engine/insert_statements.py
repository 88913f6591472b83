"""Rows that give the same columns, as statements: each compiled once a shape."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from attrs import frozen
from sqlalchemy.dialects import postgresql, sqlite

from rosey_rowstore.engine.clock import now_text
from rosey_rowstore.engine.model import Statement
from rosey_rowstore.engine.sets import merged
from rosey_rowstore.engine.sharing import SharedInsert
from rosey_rowstore.engine.sql import Compiled, Expression, Sql
from rosey_rowstore.engine.tables import Cache, TableFacts

__all__ = [
    "Batch",
    "Conflict",
    "Names",
    "insert_statements",
    "now_values",
    "shared_insert",
    "single_insert",
]

_MOST_PARAMETERS: Final = 30_000  # SQLite takes 32,766
_MOMENTS: Final = ("created_at", "updated_at")

Names = tuple[str, ...]


@frozen
class Batch:
    """Rows that give the same columns, with their places in the request and their driver values."""

    names: Names
    places: list[int]
    rows: list[list[Any]]


@frozen
class Conflict:
    """What an upsert does with a row that exists."""

    key: Names
    rules: tuple[tuple[str, str], ...]


def insert_statements(
    sql: Sql,
    cache: Cache,
    facts: TableFacts,
    batch: Batch,
    conflict: Conflict | None,
    *,
    returning: bool,
) -> list[Statement]:
    """Return what inserts the rows: one statement, or more where the database takes no more parameters."""
    names, rows = batch.names, batch.rows
    key = (facts.key, "insert", names, conflict, returning)
    if len(rows) == 1 or not names:
        one = single_insert(sql, cache, facts, names, conflict, returning=returning)
        return [Statement(one.sql, one.bind([*row, *now_values(sql)])) for row in rows]
    if sql.postgres:
        many = cache.get((*key, "many"), lambda: _unnested(sql, facts, names, conflict, returning=returning))
        columns = [sql.codec.array(row[index] for row in rows) for index in range(len(names))]
        return [Statement(many.sql, many.bind(columns))]
    now = now_values(sql)
    chunk = max(1, _MOST_PARAMETERS // (len(names) + len(_MOMENTS)))
    found = []
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        statement = cache.get(
            (*key, len(part)),
            lambda: _listed(sql, facts, names, conflict, count=len(part), returning=returning),  # noqa: B023 - called at once
        )
        found.append(Statement(statement.sql, statement.bind([*(v for row in part for v in row), *now])))
    return found


def single_insert(
    sql: Sql, cache: Cache, facts: TableFacts, names: Names, conflict: Conflict | None, *, returning: bool
) -> Compiled:
    """Return the statement for one row that gives these columns."""
    key = (facts.key, "insert", names, conflict, returning)
    return cache.get(key, lambda: _single(sql, facts, names, conflict, returning=returning))


def shared_insert(
    sql: Sql, cache: Cache, facts: TableFacts, names: Names, *, returning: bool
) -> SharedInsert | None:
    """Return how a single row goes together with others; not where a trigger would see the difference."""
    if not names or facts.table.reacts:
        return None

    def make() -> SharedInsert:
        one = _single(sql, facts, names, None, returning=returning)
        many = _unnested(sql, facts, names, None, returning=returning)
        return SharedInsert(one, many, sql.codec, facts.reader if returning else None)

    return cache.get((facts.key, "shared insert", names, returning), make)


def now_values(sql: Sql) -> tuple[str, ...]:
    """Return what follows the values of the rows: the moment, where the database's clock is too coarse."""
    return () if sql.postgres else (now_text(),)


def _moments(sql: Sql, facts: TableFacts, position: int) -> dict[str, Expression]:
    if not facts.table.managed:
        return {}
    columns = facts.table.by_name
    return {name: sql.now(columns[name], position, at_start=True) for name in _MOMENTS}


def _single(
    sql: Sql, facts: TableFacts, names: Names, conflict: Conflict | None, *, returning: bool
) -> Compiled:
    return _listed(sql, facts, names, conflict, count=1, returning=returning)


def _listed(
    sql: Sql, facts: TableFacts, names: Names, conflict: Conflict | None, *, count: int, returning: bool
) -> Compiled:
    """Compile `VALUES (…), (…)`."""
    clause, columns, width = sql.table(facts.table), facts.table.by_name, len(names)
    moments = _moments(sql, facts, width * count)
    rows = [
        {name: sql.written(columns[name], row * width + index) for index, name in enumerate(names)} | moments
        for row in range(count)
    ]
    insert = _insert(sql, clause)
    insert = insert.values(rows if count > 1 else rows[0]) if rows[0] else insert.values({})
    return sql.compile(
        _ending(sql, facts, clause, insert, names, conflict=conflict, now=width * count, returning=returning)
    )


def _unnested(
    sql: Sql, facts: TableFacts, names: Names, conflict: Conflict | None, *, returning: bool
) -> Compiled:
    """Compile `SELECT … FROM unnest(…)`: one shape for any number of rows."""
    clause, columns = sql.table(facts.table), facts.table.by_name
    moments = _moments(sql, facts, 0)
    arrays = [sql.array(columns[name], index, compared=False) for index, name in enumerate(names)]
    given = (
        sa.func.unnest(*arrays)
        .table_valued(*[sa.quoted_name(name, quote=True) for name in names])
        .render_derived(name="given")
    )
    query = sa.select(*[given.c[name] for name in names], *moments.values())
    insert = _insert(sql, clause).from_select([*names, *moments], query)
    return sql.compile(
        _ending(sql, facts, clause, insert, names, conflict=conflict, now=0, returning=returning)
    )


def _insert(sql: Sql, clause: sa.TableClause) -> Any:
    return postgresql.insert(clause) if sql.postgres else sqlite.insert(clause)


def _ending(
    sql: Sql,
    facts: TableFacts,
    clause: sa.TableClause,
    insert: Any,
    names: Names,
    *,
    conflict: Conflict | None,
    now: int,
    returning: bool,
) -> Any:
    columns = facts.table.by_name
    if conflict is not None:
        rules = dict(conflict.rules)
        changes = {
            name: merged(sql, columns[name], rule, clause.c[name], insert.excluded[name])
            for name in names
            if name not in conflict.key and (rule := rules.get(name, "$set")) != "$keep"
        }
        if facts.table.managed:
            changes["updated_at"] = sql.now(columns["updated_at"], now)
        if not changes:  # with nothing to do the row would not be returned
            changes = {name: insert.excluded[name] for name in conflict.key}
        insert = insert.on_conflict_do_update(
            index_elements=[clause.c[name] for name in conflict.key], set_=changes
        )
    if returning:
        insert = insert.returning(*[sql.reads(clause, column) for column in facts.table.columns])
    return insert
