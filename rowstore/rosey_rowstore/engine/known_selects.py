"""Selects like one before: what that one left behind, so that the next brings its values alone.

Two are alike when their filters only ask the same columns to equal values of the same kinds, and what they
want of the rows is the same. What does not fit is planned from the beginning, which has the words for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from rosey_rowstore.engine.codecs import operand_for
from rosey_rowstore.engine.model import ColumnType, Limits
from rosey_rowstore.engine.pages import Finish, Order, Page, page_digest, page_finisher, page_plan
from rosey_rowstore.engine.plans import Plan
from rosey_rowstore.engine.rows import room_for_rows
from rosey_rowstore.engine.sql import Sql
from rosey_rowstore.engine.tables import TableFacts
from rosey_rowstore.protocol import Fault, SelectRequest

__all__ = ["plan_known_select", "remember_select"]


class _Known(NamedTuple):
    """What a request needs that only asks columns to equal values, when one like it was planned before.

    Attributes:
        limits: Those under which it was planned; under others it is planned anew.
        operands: Make the driver's values of what the columns equal, in the order of the filter.
        finish: Makes the reply; None where the cursor that may follow depends on the request.
    """

    limits: Limits
    operands: tuple[Callable[[Any], Any], ...]
    page: Page
    limit: int
    order: Order
    finish: Finish | None


def plan_known_select(facts: TableFacts, request: SelectRequest, limits: Limits, plugin: str) -> Plan | None:
    """Return the plan of a request like one before; None where there was none, or a value does not fit."""
    known: _Known | None = facts.pages.peek(_likeness(request))
    if known is None or known.limits is not limits:
        return None
    try:
        values = [
            operand(value) for operand, value in zip(known.operands, request.where.values(), strict=True)
        ]
    except Fault:
        return None  # it is said with its place
    finish = known.finish
    if finish is None:
        digest = page_digest(facts, request, known.order, plugin=plugin)
        finish = page_finisher(known.page, known.limit, room_for_rows(limits), digest)
    return page_plan(facts, known.page, values, finish)


def remember_select(
    sql: Sql,
    facts: TableFacts,
    request: SelectRequest,
    limits: Limits,
    *,
    page: Page,
    limit: int,
    order: Order,
) -> None:
    """Keep what the next request needs that differs from this in the values alone that columns equal."""
    operands = []
    for name, operand in request.where.items():
        column = facts.table.by_name.get(name)
        if column is None or column.type is ColumnType.JSON or operand is None or type(operand) is dict:
            return
        operands.append(operand_for(column, sql.codec))
    finish = None if page.place_at else page_finisher(page, limit, room_for_rows(limits), bytes)
    known = _Known(limits, tuple(operands), page, limit, order, finish)
    facts.pages.put(_likeness(request), known)


def _likeness(request: SelectRequest) -> tuple[Any, ...]:
    where, columns = request.where, request.columns
    return (
        tuple(where),
        tuple(map(type, where.values())),
        tuple(request.order_by),
        request.limit,
        None if columns is None else tuple(columns),
    )
