"""Inserts and upserts: rows of a request to as few statements as their columns allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from attrs import frozen
from sqlalchemy.dialects import postgresql, sqlite

from rosey_rowstore.engine.clock import now_text
from rosey_rowstore.engine.codecs import writer_for
from rosey_rowstore.engine.model import Column, Limits, Result, Statement
from rosey_rowstore.engine.plans import Plan
from rosey_rowstore.engine.rows import check_reply, largest_text, room_for_rows, written_reply
from rosey_rowstore.engine.sets import check_rule, merged
from rosey_rowstore.engine.sharing import SharedInsert
from rosey_rowstore.engine.sql import Compiled, Expression, Sql
from rosey_rowstore.engine.tables import Cache, TableFacts
from rosey_rowstore.engine.values import check_written
from rosey_rowstore.protocol import Fault, InsertRequest, UpsertRequest

__all__ = ["plan_insert", "plan_upsert"]

_MOST_PARAMETERS: Final = 30_000  # SQLite takes 32,766
_ABSENT: Final = object()
_MOMENTS: Final = ("created_at", "updated_at")

Names = tuple[str, ...]


@frozen
class _Batch:
    """Rows that give the same columns, with their places in the request and their driver values."""

    names: Names
    places: list[int]
    rows: list[list[Any]]


@frozen
class _Conflict:
    """What an upsert does with a row that exists."""

    key: Names
    rules: tuple[tuple[str, str], ...]


def plan_insert(sql: Sql, cache: Cache, facts: TableFacts, request: InsertRequest, limits: Limits) -> Plan:
    """Return the plan of an insert: one statement, unless rows leave different computed defaults out."""
    alone = len(request.rows) == 1
    if alone and (plan := _plan_known(sql, facts, request, limits)) is not None:
        return plan
    _check_count(request.rows, limits)
    batches = _batches(sql, facts, request.rows, fills=True)
    plan = _plan(sql, cache, facts, batches, None, request=request, limits=limits)
    if alone and not plan.atomic:
        _remember(sql, cache, facts, request, plan=plan, limits=limits)
    return plan


def plan_upsert(sql: Sql, cache: Cache, facts: TableFacts, request: UpsertRequest, limits: Limits) -> Plan:
    """Return the plan of an upsert: one statement for each set of columns that its rows give."""
    _check_count(request.rows, limits)
    key = _check_key(facts, request.key)
    rules = _check_merge(facts, request.merge, key)
    batches = _batches(sql, facts, request.rows, fills=False)
    _check_keys_given(request.rows, key)
    _check_keys_differ(batches, key)
    return _plan(sql, cache, facts, batches, _Conflict(key, rules), request=request, limits=limits)


def _check_count(rows: Sequence[Any], limits: Limits) -> None:
    if len(rows) > limits.rows_per_insert:
        raise Fault(
            "too_many_rows",
            f"The request has {len(rows)} rows; one holds at most {limits.rows_per_insert}.",
            path="rows",
        )


def _check_key(facts: TableFacts, names: Sequence[str]) -> Names:
    if not names:
        raise Fault("invalid_request", "The key names no column.", path="key")
    for index, name in enumerate(names):
        try:
            facts.writable(name)
        except Fault as fault:
            raise fault.at(f"key[{index}]") from None
    key = frozenset(names)
    if len(key) < len(names):
        raise Fault("invalid_request", "The key names a column twice.", path="key")
    unique = (index.columns for index in facts.table.indexes if index.unique)
    if not any(key == set(columns) for columns in (facts.table.primary_key, *unique)):
        raise Fault(
            "invalid_request",
            f"No unique index of {facts.table.name} has exactly the columns {', '.join(names)}.",
            path="key",
            hint="Define one, as Index(…, unique=True).",
        )
    return tuple(sorted(names))


def _check_merge(facts: TableFacts, merge: Mapping[str, str], key: Names) -> tuple[tuple[str, str], ...]:
    for name, rule in merge.items():
        try:
            column = facts.writable(name)
            if name in key:
                raise Fault("invalid_request", f"The column {name} is part of the key and does not change.")
            if rule not in ("$set", "$keep"):
                check_rule(column, rule)
        except Fault as fault:
            raise fault.at(f"merge.{name}") from None
    return tuple(sorted(merge.items()))


def _check_keys_given(rows: Sequence[Mapping[str, Any]], key: Names) -> None:
    for index, row in enumerate(rows):
        for name in key:
            if row.get(name) is None:
                raise Fault(
                    "value_required",
                    f"The column {name} is part of the key; every row gives it.",
                    path=f"rows[{index}].{name}",
                )


def _check_keys_differ(batches: Sequence[_Batch], key: Names) -> None:
    seen: dict[Any, int] = {}
    for batch in batches:
        indexes = [batch.names.index(name) for name in key]
        for place, row in zip(batch.places, batch.rows, strict=True):
            first = seen.setdefault(tuple(row[index] for index in indexes), place)
            if first != place:
                raise Fault(
                    "invalid_request",
                    f"The rows {min(first, place)} and {max(first, place)} have the same key.",
                    path=f"rows[{max(first, place)}]",
                    hint="One request merges a key once.",
                )


# rows to batches


def _batches(sql: Sql, facts: TableFacts, rows: Sequence[Mapping[str, Any]], *, fills: bool) -> list[_Batch]:
    """Return the rows by the columns that they give; `fills` writes known defaults out: fewer differ."""
    if len(rows) == 1:
        names = tuple(rows[0])
        return [_Batch(names, [0], [_values(sql, facts, rows[0], names, 0)])]
    every = tuple(dict.fromkeys(name for row in rows for name in row))
    _check_names(facts, rows, every)
    found: dict[Names, _Batch] = {}
    for place, row in enumerate(rows):
        names = every if len(row) == len(every) else _names(facts, row, every, fills=fills)
        batch = found.get(names)
        if batch is None:
            batch = found[names] = _Batch(names, [], [])
        batch.places.append(place)
        batch.rows.append(_values(sql, facts, row, names, place))
    return list(found.values())


def _check_names(facts: TableFacts, rows: Sequence[Mapping[str, Any]], names: Names) -> None:
    """Refuse a column that no row may give, at the first row that gives it and not at one that lacks it."""
    for name in names:
        try:
            facts.writable(name)
        except Fault as fault:
            place = next(index for index, row in enumerate(rows) if name in row)
            raise fault.at(f"rows[{place}].{name}") from None


def _names(facts: TableFacts, row: Mapping[str, Any], every: Names, *, fills: bool) -> Names:
    if not fills:
        return tuple(name for name in every if name in row)
    by_name = facts.table.by_name
    return tuple(
        name
        for name in every
        if name in row or (column := by_name.get(name)) is None or not _computed_default(column)
    )


def _computed_default(column: Column) -> bool:
    return column.has_default and column.default is None


def _values(sql: Sql, facts: TableFacts, row: Mapping[str, Any], names: Names, place: int) -> list[Any]:
    written, by_name, unwritable = sql.codec.written, facts.table.by_name, facts.unwritable
    found = []
    for name in names:
        value = row.get(name, _ABSENT)
        try:
            column = by_name.get(name)
            if column is None or name in unwritable:
                column = facts.writable(name)
            if value is _ABSENT:
                value = column.default if column.has_default else None
            found.append(written(column.type, check_written(column, value)))
        except Fault as fault:
            raise fault.at(f"rows[{place}].{name}") from None
    for name in facts.required:
        if name not in row:
            raise Fault("value_required", f"The column {name} takes no null.", path=f"rows[{place}].{name}")
    return found


# batches to statements


def _plan(
    sql: Sql,
    cache: Cache,
    facts: TableFacts,
    batches: list[_Batch],
    conflict: _Conflict | None,
    *,
    request: InsertRequest | UpsertRequest,
    limits: Limits,
) -> Plan:
    statements: list[Statement] = []
    places: list[int] = []
    for batch in batches:
        if not batch.rows:
            continue
        statements += _statements(sql, cache, facts, batch, conflict, returning=request.returning)
        places += batch.places
    room = room_for_rows(limits)
    tight = request.returning and _may_pass(facts, batches, conflict, len(request.rows), room)
    ordered = len(batches) < 2
    shared = None
    if sql.postgres and len(request.rows) == 1 and conflict is None and not tight:
        shared = _shared(sql, cache, facts, batches[0].names, returning=request.returning)
    return Plan(
        statements=tuple(statements),
        finish=_finisher(facts, len(request.rows), None if ordered else places, request.returning, room),
        writes=True,
        atomic=len(statements) != 1 or tight,
        tables=(facts.table.name,),
        shared=shared,
    )


# rows like one before


class _Known(NamedTuple):
    """What the insert of a row needs when one of the same columns was planned before.

    Attributes:
        limits: Those under which it was planned; under others it is planned anew.
        writers: Make the driver's values, in the order of the row.
        room: Bytes that the returned row has for the texts that are given; None where it does not matter.
    """

    limits: Limits
    writers: tuple[Callable[[Any], Any], ...]
    one: Compiled
    room: int | None
    finish: Callable[[Sequence[Result]], bytes]
    shared: SharedInsert | None


def _plan_known(sql: Sql, facts: TableFacts, request: InsertRequest, limits: Limits) -> Plan | None:
    """Return the plan of a row like one before; None where there was none, or a value does not fit."""
    (row,) = request.rows
    known: _Known | None = facts.additions.peek((request.returning, *row))
    if known is None or known.limits is not limits:
        return None
    try:
        values = [write(value) for write, value in zip(known.writers, row.values(), strict=True)]
    except Fault:
        return None  # it is said with its place
    if known.room is not None and sum([largest_text(v) for v in values if type(v) is str]) > known.room:
        return None
    if not sql.postgres:
        values += _now(sql)
    return Plan(
        statements=(Statement(known.one.sql, known.one.bind(values)),),
        finish=known.finish,
        writes=True,
        atomic=False,
        tables=facts.names,
        shared=known.shared,
    )


def _remember(
    sql: Sql, cache: Cache, facts: TableFacts, request: InsertRequest, *, plan: Plan, limits: Limits
) -> None:
    """Keep what the next row of the same columns needs."""
    (row,) = request.rows
    names = tuple(row)
    room = None
    if request.returning:
        if facts.default_size is None:
            return
        room = room_for_rows(limits) - facts.reader.fixed - facts.default_size
    known = _Known(
        limits,
        tuple(writer_for(facts.table.by_name[name], sql.codec) for name in names),
        _compiled_single(sql, cache, facts, names, None, returning=request.returning),
        room,
        plan.finish,
        plan.shared,  # type: ignore[arg-type]  # an insert's
    )
    facts.additions.put((request.returning, *names), known)


def _shared(
    sql: Sql, cache: Cache, facts: TableFacts, names: Names, *, returning: bool
) -> SharedInsert | None:
    """Return how a single row goes together with others; not where a trigger would see the difference."""
    if not names or facts.table.reacts:
        return None

    def make() -> SharedInsert:
        one = _single(sql, facts, names, None, returning=returning)
        many = _unnested(sql, facts, names, None, returning=returning)
        return SharedInsert(one, many, sql.codec, returning=returning)

    return cache.get((facts.key, "shared insert", names, returning), make)


def _may_pass(
    facts: TableFacts, batches: Sequence[_Batch], conflict: _Conflict | None, count: int, room: int
) -> bool:
    """Return whether the returned rows could be larger than a reply, by the sizes that were given."""
    if facts.default_size is None:
        return True
    if conflict is not None and facts.reader.has_texts:  # what the row held before may come back
        return True
    total = count * (facts.reader.fixed + facts.default_size)
    for batch in batches:
        for row in batch.rows:
            for value in row:
                if type(value) is str:
                    total += largest_text(value)
    return total > room


def _finisher(
    facts: TableFacts,
    count: int,
    places: list[int] | None,
    returning: bool,
    room: int,
) -> Callable[[Sequence[Result]], bytes]:
    def finish(results: Sequence[Result]) -> bytes:
        if not returning:
            return written_reply(count)
        raw = results[0].rows if len(results) == 1 else [row for result in results for row in result.rows]
        rows = facts.reader.read_all(raw)
        if places is not None:
            rows = [row for _, row in sorted(zip(places, rows, strict=True), key=_place)]
        return written_reply(count, check_reply(rows, room))

    return finish


def _place(pair: tuple[int, Any]) -> int:
    return pair[0]


def _statements(
    sql: Sql,
    cache: Cache,
    facts: TableFacts,
    batch: _Batch,
    conflict: _Conflict | None,
    *,
    returning: bool,
) -> list[Statement]:
    names, rows = batch.names, batch.rows
    key = (facts.key, "insert", names, conflict, returning)
    if len(rows) == 1 or not names:
        one = _compiled_single(sql, cache, facts, names, conflict, returning=returning)
        return [Statement(one.sql, one.bind([*row, *_now(sql)])) for row in rows]
    if sql.postgres:
        many = cache.get((*key, "many"), lambda: _unnested(sql, facts, names, conflict, returning=returning))
        columns = [sql.codec.array(row[index] for row in rows) for index in range(len(names))]
        return [Statement(many.sql, many.bind(columns))]
    now = _now(sql)
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


def _compiled_single(
    sql: Sql, cache: Cache, facts: TableFacts, names: Names, conflict: _Conflict | None, *, returning: bool
) -> Compiled:
    key = (facts.key, "insert", names, conflict, returning)
    return cache.get(key, lambda: _single(sql, facts, names, conflict, returning=returning))


def _now(sql: Sql) -> tuple[str, ...]:
    return () if sql.postgres else (now_text(),)


def _moments(sql: Sql, facts: TableFacts, position: int) -> dict[str, Expression]:
    if not facts.table.managed:
        return {}
    columns = facts.table.by_name
    return {name: sql.now(columns[name], position, at_start=True) for name in _MOMENTS}


def _single(
    sql: Sql, facts: TableFacts, names: Names, conflict: _Conflict | None, *, returning: bool
) -> Compiled:
    return _listed(sql, facts, names, conflict, count=1, returning=returning)


def _listed(
    sql: Sql, facts: TableFacts, names: Names, conflict: _Conflict | None, *, count: int, returning: bool
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
    sql: Sql, facts: TableFacts, names: Names, conflict: _Conflict | None, *, returning: bool
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
    conflict: _Conflict | None,
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
