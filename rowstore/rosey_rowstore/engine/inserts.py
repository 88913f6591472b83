"""Inserts and upserts: rows of a request to as few statements as their columns allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rosey_rowstore.engine.insert_statements import Batch, Conflict, Names, insert_statements, shared_insert
from rosey_rowstore.engine.known_inserts import plan_known_insert, remember_insert
from rosey_rowstore.engine.model import Column, Limits, Result, Statement
from rosey_rowstore.engine.plans import Plan
from rosey_rowstore.engine.rows import check_reply, largest_texts, room_for_rows, written_reply
from rosey_rowstore.engine.sets import check_rule
from rosey_rowstore.engine.sql import Sql
from rosey_rowstore.engine.tables import Cache, TableFacts
from rosey_rowstore.engine.values import check_written
from rosey_rowstore.protocol import Fault, InsertRequest, UpsertRequest

__all__ = ["plan_insert", "plan_upsert"]

_ABSENT: Final = object()


def plan_insert(sql: Sql, cache: Cache, facts: TableFacts, request: InsertRequest, limits: Limits) -> Plan:
    """Return the plan of an insert: one statement, unless rows leave different computed defaults out."""
    alone = len(request.rows) == 1
    if alone and (plan := plan_known_insert(sql, facts, request, limits)) is not None:
        return plan
    _check_count(request.rows, limits)
    batches = _batches(sql, facts, request.rows, fills=True)
    plan = _plan(sql, cache, facts, batches, None, request=request, limits=limits)
    if alone and not plan.atomic:
        remember_insert(sql, cache, facts, request, plan=plan, limits=limits)
    return plan


def plan_upsert(sql: Sql, cache: Cache, facts: TableFacts, request: UpsertRequest, limits: Limits) -> Plan:
    """Return the plan of an upsert: one statement for each set of columns that its rows give."""
    _check_count(request.rows, limits)
    key = _check_key(facts, request.key)
    rules = _check_merge(facts, request.merge, key)
    batches = _batches(sql, facts, request.rows, fills=False)
    _check_keys_given(request.rows, key)
    _check_keys_differ(batches, key)
    return _plan(sql, cache, facts, batches, Conflict(key, rules), request=request, limits=limits)


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


def _check_keys_differ(batches: Sequence[Batch], key: Names) -> None:
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


def _batches(sql: Sql, facts: TableFacts, rows: Sequence[Mapping[str, Any]], *, fills: bool) -> list[Batch]:
    """Return the rows by the columns that they give; `fills` writes known defaults out: fewer differ."""
    if len(rows) == 1:
        names = tuple(rows[0])
        return [Batch(names, [0], [_values(sql, facts, rows[0], names, 0)])]
    every = tuple(dict.fromkeys(name for row in rows for name in row))
    _check_names(facts, rows, every)
    found: dict[Names, Batch] = {}
    for place, row in enumerate(rows):
        names = every if len(row) == len(every) else _names(facts, row, every, fills=fills)
        batch = found.get(names)
        if batch is None:
            batch = found[names] = Batch(names, [], [])
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


# batches to a plan


def _plan(
    sql: Sql,
    cache: Cache,
    facts: TableFacts,
    batches: list[Batch],
    conflict: Conflict | None,
    *,
    request: InsertRequest | UpsertRequest,
    limits: Limits,
) -> Plan:
    statements: list[Statement] = []
    places: list[int] = []
    for batch in batches:
        if not batch.rows:
            continue
        statements += insert_statements(sql, cache, facts, batch, conflict, returning=request.returning)
        places += batch.places
    room = room_for_rows(limits)
    tight = request.returning and _may_pass(facts, batches, conflict, len(request.rows), room)
    ordered = len(batches) < 2
    shared = None
    if sql.postgres and len(request.rows) == 1 and conflict is None and not tight:
        shared = shared_insert(sql, cache, facts, batches[0].names, returning=request.returning)
    return Plan(
        statements=tuple(statements),
        finish=_finisher(facts, len(request.rows), None if ordered else places, request.returning, room),
        writes=True,
        atomic=len(statements) != 1 or tight,
        tables=(facts.table.name,),
        shared=shared,
    )


def _may_pass(
    facts: TableFacts, batches: Sequence[Batch], conflict: Conflict | None, count: int, room: int
) -> bool:
    """Return whether the returned rows could be larger than a reply, by the sizes that were given."""
    if facts.default_size is None:
        return True
    if conflict is not None and facts.reader.has_texts:  # what the row held before may come back
        return True
    total = count * (facts.reader.fixed + facts.default_size)
    for batch in batches:
        for row in batch.rows:
            total += largest_texts(row)
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
