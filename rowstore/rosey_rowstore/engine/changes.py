"""Updates and deletes: one statement, guarded."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final

import sqlalchemy as sa

from rosey_rowstore.engine.clock import now_text
from rosey_rowstore.engine.conditions import Conditions
from rosey_rowstore.engine.filters import FilterParser, Shape
from rosey_rowstore.engine.model import Limits, Result, Statement
from rosey_rowstore.engine.plans import Plan
from rosey_rowstore.engine.rows import check_reply, room_for_rows, written_reply
from rosey_rowstore.engine.sets import Change, parse_set, stored_change
from rosey_rowstore.engine.sql import Compiled, Expression, Sql
from rosey_rowstore.engine.tables import Cache, TableFacts
from rosey_rowstore.protocol import DeleteRequest, Fault, UpdateRequest

__all__ = ["plan_delete", "plan_update"]

_MOST_ROWS: Final = (1 << 63) - 1


def plan_update(sql: Sql, cache: Cache, facts: TableFacts, request: UpdateRequest, limits: Limits) -> Plan:
    """Return the plan of an update."""
    _check_guards(request)
    changes, values = parse_set(facts, sql, request.set)
    parser = FilterParser(facts.table, sql.dialect, sql.codec)
    shape = parser.parse(request.where)
    key = (facts.key, "update", changes, shape, request.returning)
    where_at = len(values)
    now_at = where_at + len(parser.values)
    compiled = cache.get(
        key,
        lambda: _compile_update(
            sql, facts, changes, shape, where_at=where_at, now_at=now_at, returning=request.returning
        ),
    )
    moments = () if sql.postgres else ((now := now_text()), now[:10])
    statement = Statement(compiled.sql, compiled.bind([*values, *parser.values, *moments]))
    return _plan(facts, statement, shape, request, limits)


def plan_delete(sql: Sql, cache: Cache, facts: TableFacts, request: DeleteRequest, limits: Limits) -> Plan:
    """Return the plan of a delete."""
    _check_guards(request)
    parser = FilterParser(facts.table, sql.dialect, sql.codec)
    shape = parser.parse(request.where)
    key = (facts.key, "delete", shape, request.returning)
    compiled = cache.get(key, lambda: _compile_delete(sql, facts, shape, request.returning))
    return _plan(facts, Statement(compiled.sql, compiled.bind(parser.values)), shape, request, limits)


def _check_guards(request: UpdateRequest | DeleteRequest) -> None:
    if not request.where and not request.all_rows:
        raise Fault(
            "invalid_request",
            "An empty where would touch every row.",
            path="where",
            hint="Say so with all_rows: true.",
        )
    if request.max_rows is not None and not 1 <= request.max_rows <= _MOST_ROWS:
        raise Fault("out_of_range", "max_rows is 1 or more.", path="max_rows")


def _plan(
    facts: TableFacts,
    statement: Statement,
    shape: Shape,
    request: UpdateRequest | DeleteRequest,
    limits: Limits,
) -> Plan:
    """Plan one statement: a transaction of its own only where the end may refuse what it did."""
    single = facts.at_most_one(shape)
    may_refuse = request.max_rows is not None and not single
    if request.returning:
        may_refuse |= not single or facts.reader.has_texts
    return Plan(
        statements=(statement,),
        finish=_finisher(facts, request.max_rows, request.returning, room_for_rows(limits)),
        writes=True,
        atomic=may_refuse,
        tables=(facts.table.name,),
    )


def _finisher(
    facts: TableFacts,
    max_rows: int | None,
    returning: bool,
    room: int,
) -> Callable[[Sequence[Result]], bytes]:
    def finish(results: Sequence[Result]) -> bytes:
        (result,) = results
        count = len(result.rows) if returning else result.touched
        if max_rows is not None and count > max_rows:
            raise Fault(
                "too_many_rows",
                f"{count} rows match; max_rows allows {max_rows}. Nothing was changed.",
                path="max_rows",
            )
        if not returning:
            return written_reply(count)
        rows = facts.reader.read_all(result.rows)
        # In one order on both databases; neither promises one of its own.
        rows.sort(key=facts.reader.key(facts.table.primary_key))
        return written_reply(count, check_reply(rows, room))

    return finish


def _compile_update(
    sql: Sql,
    facts: TableFacts,
    changes: tuple[Change, ...],
    shape: Shape,
    *,
    where_at: int,
    now_at: int,
    returning: bool,
) -> Compiled:
    clause, columns = sql.table(facts.table), facts.table.by_name
    positions = itertools.count()
    found: dict[str, Expression] = {}
    for change in changes:
        column = columns[change.column]
        if change.rule == "$unset":
            found[change.column] = sa.null()
        elif change.rule == "$now":
            # SQLite binds the moment; a date takes the text after it.
            found[change.column] = sql.now(column, now_at + (column.type == "date"))
        else:
            value = sql.written(column, next(positions))
            found[change.column] = stored_change(sql, column, change.rule, clause.c[change.column], value)
    if facts.table.managed:
        found["updated_at"] = sql.now(columns["updated_at"], now_at)
    condition = Conditions(sql, facts.table, clause, itertools.count(where_at)).build(shape)
    statement: Any = sa.update(clause).values({clause.c[name]: value for name, value in found.items()})
    return _ended(sql, facts, clause, statement.where(condition), returning)


def _compile_delete(sql: Sql, facts: TableFacts, shape: Shape, returning: bool) -> Compiled:
    clause = sql.table(facts.table)
    condition = Conditions(sql, facts.table, clause, itertools.count()).build(shape)
    return _ended(sql, facts, clause, sa.delete(clause).where(condition), returning)


def _ended(sql: Sql, facts: TableFacts, clause: sa.TableClause, statement: Any, returning: bool) -> Compiled:
    if returning:
        statement = statement.returning(*[sql.reads(clause, column) for column in facts.table.columns])
    return sql.compile(statement)
