"""Selects and searches: one page by keyset, its order, its cursor and its size."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from attrs import frozen
from msgspec import Struct

from rosey_rowstore.engine.codecs import operand_for
from rosey_rowstore.engine.conditions import Conditions
from rosey_rowstore.engine.cursors import open_cursor, query_digest, seal_cursor
from rosey_rowstore.engine.filters import MOST_TERMS, FilterParser, Shape, find_column
from rosey_rowstore.engine.model import Column, ColumnType, Limits, Result, Statement
from rosey_rowstore.engine.plans import Plan
from rosey_rowstore.engine.rows import RowReader, encode_rows, room_for_rows
from rosey_rowstore.engine.sharing import SharedKey
from rosey_rowstore.engine.sql import Compiled, Expression, Sql
from rosey_rowstore.engine.tables import Cache, TableFacts
from rosey_rowstore.engine.texts import check_text, escape_like, fold
from rosey_rowstore.engine.values import TEXTUAL, check_value
from rosey_rowstore.protocol import Fault, SearchRequest, SelectRequest

__all__ = ["check_limit", "plan_search", "plan_select"]

_DEFAULT_LIMIT: Final = 100
_PAGE: Final = b'{"rows":%b,"next_cursor":"%b"}'
_LAST_PAGE: Final = b'{"rows":%b,"next_cursor":null}'
_Order = tuple[tuple[str, bool], ...]
_Finish = Callable[[Sequence[Result]], bytes]


@frozen
class _Page:
    """A compiled page.

    Attributes:
        reader: Reads the columns that were asked for.
        places: Reads the columns of the order, which stand at `place_at` in a row of the database.
        place_at: Empty where no cursor can follow, because the key picks one row.
        shared: Where the key alone picks the row: how several that wait become one statement.
    """

    compiled: Compiled
    reader: RowReader
    places: RowReader
    place_at: tuple[int, ...]
    shared: SharedKey | None = None


class _Known(NamedTuple):
    """What a request needs that only asks columns to equal values, when one like it was planned before.

    Attributes:
        limits: Those under which it was planned; under others it is planned anew.
        operands: Make the driver's values of what the columns equal, in the order of the filter.
        finish: Makes the reply; None where the cursor that may follow depends on the request.
    """

    limits: Limits
    operands: tuple[Callable[[Any], Any], ...]
    page: _Page
    limit: int
    order: _Order
    finish: _Finish | None


class _Shape(NamedTuple):
    """All that one page's statement depends on; a key of the cache (a tuple's hash is the fastest)."""

    where: Shape
    columns: tuple[str, ...] | None
    order: _Order
    limit: int
    nulls: tuple[bool, ...] | None
    terms: int
    searched: tuple[str, ...]


def plan_select(
    sql: Sql, cache: Cache, facts: TableFacts, request: SelectRequest, limits: Limits, *, plugin: str
) -> Plan:
    """Return the plan of a select."""
    if request.cursor is None and (plan := _plan_known(facts, request, limits, plugin)) is not None:
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


def _order(facts: TableFacts, names: Sequence[str]) -> _Order:
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
    digest = _digest(facts, request, order, plugin=plugin, searched=searched)
    nulls = None
    if request.cursor is not None:
        place = open_cursor(request.cursor, digest(), len(order))
        nulls = tuple(value is None for value in place)
        values += _place_values(sql, facts, order, place)
    shape = _Shape(where, columns, order, limit, nulls, len(terms), searched)
    page = cache.get((facts.key, "select", shape), lambda: _compile(sql, facts, shape))
    if request.cursor is None and not terms:
        _remember(sql, facts, request, limits, page=page, limit=limit, order=order)
    return _page_plan(facts, page, values, _finisher(page, limit, room_for_rows(limits), digest))


def _page_plan(facts: TableFacts, page: _Page, values: Sequence[Any], finish: _Finish) -> Plan:
    return Plan(
        statements=(Statement(page.compiled.sql, page.compiled.bind(values)),),
        finish=finish,
        writes=False,
        atomic=False,
        tables=facts.names,
        shared=page.shared,
        cacheable=facts.table.steady,
    )


def _digest(
    facts: TableFacts,
    request: SelectRequest | SearchRequest,
    order: _Order,
    *,
    plugin: str,
    searched: tuple[str, ...] = (),
) -> Callable[[], bytes]:
    """Return what tells to which query a cursor belongs, worked out when there is one."""

    def digest() -> bytes:
        query = getattr(request, "query", None)
        return query_digest(plugin, facts.table.name, request.where, order, query, searched)

    return digest


# requests like one before


def _likeness(request: SelectRequest) -> tuple[Any, ...]:
    where, columns = request.where, request.columns
    return (
        tuple(where),
        tuple(map(type, where.values())),
        tuple(request.order_by),
        request.limit,
        None if columns is None else tuple(columns),
    )


def _plan_known(facts: TableFacts, request: SelectRequest, limits: Limits, plugin: str) -> Plan | None:
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
        digest = _digest(facts, request, known.order, plugin=plugin)
        finish = _finisher(known.page, known.limit, room_for_rows(limits), digest)
    return _page_plan(facts, known.page, values, finish)


def _remember(
    sql: Sql,
    facts: TableFacts,
    request: SelectRequest | SearchRequest,
    limits: Limits,
    *,
    page: _Page,
    limit: int,
    order: _Order,
) -> None:
    """Keep what the next request needs that differs from this in the values alone that columns equal."""
    if not isinstance(request, SelectRequest):
        return
    operands = []
    for name, operand in request.where.items():
        column = facts.table.by_name.get(name)
        if column is None or column.type is ColumnType.JSON or operand is None or type(operand) is dict:
            return
        operands.append(operand_for(column, sql.codec))
    finish = None if page.place_at else _finisher(page, limit, room_for_rows(limits), bytes)
    known = _Known(limits, tuple(operands), page, limit, order, finish)
    facts.pages.put(_likeness(request), known)


def _place_values(sql: Sql, facts: TableFacts, order: _Order, place: Sequence[Any]) -> list[Any]:
    found = []
    for (name, _), value in zip(order, place, strict=True):
        if value is not None:
            column = facts.table.by_name[name]
            try:
                found.append(sql.codec.compared(column.type, check_value(column, value)))
            except Fault as fault:  # sealed, and yet not of this column: the table has changed
                raise Fault("invalid_request", "The cursor is of an older table.", path="cursor") from fault
    return found


# reading


def _finisher(page: _Page, limit: int, room: int, digest: Callable[[], bytes]) -> _Finish:
    def finish(results: Sequence[Result]) -> bytes:
        raw = results[0].rows
        more = len(raw) > limit
        shown = raw[:limit] if more else raw
        rows = page.reader.read_all(shown)
        body = encode_rows(rows)
        if not more and len(body) <= room:
            return _LAST_PAGE % body
        if more:
            cursor = _cursor(page, shown[-1], digest())
            if len(body) + len(cursor) <= room:
                return _PAGE % (body, cursor.encode())
        kept = _fitting(page, rows, shown, room)
        if kept == len(rows) and not more:
            return _LAST_PAGE % body
        return _PAGE % (encode_rows(rows[:kept]), _cursor(page, shown[kept - 1], digest()).encode())

    return finish


def _fitting(page: _Page, rows: Sequence[Struct], raw: Sequence[Sequence[Any]], room: int) -> int:
    """Return how many rows the reply holds, with the cursor that follows the last of them."""
    total = 0
    for index, row in enumerate(rows):
        total += len(encode_rows(row)) + 1
        if total > room or total + len(_cursor(page, raw[index], b"")) > room:
            if index == 0:
                raise Fault(
                    "reply_too_large",
                    f"One row takes {total} bytes; a reply holds {room}.",
                    hint="Ask for fewer columns.",
                )
            return index
    return len(rows)


def _place(page: _Page, row: Sequence[Any]) -> list[Any]:
    return [row[index] for index in page.place_at]


def _cursor(page: _Page, row: Sequence[Any], digest: bytes) -> str:
    if not page.place_at:
        return ""
    place = page.places.read(_place(page, row))
    return seal_cursor(digest, [place[name] for name in page.places.names])


# compiling


def _compile(sql: Sql, facts: TableFacts, shape: _Shape) -> _Page:
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
    return _Page(
        sql.compile(query),
        facts.reader if shape.columns is None else RowReader(columns, sql.dialect),
        RowReader(() if single else order, sql.dialect),
        () if single else tuple(names.index(column.name) for column in order),
        shared,
    )


def _shared(
    sql: Sql, facts: TableFacts, shape: _Shape, clause: sa.TableClause, names: Sequence[str]
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
    sql: Sql, columns: dict[str, Column], clause: sa.FromClause, shape: _Shape, positions: Any
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
