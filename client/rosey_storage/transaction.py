"""A transaction: writes collected while its block runs, sent as one request when it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from attrs import define, field, frozen

from rosey_kvstore.errors import InvalidRequest, StorageError
from rosey_rowstore.protocol import (
    DeleteRequest,
    Fault,
    InsertRequest,
    RowsReply,
    TransactRequest,
    UpdateRequest,
    UpsertRequest,
    check_identifier,
    operations,
)
from rosey_storage.calls import Calls
from rosey_storage.faults import error_from
from rosey_storage.requests import (
    MergeRule,
    delete_request,
    insert_request,
    update_request,
    upsert_request,
)
from rosey_storage.results import Row

__all__ = ["Transaction", "TransactionTable", "Written"]

Write = InsertRequest | UpsertRequest | UpdateRequest | DeleteRequest
Made = TypeVar("Made")


@define
class Written:
    """What one write of a transaction did, known once the block has ended."""

    _plugin: str = field(repr=False)
    _reply: RowsReply | None = field(default=None, init=False)

    @property
    def count(self) -> int:
        """The rows that it touched."""
        return self._known.count

    @property
    def rows(self) -> list[Row]:
        """The rows, where they were asked for."""
        return self._known.rows

    @property
    def row(self) -> Row | None:
        """The first of the rows, None when there is none."""
        return self.rows[0] if self.rows else None

    @property
    def _known(self) -> RowsReply:
        if self._reply is None:
            raise InvalidRequest(
                "The transaction has no results: it is not sent yet, or it failed.",
                plugin=self._plugin,
                operation=operations.ROWS_TRANSACT.tail,
                hint="Read the result after the `async with` block.",
            )
        return self._reply


@define
class Transaction:
    """Writes that happen all or not at all, in the order given; made by `Storage.transaction`.

    The block only collects: nothing is sent before it ends, and nothing at all when it raises. So what it
    does cannot depend on what another write of it did; reads stand outside.
    """

    _calls: Calls = field(repr=False)
    _timeout: float | None = None
    _idempotency_key: str | None = None
    _writes: list[Write] = field(factory=list, init=False, repr=False)
    _results: list[Written] = field(factory=list, init=False, repr=False)
    _state: str = field(default="not begun", init=False)

    @property
    def results(self) -> list[Written]:
        """One result a write, in their order."""
        return list(self._results)

    def table(self, name: str) -> TransactionTable:
        """Return a table whose writes belong to this transaction."""
        try:
            return TransactionTable(check_identifier(name, "table"), self)
        except Fault as fault:
            raise error_from(
                fault, plugin=self._calls.plugin, operation=operations.ROWS_TRANSACT.tail
            ) from fault

    async def __aenter__(self) -> Self:
        if self._state != "not begun":
            raise self._misused(f"A transaction is used once; this one is {self._state}.")
        self._state = "open"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._state = "over"
        if kind is not None or not self._writes:
            return
        reply = await self._calls(
            operations.ROWS_TRANSACT,
            lambda: TransactRequest(operations=self._writes),
            timeout=self._timeout,
            idempotency_key=self._idempotency_key,
        )
        for written, result in zip(self._results, reply.results, strict=True):
            written._reply = result  # noqa: SLF001 - the two classes are one mechanism

    def _add(self, build: Callable[[], Write]) -> Written:
        if self._state != "open":
            raise self._misused(f"The transaction is {self._state}.")
        try:
            self._writes.append(build())
        except StorageError as error:
            error.plugin, error.operation = self._calls.plugin, operations.ROWS_TRANSACT.tail
            error.path = f"operations[{len(self._writes)}]" + (f".{error.path}" if error.path else "")
            raise
        written = Written(self._calls.plugin)
        self._results.append(written)
        return written

    def _misused(self, message: str) -> InvalidRequest:
        return InvalidRequest(
            message,
            plugin=self._calls.plugin,
            operation=operations.ROWS_TRANSACT.tail,
            hint="As `async with storage.transaction() as tx: tx.table(…).insert(…)`.",
        )


@frozen
class TransactionTable:
    """One table inside a transaction: the writes of `Table`, collected instead of sent.

    They are no coroutines: `tx.table("a").insert(…)` has no `await`.
    """

    name: str
    _transaction: Transaction = field(repr=False)

    def insert(self, row: Mapping[str, Any]) -> Written:
        """Add a row; `Written.row` is the row as stored."""
        return self._add(lambda: insert_request(self.name, [row]))

    def insert_many(self, rows: Sequence[Mapping[str, Any]], *, returning: bool = False) -> Written:
        """Add rows."""
        return self._add(lambda: insert_request(self.name, rows, returning=returning))

    def upsert(
        self,
        row: Mapping[str, Any],
        *,
        key: Sequence[str],
        merge: Mapping[str, MergeRule] | None = None,
    ) -> Written:
        """Add a row, or merge it into the one with the same `key`; `Written.row` is the row as stored."""
        return self._add(lambda: upsert_request(self.name, [row], key, merge))

    def upsert_many(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        key: Sequence[str],
        merge: Mapping[str, MergeRule] | None = None,
        returning: bool = False,
    ) -> Written:
        """Upsert rows."""
        return self._add(lambda: upsert_request(self.name, rows, key, merge, returning=returning))

    def update(
        self,
        where: Mapping[str, Any],
        set: Mapping[str, Any],  # noqa: A002 - the contract's word
        *,
        max_rows: int | None = None,
        all_rows: bool = False,
        returning: bool = False,
    ) -> Written:
        """Change every row that matches."""
        return self._add(
            lambda: update_request(self.name, where, set, max_rows, all_rows=all_rows, returning=returning)
        )

    def delete(
        self,
        where: Mapping[str, Any],
        *,
        max_rows: int | None = None,
        all_rows: bool = False,
        returning: bool = False,
    ) -> Written:
        """Remove every row that matches."""
        return self._add(
            lambda: delete_request(self.name, where, max_rows, all_rows=all_rows, returning=returning)
        )

    def _add(self, build: Callable[[], Write]) -> Written:
        return self._transaction._add(build)  # noqa: SLF001 - the two classes are one mechanism
