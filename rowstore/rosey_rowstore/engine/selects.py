"""Selects and searches: what one asks for, checked, to the plan of its page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rosey_rowstore.engine.cursors import open_cursor
from rosey_rowstore.engine.filters import MOST_TERMS, FilterParser, find_column
from rosey_rowstore.engine.known_selects import plan_known_select, remember_select
from rosey_rowstore.engine.model import ColumnType, Limits
from rosey_rowstore.engine.page_statements import PageShape, compile_page
from rosey_rowstore.engine.pages import Order, page_digest, page_finisher, page_plan
from rosey_rowstore.engine.plans import Plan
from rosey_rowstore.engine.rows import room_for_rows
from rosey_rowstore.engine.sql import Sql
from rosey_rowstore.engine.tables import Cache, TableFacts
from rosey_rowstore.engine.texts import check_text, escape_like, fold
from rosey_rowstore.engine.values import TEXTUAL, check_value
from rosey_rowstore.protocol import Fault, SearchRequest, SelectRequest

__all__ = ["check_limit", "plan_search", "plan_select"]

_DEFAULT_LIMIT: Final = 100


def plan_select(
    sql: Sql, cache: Cache, facts: TableFacts, request: SelectRequest, limits: Limits, *, plugin: str
) -> Plan:
    """Return the plan of a select."""
    if request.cursor is None and (plan := plan_known_select(facts, request, limits, plugin)) is not None:
        return plan
    columns = None if request.columns is None else _columns(facts, request.columns)
    return _plan(sql, cache, facts, request, limits, plugin=plugin, columns=columns, terms=(), searched=())


def plan_search(
    sql: Sql, cache: Cache, facts: TableFacts, request: SearchRequest, limits: Limits, *, plugin: str
) -> Plan:
    """Return the plan of a search: every term stands in at least one of the columns."""
    searched = _searched(facts, request.columns)
    terms = check_search(request.query)
    return _plan(
        sql, cache, facts, request, limits, plugin=plugin, columns=None, terms=terms, searched=searched
    )


def check_limit(limit: int | None, limits: Limits) -> int:
    """Return the rows that a page or an aggregate holds at most.

    Args:
        limit: As the request says; without it the default, or less where the plugin may have less.
        limits: The plugin's.

    Raises:
        Fault: `out_of_range` past the plugin's `rows_per_page`: nothing is cut silently.
    """
    most = limits.rows_per_page
    if limit is None:
        return min(_DEFAULT_LIMIT, most)
    if not 1 <= limit <= most:
        raise Fault("out_of_range", f"limit is 1 to {most}.", path="limit")
    return limit


def check_search(query: str) -> tuple[str, ...]:
    """Return the terms of a search.

    Raises:
        Fault: `invalid_request` for a blank query, `request_too_large` past the most terms.
    """
    try:
        terms = tuple(check_text(query).split())
    except Fault as fault:
        raise fault.at("query") from None
    if not terms:
        raise Fault("invalid_request", "The query is blank.", path="query")
    if len(terms) > MOST_TERMS:
        raise Fault("request_too_large", f"The query has more than {MOST_TERMS} terms.", path="query")
    return terms


def _columns(facts: TableFacts, names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        raise Fault("invalid_request", "columns is empty.", path="columns", hint="Leave it out for all.")
    for index, name in enumerate(names):
        find_column(facts.table, name, f"columns[{index}]")
        if name in names[:index]:
            raise Fault("invalid_request", f"{name} stands twice.", path=f"columns[{index}]")
    return tuple(names)


def _searched(facts: TableFacts, names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        found = tuple(column.name for column in facts.table.columns if column.type in TEXTUAL)
        if not found:
            raise Fault("invalid_request", f"The table {facts.table.name} has no text to search.")
        return found
    found = _columns(facts, names)
    for index, name in enumerate(found):
        if (column := facts.table.by_name[name]).type not in TEXTUAL:
            raise Fault(
                "type_mismatch",
                f"A search looks into text; {name} is of type {column.type}.",
                path=f"columns[{index}]",
            )
    return found


def _order(facts: TableFacts, names: Sequence[str]) -> Order:
    """Return the columns of the order and whether each falls, the primary key appended, rising."""
    found: dict[str, bool] = {}
    for index, text in enumerate(names):
        descending = text.startswith("-")
        name = text[1:] if descending else text
        column = find_column(facts.table, name, f"order_by[{index}]")
        if name in found:
            raise Fault("invalid_request", f"{name} stands twice.", path=f"order_by[{index}]")
        if column.type is ColumnType.JSON:
            raise Fault("type_mismatch", f"{name} is json, which has no order.", path=f"order_by[{index}]")
        found[name] = descending
    for name in facts.table.primary_key:
        found.setdefault(name, False)
    return tuple(found.items())


def _plan(
    sql: Sql,
    cache: Cache,
    facts: TableFacts,
    request: SelectRequest | SearchRequest,
    limits: Limits,
    *,
    plugin: str,
    columns: tuple[str, ...] | None,
    terms: tuple[str, ...],
    searched: tuple[str, ...],
) -> Plan:
    limit = check_limit(request.limit, limits)
    parser = FilterParser(facts.table, sql.dialect, sql.codec)
    where = parser.parse(request.where)
    names = tuple(request.order_by)
    order = facts.orders.get(names, lambda: _order(facts, names))
    values = parser.values
    if terms:
        values += [f"%{escape_like(term)}%" if sql.postgres else fold(term) for term in terms]
    digest = page_digest(facts, request, order, plugin=plugin, searched=searched)
    nulls = None
    if request.cursor is not None:
        place = open_cursor(request.cursor, digest(), len(order))
        nulls = tuple(value is None for value in place)
        values += _place_values(sql, facts, order, place)
    shape = PageShape(where, columns, order, limit, nulls, len(terms), searched)
    page = cache.get((facts.key, "select", shape), lambda: compile_page(sql, facts, shape))
    if isinstance(request, SelectRequest) and request.cursor is None:
        remember_select(sql, facts, request, limits, page=page, limit=limit, order=order)
    return page_plan(facts, page, values, page_finisher(page, limit, room_for_rows(limits), digest))


def _place_values(sql: Sql, facts: TableFacts, order: Order, place: Sequence[Any]) -> list[Any]:
    found = []
    for (name, _), value in zip(order, place, strict=True):
        if value is not None:
            column = facts.table.by_name[name]
            try:
                found.append(sql.codec.compared(column.type, check_value(column, value)))
            except Fault as fault:  # sealed, and yet not of this column: the table has changed
                raise Fault("invalid_request", "The cursor is of an older table.", path="cursor") from fault
    return found
