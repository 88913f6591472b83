"""Aggregates: measures over groups, exact, with the same figures on both databases.

Sums of floats are taken over their decimals, without rounding on the way: a plain sum depends on the order
in which a database happens to read. Averages of whole numbers and decimals have twenty digits after the
point, rounded half away from zero.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import sqlalchemy as sa
from attrs import frozen

from rosey_rowstore.engine.catalog_types import is_foreign
from rosey_rowstore.engine.conditions import Conditions
from rosey_rowstore.engine.filters import FilterParser, Shape, find_column
from rosey_rowstore.engine.model import Column, ColumnType, Limits, Result, Statement
from rosey_rowstore.engine.plans import Plan
from rosey_rowstore.engine.rows import RowReader, check_reply, room_for_rows
from rosey_rowstore.engine.selects import check_limit
from rosey_rowstore.engine.sql import Compiled, Expression, Sql, literal
from rosey_rowstore.engine.tables import Cache, TableFacts
from rosey_rowstore.engine.values import NUMERIC, ORDERED
from rosey_rowstore.protocol import AggregateRequest, Fault, nearest

__all__ = ["plan_aggregate"]

_FUNCTIONS: Final = ("$count", "$sum", "$avg", "$min", "$max")
_MOST_MEASURES: Final = 100
_SCALE: Final = 20
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")

_Order = tuple[tuple[str, bool], ...]


@frozen
class _Measure:
    name: str
    function: str
    column: str


@frozen
class _Shape:
    measures: tuple[_Measure, ...]
    groups: tuple[str, ...]
    where: Shape
    order: _Order
    limit: int


def plan_aggregate(
    sql: Sql, cache: Cache, facts: TableFacts, request: AggregateRequest, limits: Limits
) -> Plan:
    """Return the plan of an aggregate."""
    groups = _groups(facts, request.group_by)
    measures = _measures(facts, request.measures, groups)
    if not measures and not groups:
        raise Fault(
            "invalid_request",
            "There is nothing to measure.",
            path="measures",
            hint='As {"n": {"$count": "*"}}.',
        )
    limit = check_limit(request.limit, limits)
    parser = FilterParser(facts.table, sql.dialect, sql.codec)
    where = parser.parse(request.where)
    order = _order(request.order_by, [measure.name for measure in measures], groups)
    shape = _Shape(measures, groups, where, order, limit)
    compiled, reader = cache.get((facts.key, "aggregate", shape), lambda: _compile(sql, facts, shape))
    return Plan(
        statements=(Statement(compiled.sql, compiled.bind(parser.values)),),
        finish=_finisher(reader, limit, room_for_rows(limits)),
        writes=False,
        atomic=False,
        tables=(facts.table.name,),
        cacheable=facts.table.steady,
    )


def _finisher(reader: RowReader, limit: int, room: int) -> Callable[[Sequence[Result]], bytes]:
    def finish(results: Sequence[Result]) -> bytes:
        raw = results[0].rows
        body = check_reply(reader.read_all(raw[:limit]), room)
        return b'{"rows":%b,"truncated":%b}' % (body, b"true" if len(raw) > limit else b"false")

    return finish


# checking


def _groups(facts: TableFacts, names: Sequence[str]) -> tuple[str, ...]:
    for index, name in enumerate(names):
        column = find_column(facts.table, name, f"group_by[{index}]")
        if column.type is ColumnType.JSON:
            raise Fault("type_mismatch", f"{name} is json and does not group.", path=f"group_by[{index}]")
        if name in names[:index]:
            raise Fault("invalid_request", f"{name} stands twice.", path=f"group_by[{index}]")
    return tuple(names)


def _measures(
    facts: TableFacts, measures: Mapping[str, Mapping[str, str]], groups: Sequence[str]
) -> tuple[_Measure, ...]:
    if len(measures) > _MOST_MEASURES:
        raise Fault(
            "request_too_large", f"An aggregate has at most {_MOST_MEASURES} measures.", path="measures"
        )
    found = []
    for name, measure in measures.items():
        path = f"measures.{name}"
        if not _NAME.fullmatch(name):
            raise Fault("invalid_name", f"{name[:80]!r} is no name of a measure.", path=path, hint=_NAME_HINT)
        if name in groups:
            raise Fault("invalid_request", f"{name} is a column of group_by already.", path=path)
        if len(measure) != 1:
            raise Fault("invalid_request", "A measure has one function.", path=path, hint=_FUNCTIONS_HINT)
        ((function, operand),) = measure.items()
        try:
            _check_measure(facts, function, operand)
        except Fault as fault:
            raise fault.at(path) from None
        found.append(_Measure(name, function, operand))
    return tuple(found)


def _check_measure(facts: TableFacts, function: str, operand: str) -> None:
    if function not in _FUNCTIONS:
        near = nearest(function, _FUNCTIONS)
        raise Fault(
            "unknown_operator" if function[:1] == "$" else "invalid_request",
            f"{function[:80]!r} is no measure" + (f"; did you mean {near!r}?" if near else "."),
            hint=_FUNCTIONS_HINT,
        )
    if operand == "*" and function == "$count":
        return
    column = find_column(facts.table, operand)
    takes = {"$sum": NUMERIC, "$avg": NUMERIC, "$min": ORDERED, "$max": ORDERED}.get(function)
    if takes is not None and column.type not in takes:
        raise Fault(
            "type_mismatch", f"{function} does not work on {column.name}, a column of type {column.type}."
        )


_NAME_HINT: Final = "1 to 63 of A-Z, a-z, 0-9 and _, not beginning with a digit."
_FUNCTIONS_HINT: Final = "One of " + ", ".join(_FUNCTIONS) + "."


def _order(names: Sequence[str], measures: Sequence[str], groups: Sequence[str]) -> _Order:
    known = (*measures, *groups)
    found: dict[str, bool] = {}
    for index, text in enumerate(names):
        name = text.removeprefix("-")
        if name not in known:
            near = nearest(name, known)
            raise Fault(
                "column_not_found",
                f"{name[:80]!r} is neither a measure nor a column of group_by"
                + (f"; did you mean {near!r}?" if near else "."),
                path=f"order_by[{index}]",
            )
        if name in found:
            raise Fault("invalid_request", f"{name} stands twice.", path=f"order_by[{index}]")
        found[name] = text.startswith("-")
    for name in groups:  # ties would come in any order
        found.setdefault(name, False)
    return tuple(found.items())


# compiling


def _compile(sql: Sql, facts: TableFacts, shape: _Shape) -> tuple[Compiled, RowReader]:
    table, clause = facts.table, sql.table(facts.table)
    columns = [table.by_name[name] for name in shape.groups]
    found: dict[str, Expression] = {column.name: clause.c[column.name] for column in columns}
    for measure in shape.measures:
        column, value = _measure(sql, clause, measure, table.by_name.get(measure.column))
        columns.append(column)
        found[column.name] = value
    listed = [sql.read(column, found[column.name], column.name) for column in columns]
    query = sa.select(
        *[value.label(sa.quoted_name(c.name, quote=True)) for c, value in zip(columns, listed, strict=True)]
    )
    condition = Conditions(sql, table, clause, itertools.count()).build(shape.where)
    query = query.select_from(clause).where(condition)
    for name in shape.groups:
        group = clause.c[name]
        query = query.group_by(group if sql.postgres else sql.comparable(table.by_name[name], group))
    by_name = {column.name: column for column in columns}
    for name, descending in shape.order:
        query = query.order_by(sql.ordering(by_name[name], found[name], descending=descending))
    return sql.compile(sql.limited(query, shape.limit + 1)), RowReader(columns, sql.dialect)


def _measure(
    sql: Sql, clause: sa.TableClause, measure: _Measure, column: Column | None
) -> tuple[Column, Expression]:
    """Return the column that a measure makes, and its value."""
    name = measure.name
    if column is None:
        return Column(name=name, type=ColumnType.INTEGER, nullable=False), sa.func.count(literal("*"))
    found = clause.c[column.name]
    if measure.function == "$count":
        return Column(name=name, type=ColumnType.INTEGER, nullable=False), sa.func.count(found)
    if measure.function in ("$min", "$max"):
        return _extreme(sql, measure, column, found)
    averaged = ColumnType.DECIMAL if column.type is ColumnType.DECIMAL else ColumnType.FLOAT
    kind = column.type if measure.function == "$sum" else averaged
    made = Column(name=name, type=kind)
    if not sql.postgres:
        return made, getattr(sa.func, f"rosey_{column.type.value}_{measure.function[1:]}")(found)
    return made, (_sum if measure.function == "$sum" else _average)(sql, column, found)


def _extreme(sql: Sql, measure: _Measure, column: Column, found: Expression) -> tuple[Column, Expression]:
    function = sa.func.min if measure.function == "$min" else sa.func.max
    if sql.postgres and (column.type is ColumnType.UUID or is_foreign(column)):
        # Postgres has no min(uuid); the text sorts as the value does.
        text = sa.collate(sql.cast(found, "text"), "C")
        return Column(name=measure.name, type=ColumnType.TEXT), function(text)
    made = Column(
        name=measure.name,
        type=column.type,
        scale=column.scale,
        precision=column.precision,
        aware=column.aware,
    )
    return made, function(sql.comparable(column, found))


def _sum(sql: Sql, column: Column, found: Expression) -> Expression:
    if column.type is ColumnType.FLOAT:
        return sql.cast(_exact(sql, column, found), "double precision")
    total: Expression = sa.func.sum(found)
    return sql.cast(total, "bigint") if column.type is ColumnType.INTEGER else total


def _exact(sql: Sql, column: Column, found: Expression) -> Expression:
    if column.type is ColumnType.FLOAT:
        found = sql.cast(found, "text")
    return sa.func.sum(sql.cast(found, "numeric"))


def _average(sql: Sql, column: Column, found: Expression) -> Expression:
    total, count = _exact(sql, column, found), sa.func.count(found)
    if column.type is ColumnType.FLOAT:
        return sql.cast(total, "double precision") / sql.cast(count, "double precision")
    # Postgres chooses how many digits a division keeps; whole numbers divide the same everywhere.
    figures = sa.func.div(
        sa.func.abs(total) * literal(f"2{'0' * _SCALE}") + sql.cast(count, "numeric"),
        sql.cast(count, "numeric") * literal("2"),
    )
    exact = sa.func.sign(total) * figures * literal(f"0.{'0' * (_SCALE - 1)}1")
    return exact if column.type is ColumnType.DECIMAL else sql.cast(exact, "double precision")
