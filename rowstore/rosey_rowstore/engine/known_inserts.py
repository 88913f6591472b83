"""Inserts of a row like one before: what that one left behind, so that the next brings its values alone.

Two are alike that give the same columns in the same order. A value that does not fit is planned from the
beginning, which has the words for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rosey_rowstore.engine.codecs import writer_for
from rosey_rowstore.engine.insert_statements import now_values, single_insert
from rosey_rowstore.engine.model import Limits, Result, Statement
from rosey_rowstore.engine.plans import Plan
from rosey_rowstore.engine.rows import largest_texts, room_for_rows
from rosey_rowstore.engine.sharing import SharedInsert
from rosey_rowstore.engine.sql import Compiled, Sql
from rosey_rowstore.engine.tables import Cache, TableFacts
from rosey_rowstore.protocol import Fault, InsertRequest

__all__ = ["plan_known_insert", "remember_insert"]


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


def plan_known_insert(sql: Sql, facts: TableFacts, request: InsertRequest, limits: Limits) -> Plan | None:
    """Return the plan of a row like one before; None where there was none, or a value does not fit."""
    (row,) = request.rows
    known: _Known | None = facts.additions.peek((request.returning, *row))
    if known is None or known.limits is not limits:
        return None
    try:
        values = [write(value) for write, value in zip(known.writers, row.values(), strict=True)]
    except Fault:
        return None  # it is said with its place
    if known.room is not None and largest_texts(values) > known.room:
        return None
    if not sql.postgres:
        values += now_values(sql)
    return Plan(
        statements=(Statement(known.one.sql, known.one.bind(values)),),
        finish=known.finish,
        writes=True,
        atomic=False,
        tables=facts.names,
        shared=known.shared,
    )


def remember_insert(
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
        single_insert(sql, cache, facts, names, None, returning=request.returning),
        room,
        plan.finish,
        plan.shared,  # type: ignore[arg-type]  # an insert's
    )
    facts.additions.put((request.returning, *names), known)
