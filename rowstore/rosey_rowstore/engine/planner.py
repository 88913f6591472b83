"""Requests to plans: the one entrance of the engine; it touches no database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rosey_rowstore.engine.aggregates import plan_aggregate
from rosey_rowstore.engine.changes import plan_delete, plan_update
from rosey_rowstore.engine.inserts import plan_insert, plan_upsert
from rosey_rowstore.engine.model import Dialect, Limits, Result, Table
from rosey_rowstore.engine.plans import Plan
from rosey_rowstore.engine.rows import room_for_rows
from rosey_rowstore.engine.selects import plan_search, plan_select
from rosey_rowstore.engine.sql import PostgresText, Sql
from rosey_rowstore.engine.tables import Cache, TableFacts, find_table
from rosey_rowstore.protocol import (
    AggregateRequest,
    DeleteRequest,
    Fault,
    InsertRequest,
    SearchRequest,
    SelectRequest,
    TransactRequest,
    UpdateRequest,
    UpsertRequest,
)

__all__ = ["Planner", "PostgresText", "tables_of"]

Request = (
    InsertRequest
    | UpsertRequest
    | SelectRequest
    | SearchRequest
    | AggregateRequest
    | UpdateRequest
    | DeleteRequest
    | TransactRequest
)


def tables_of(request: Request) -> tuple[str, ...]:
    """Return the names of the tables that a request touches, each once."""
    if isinstance(request, TransactRequest):
        return tuple(dict.fromkeys(operation.table for operation in request.operations))
    return (request.table,)


class Planner:
    """Plans the requests of every plugin on one database.

    A statement is built once a shape and kept; a later request of the same shape brings its values.
    """

    def __init__(self, dialect: Dialect, text: PostgresText | None = None) -> None:
        self._sql = Sql(dialect, text)
        self._shapes = Cache()
        self._facts = Cache()
        self._plans: dict[type, Callable[[Any, TableFacts, Limits, str], Plan]] = {
            InsertRequest: self._insert,
            UpsertRequest: self._upsert,
            SelectRequest: self._select,
            SearchRequest: self._search,
            AggregateRequest: self._aggregate,
            UpdateRequest: self._update,
            DeleteRequest: self._delete,
        }

    def plan(self, request: Request, tables: Mapping[str, Table], limits: Limits, *, plugin: str) -> Plan:
        """Return what answers a request.

        Args:
            request: Any of the `rows.*` requests.
            tables: The plugin's tables, as reflected.
            limits: The plugin's limits.
            plugin: Whose request it is; shapes and cursors belong to it.

        Raises:
            Fault: The request does not fit the tables or the limits; with its path.
        """
        if isinstance(request, TransactRequest):
            return self._transact(request, tables, limits, plugin)
        table = find_table(tables, request.table)
        return self._plans[type(request)](request, self._facts_of(table, plugin), limits, plugin)

    def _facts_of(self, table: Table, plugin: str) -> TableFacts:
        key = (plugin, table.name, table.generation)
        return self._facts.get(key, lambda: TableFacts(plugin, table, self._sql.dialect))

    def _insert(self, request: InsertRequest, facts: TableFacts, limits: Limits, _: str) -> Plan:
        return plan_insert(self._sql, self._shapes, facts, request, limits)

    def _upsert(self, request: UpsertRequest, facts: TableFacts, limits: Limits, _: str) -> Plan:
        return plan_upsert(self._sql, self._shapes, facts, request, limits)

    def _select(self, request: SelectRequest, facts: TableFacts, limits: Limits, plugin: str) -> Plan:
        return plan_select(self._sql, self._shapes, facts, request, limits, plugin=plugin)

    def _search(self, request: SearchRequest, facts: TableFacts, limits: Limits, plugin: str) -> Plan:
        return plan_search(self._sql, self._shapes, facts, request, limits, plugin=plugin)

    def _aggregate(self, request: AggregateRequest, facts: TableFacts, limits: Limits, _: str) -> Plan:
        return plan_aggregate(self._sql, self._shapes, facts, request, limits)

    def _update(self, request: UpdateRequest, facts: TableFacts, limits: Limits, _: str) -> Plan:
        return plan_update(self._sql, self._shapes, facts, request, limits)

    def _delete(self, request: DeleteRequest, facts: TableFacts, limits: Limits, _: str) -> Plan:
        return plan_delete(self._sql, self._shapes, facts, request, limits)

    def _transact(
        self, request: TransactRequest, tables: Mapping[str, Table], limits: Limits, plugin: str
    ) -> Plan:
        if not request.operations:
            raise Fault("invalid_request", "The transaction has no operations.", path="operations")
        if len(request.operations) > limits.rows_per_insert:
            raise Fault(
                "request_too_large",
                f"The transaction has more than {limits.rows_per_insert} operations.",
                path="operations",
            )
        plans = []
        for index, operation in enumerate(request.operations):
            try:
                plans.append(self.plan(operation, tables, limits, plugin=plugin))
            except Fault as fault:
                raise fault.at(f"operations[{index}]") from None
        return Plan(
            statements=tuple(statement for plan in plans for statement in plan.statements),
            finish=_transact_finisher(plans, room_for_rows(limits)),
            writes=True,
            atomic=True,
            tables=tables_of(request),
            places=tuple(f"operations[{index}]" for index, plan in enumerate(plans) for _ in plan.statements),
        )


def _transact_finisher(plans: Sequence[Plan], room: int) -> Callable[[Sequence[Result]], bytes]:
    def finish(results: Sequence[Result]) -> bytes:
        found: list[bytes] = []
        start = 0
        for index, plan in enumerate(plans):
            end = start + len(plan.statements)
            try:
                found.append(plan.finish(results[start:end]))
            except Fault as fault:
                raise fault.at(f"operations[{index}]") from None
            start = end
        size = sum(map(len, found))
        if size > room:
            raise Fault(
                "reply_too_large",
                f"The returned rows take {size} bytes; a reply holds {room}.",
                hint="Leave returning out where the rows are not needed.",
            )
        return b'{"results":[%b]}' % b",".join(found)

    return finish
