"""The statement of a page, compiled once a shape: its conditions, its order and where it begins."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from rosey_rowstore.engine.conditions import Conditions
from rosey_rowstore.engine.filters import Shape
from rosey_rowstore.engine.model import Column, ColumnType
from rosey_rowstore.engine.pages import Order, Page
from rosey_rowstore.engine.rows import RowReader
from rosey_rowstore.engine.sharing import SharedKey
from rosey_rowstore.engine.sql import Expression, Sql
from rosey_rowstore.engine.tables import TableFacts

__all__ = ["PageShape", "compile_page"]


class PageShape(NamedTuple):
    """All that one page's statement depends on; a key of the cache (a tuple's hash is the fastest)."""

    where: Shape
    columns: tuple[str, ...] | None
    order: Order
    limit: int
    nulls: tuple[bool, ...] | None
    terms: int
    searched: tuple[str, ...]


def compile_page(sql: Sql, facts: TableFacts, shape: PageShape) -> Page:
    """Return the page of a shape: its statement, and what reads the rows of it."""
    table, clause = facts.table, sql.table(facts.table)
    columns = table.columns if shape.columns is None else [table.by_name[name] for name in shape.columns]
    order = tuple(table.by_name[name] for name, _ in shape.order)
    positions = itertools.count()
    conditions = [Conditions(sql, table, clause, positions).build(shape.where)]
    searched = [table.by_name[name] for name in shape.searched]
    conditions += [_term(sql, clause, searched, next(positions)) for _ in range(shape.terms)]
    single = facts.at_most_one(shape.where)
    if shape.nulls is not None:
        conditions.append(_after(sql, table.by_name, clause, shape, positions))
    shown = [column.name for column in columns]
    hidden = [] if single else [column for column in order if column.name not in shown]
    listed = [sql.reads(clause, column) for column in (*columns, *hidden)]
    query = sa.select(*listed).select_from(clause).where(*conditions)
    if not single:
        for column, (_, descending) in zip(order, shape.order, strict=True):
            query = query.order_by(sql.ordering(column, clause.c[column.name], descending=descending))
        query = sql.limited(query, shape.limit + 1)
    names = [*shown, *(column.name for column in hidden)]
    shared = _shared(sql, facts, shape, clause, names) if single else None
    return Page(
        sql.compile(query),
        facts.reader if shape.columns is None else RowReader(columns, sql.dialect),
        RowReader(() if single else order, sql.dialect),
        () if single else tuple(names.index(column.name) for column in order),
        shared,
    )


def _shared(
    sql: Sql, facts: TableFacts, shape: PageShape, clause: sa.TableClause, names: Sequence[str]
) -> SharedKey | None:
    """Return how rows are asked for by several keys at once, where the filter is the key and no more."""
    key = facts.table.by_name[facts.table.primary_key[0]]
    if (
        not sql.postgres
        or shape.where != ("eq", key.name)
        or facts.table.primary_key != (key.name,)
        or key.name not in names
        # Their values are the same text for the database and for us.
        or key.type not in (ColumnType.INTEGER, ColumnType.UUID)
        or shape.terms
    ):
        return None
    listed = [sql.reads(clause, facts.table.by_name[name]) for name in names]
    query = sa.select(*listed).select_from(clause).where(sql.is_one_of(key, clause.c[key.name], 0))
    return SharedKey(sql.compile(query), sql.codec, names.index(key.name))


def _term(sql: Sql, clause: sa.FromClause, columns: Sequence[Column], position: int) -> Expression:
    found: list[Expression] = []
    for column in columns:
        text = sql.folded(sql.text(column, clause.c[column.name]))
        value = sql.text_parameter(position)
        if sql.postgres:
            found.append(text.like(sql.folded(value)))
        else:
            found.append(sa.func.instr(text, value) > sa.literal_column("0"))
    return sa.or_(sa.false(), *found)


def _after(
    sql: Sql, columns: dict[str, Column], clause: sa.FromClause, shape: PageShape, positions: Any
) -> Expression:
    """Return the condition of standing after a cursor's place: later in one column, equal in those before."""
    equal: list[Expression] = []
    later: list[Expression] = []
    bound: Expression = sa.true()
    for (name, descending), null in zip(shape.order, shape.nulls or (), strict=True):
        column, found = columns[name], clause.c[name]
        if null:
            equal.append(found.is_(None))  # nulls stand last: none is later
            continue
        value, key = sql.compared(column, next(positions)), sql.comparable(column, found)
        beyond = key < value if descending else key > value
        if not later and not equal and not column.nullable:
            bound = key <= value if descending else key >= value  # implied, but an index can begin there
        later.append(sa.and_(*equal, sa.or_(beyond, found.is_(None)) if column.nullable else beyond))
        equal.append(key == value)
    return sa.and_(bound, sa.or_(sa.false(), *later))
