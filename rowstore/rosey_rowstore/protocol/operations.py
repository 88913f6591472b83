"""The operations of the contract: where each is reached, what it takes and what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Generic, TypeVar

from attrs import frozen

from rosey_rowstore.protocol import messages as m

__all__ = ["API_VERSION", "DEFAULT_SUBJECT_ROOT", "OPERATIONS", "Operation", "subject_for"]

API_VERSION: Final = "v1"
DEFAULT_SUBJECT_ROOT: Final = "storage"

Request = TypeVar("Request")
Reply = TypeVar("Reply")


@frozen
class Operation(Generic[Request, Reply]):
    """One operation: `tail` is the end of its subject, as `rows.insert`."""

    tail: str
    request: type[Request]
    reply: type[Reply]
    writes: bool


ROWS_INSERT: Final = Operation("rows.insert", m.InsertRequest, m.RowsReply, writes=True)
ROWS_UPSERT: Final = Operation("rows.upsert", m.UpsertRequest, m.RowsReply, writes=True)
ROWS_SELECT: Final = Operation("rows.select", m.SelectRequest, m.PageReply, writes=False)
ROWS_SEARCH: Final = Operation("rows.search", m.SearchRequest, m.PageReply, writes=False)
ROWS_AGGREGATE: Final = Operation("rows.aggregate", m.AggregateRequest, m.AggregateReply, writes=False)
ROWS_UPDATE: Final = Operation("rows.update", m.UpdateRequest, m.RowsReply, writes=True)
ROWS_DELETE: Final = Operation("rows.delete", m.DeleteRequest, m.RowsReply, writes=True)
ROWS_TRANSACT: Final = Operation("rows.transact", m.TransactRequest, m.TransactReply, writes=True)
TABLES_DEFINE: Final = Operation("tables.define", m.DefineRequest, m.ChangesReply, writes=True)
TABLES_LIST: Final = Operation("tables.list", m.ListRequest, m.TablesReply, writes=False)
TABLES_DESCRIBE: Final = Operation("tables.describe", m.DescribeRequest, m.DescribeReply, writes=False)
TABLES_DROP: Final = Operation("tables.drop", m.DropRequest, m.EmptyReply, writes=True)
MIGRATIONS_STATUS: Final = Operation("migrations.status", m.StatusRequest, m.StatusReply, writes=False)
MIGRATIONS_APPLY: Final = Operation("migrations.apply", m.ApplyRequest, m.ApplyReply, writes=True)
MIGRATIONS_ROLLBACK: Final = Operation("migrations.rollback", m.RollbackRequest, m.RollbackReply, writes=True)

OPERATIONS: Final[Mapping[str, Operation[object, object]]] = {
    operation.tail: operation  # type: ignore[misc]  # a table of many request types
    for operation in (
        ROWS_INSERT,
        ROWS_UPSERT,
        ROWS_SELECT,
        ROWS_SEARCH,
        ROWS_AGGREGATE,
        ROWS_UPDATE,
        ROWS_DELETE,
        ROWS_TRANSACT,
        TABLES_DEFINE,
        TABLES_LIST,
        TABLES_DESCRIBE,
        TABLES_DROP,
        MIGRATIONS_STATUS,
        MIGRATIONS_APPLY,
        MIGRATIONS_ROLLBACK,
    )
}
"""Every operation by its tail."""


def subject_for(plugin: str, operation: Operation[Request, Reply], root: str = DEFAULT_SUBJECT_ROOT) -> str:
    """Return the subject on which `plugin` reaches an operation, as `storage.v1.quotes.rows.insert`."""
    return f"{root}.{API_VERSION}.{plugin}.{operation.tail}"
