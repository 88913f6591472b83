"""One table of the plugin: what an author calls, each a request of the wire contract and its reply."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Literal, overload

from attrs import field, frozen

from rosey_kvstore.errors import TypeMismatch
from rosey_rowstore.protocol import (
    AggregateRequest,
    DescribeReply,
    DescribeRequest,
    DropRequest,
    SearchRequest,
    SelectRequest,
    operations,
)
from rosey_storage.calls import Calls
from rosey_storage.definitions import Column, ColumnKind, Index, define_request
from rosey_storage.requests import (
    MergeRule,
    delete_request,
    given,
    insert_request,
    measures_of,
    names,
    optional_members,
    optional_names,
    update_request,
    upsert_request,
)
from rosey_storage.results import Groups, Row, RowPage

__all__ = ["Column", "ColumnKind", "Groups", "Index", "MergeRule", "Row", "RowPage", "Table"]

_PLAIN_KEYS: Final = (dict, list, tuple, set)


@frozen
class Table:
    """One table of the plugin; made by `Storage.table`, and no request is sent until a method is called.

    Every method takes `timeout=`, the seconds it may take, and every write `idempotency_key=`, a name of
    the write: the service does what carries the same name once within 10 minutes.

    Attributes:
        name: The table's name.
    """

    name: str
    _calls: Calls = field(repr=False)

    # Definition

    async def define(
        self,
        columns: Sequence[Column],
        *,
        indexes: Sequence[Index] = (),
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> list[str]:
        """Make the table, or add what it lacks; return one sentence a change, none when it is as asked.

        Raises:
            SchemaConflict: The table differs in more than additions; nothing is done.
        """
        reply = await self._calls(
            operations.TABLES_DEFINE,
            lambda: define_request(self.name, columns, indexes, dry_run=dry_run),
            timeout=timeout,
        )
        return reply.changes

    async def describe(self, *, timeout: float | None = None) -> DescribeReply:
        """Return the table as the database has it; rows and bytes are estimates."""
        return await self._calls(
            operations.TABLES_DESCRIBE, lambda: DescribeRequest(table=self.name), timeout=timeout
        )

    async def drop(self, *, confirm: str, timeout: float | None = None) -> None:
        """Remove the table with its rows; `confirm` repeats its name."""
        await self._calls(
            operations.TABLES_DROP, lambda: DropRequest(table=self.name, confirm=confirm), timeout=timeout
        )

    # Reading

    async def get(self, id: Any, *, timeout: float | None = None) -> Row | None:  # noqa: A002 - the column's name
        """Return the row with this `id`, or None."""
        if id is None or isinstance(id, _PLAIN_KEYS):
            raise TypeMismatch(
                f"get() takes the id of a row, not {'None' if id is None else f'a {type(id).__name__}'}.",
                plugin=self._calls.plugin,
                operation=operations.ROWS_SELECT.tail,
                hint="select(where=…) finds rows by other columns.",
            )
        reply = await self._calls(
            operations.ROWS_SELECT,
            lambda: SelectRequest(table=self.name, where={"id": id}, limit=1),
            timeout=timeout,
        )
        return reply.rows[0] if reply.rows else None

    async def select(
        self,
        where: Mapping[str, Any] | None = None,
        *,
        columns: Sequence[str] | None = None,
        order_by: Sequence[str] = (),
        limit: int | None = None,
        cursor: str | None = None,
        timeout: float | None = None,
    ) -> RowPage:
        """Return a page of the rows that match.

        Args:
            where: The filter; all rows without one.
            columns: The columns to return; all of them without.
            order_by: Columns, `-` in front for falling; the primary key comes last by itself.
            limit: Rows a page, 1 to 1000; 100 unless given.
            cursor: The `next_cursor` of the page before, of the same query.
            timeout: Seconds the call may take.
        """

        def request() -> SelectRequest:
            return SelectRequest(
                table=self.name,
                where=optional_members(where, "where"),
                columns=optional_names(columns, "columns"),
                order_by=names(order_by, "order_by"),
                cursor=cursor,
                **given(limit=limit),
            )

        reply = await self._calls(operations.ROWS_SELECT, request, timeout=timeout)
        return RowPage(reply.rows, reply.next_cursor)

    async def rows(
        self,
        where: Mapping[str, Any] | None = None,
        *,
        columns: Sequence[str] | None = None,
        order_by: Sequence[str] = (),
        page_size: int | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Row]:
        """Yield every row that matches, page by page; `timeout` is for each page.

        Rows inserted meanwhile are met when they sort behind the place that was reached.
        """
        cursor = None
        while True:
            page = await self.select(
                where, columns=columns, order_by=order_by, limit=page_size, cursor=cursor, timeout=timeout
            )
            for row in page.rows:
                yield row
            cursor = page.next_cursor
            if cursor is None:
                return

    async def search(
        self,
        query: str,
        *,
        columns: Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        order_by: Sequence[str] = (),
        limit: int | None = None,
        cursor: str | None = None,
        timeout: float | None = None,
    ) -> RowPage:
        """Return a page of the rows in which every word of `query` stands, case aside.

        Args:
            query: Words with blanks between, each taken literally.
            columns: The columns to search; all string and text columns without.
            where: A filter beside it.
            order_by: As in `select`.
            limit: As in `select`.
            cursor: As in `select`.
            timeout: Seconds the call may take.
        """

        def request() -> SearchRequest:
            return SearchRequest(
                table=self.name,
                query=query,
                columns=optional_names(columns, "columns"),
                where=optional_members(where, "where"),
                order_by=names(order_by, "order_by"),
                cursor=cursor,
                **given(limit=limit),
            )

        reply = await self._calls(operations.ROWS_SEARCH, request, timeout=timeout)
        return RowPage(reply.rows, reply.next_cursor)

    async def aggregate(
        self,
        *,
        measures: Mapping[str, Mapping[str, str]],
        where: Mapping[str, Any] | None = None,
        group_by: Sequence[str] = (),
        order_by: Sequence[str] = (),
        limit: int | None = None,
        timeout: float | None = None,
    ) -> Groups:
        """Return measures over the rows that match, a row a group; without `group_by` one row for all.

        Args:
            measures: As `{"n": {"$count": "*"}, "best": {"$max": "score"}}`.
            where: The filter.
            group_by: The columns that make a group.
            order_by: Grouped columns or measures, `-` in front for falling.
            limit: Groups to return, 1 to 1000; 100 unless given.
            timeout: Seconds the call may take.
        """

        def request() -> AggregateRequest:
            return AggregateRequest(
                table=self.name,
                measures=measures_of(measures),
                where=optional_members(where, "where"),
                group_by=names(group_by, "group_by"),
                order_by=names(order_by, "order_by"),
                **given(limit=limit),
            )

        reply = await self._calls(operations.ROWS_AGGREGATE, request, timeout=timeout)
        return Groups(reply.rows, reply.truncated)

    # Writing

    async def insert(
        self, row: Mapping[str, Any], *, timeout: float | None = None, idempotency_key: str | None = None
    ) -> Row:
        """Add a row and return it as stored, with what the service filled in."""
        reply = await self._calls(
            operations.ROWS_INSERT,
            lambda: insert_request(self.name, [row]),
            timeout=timeout,
            idempotency_key=idempotency_key,
        )
        return reply.rows[0]

    @overload
    async def insert_many(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        returning: Literal[False] = False,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> int: ...
    @overload
    async def insert_many(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        returning: Literal[True],
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> list[Row]: ...
    async def insert_many(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        returning: bool = False,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> int | list[Row]:
        """Add rows as one statement, all or none; return their count, or with `returning` the rows."""
        reply = await self._calls(
            operations.ROWS_INSERT,
            lambda: insert_request(self.name, rows, returning=returning),
            timeout=timeout,
            idempotency_key=idempotency_key,
        )
        return reply.rows if returning else reply.count

    async def upsert(
        self,
        row: Mapping[str, Any],
        *,
        key: Sequence[str],
        merge: Mapping[str, MergeRule] | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> Row:
        """Add a row, or merge it into the one with the same `key`; return it as stored.

        Args:
            row: The values.
            key: Columns under a unique index.
            merge: How a column meets what is there: `$set` (the rule of columns not named here), `$keep`,
                `$inc`, `$max` or `$min`.
            timeout: Seconds the call may take.
            idempotency_key: A name of this write.
        """
        reply = await self._calls(
            operations.ROWS_UPSERT,
            lambda: upsert_request(self.name, [row], key, merge),
            timeout=timeout,
            idempotency_key=idempotency_key,
        )
        return reply.rows[0]

    @overload
    async def upsert_many(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        key: Sequence[str],
        merge: Mapping[str, MergeRule] | None = None,
        returning: Literal[False] = False,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> int: ...
    @overload
    async def upsert_many(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        key: Sequence[str],
        merge: Mapping[str, MergeRule] | None = None,
        returning: Literal[True],
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> list[Row]: ...
    async def upsert_many(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        key: Sequence[str],
        merge: Mapping[str, MergeRule] | None = None,
        returning: bool = False,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> int | list[Row]:
        """Upsert rows as one statement, all or none; return how many were given, or the rows."""
        reply = await self._calls(
            operations.ROWS_UPSERT,
            lambda: upsert_request(self.name, rows, key, merge, returning=returning),
            timeout=timeout,
            idempotency_key=idempotency_key,
        )
        return reply.rows if returning else reply.count

    @overload
    async def update(
        self,
        where: Mapping[str, Any],
        set: Mapping[str, Any],
        *,
        max_rows: int | None = None,
        all_rows: bool = False,
        returning: Literal[False] = False,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> int: ...
    @overload
    async def update(
        self,
        where: Mapping[str, Any],
        set: Mapping[str, Any],
        *,
        max_rows: int | None = None,
        all_rows: bool = False,
        returning: Literal[True],
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> list[Row]: ...
    async def update(
        self,
        where: Mapping[str, Any],
        set: Mapping[str, Any],  # noqa: A002 - the contract's word
        *,
        max_rows: int | None = None,
        all_rows: bool = False,
        returning: bool = False,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> int | list[Row]:
        """Change every row that matches, as one statement; return the count, or with `returning` the rows.

        Args:
            where: The filter; an empty one is refused unless `all_rows` is true.
            set: Values, or operators as `{"score": {"$inc": 1}}`.
            max_rows: More matches than this are `TooManyRows`, and nothing is changed.
            all_rows: An empty filter is meant.
            returning: Return the changed rows.
            timeout: Seconds the call may take.
            idempotency_key: A name of this write.
        """
        reply = await self._calls(
            operations.ROWS_UPDATE,
            lambda: update_request(self.name, where, set, max_rows, all_rows=all_rows, returning=returning),
            timeout=timeout,
            idempotency_key=idempotency_key,
        )
        return reply.rows if returning else reply.count

    @overload
    async def delete(
        self,
        where: Mapping[str, Any],
        *,
        max_rows: int | None = None,
        all_rows: bool = False,
        returning: Literal[False] = False,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> int: ...
    @overload
    async def delete(
        self,
        where: Mapping[str, Any],
        *,
        max_rows: int | None = None,
        all_rows: bool = False,
        returning: Literal[True],
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> list[Row]: ...
    async def delete(
        self,
        where: Mapping[str, Any],
        *,
        max_rows: int | None = None,
        all_rows: bool = False,
        returning: bool = False,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> int | list[Row]:
        """Remove every row that matches; arguments and result as in `update`."""
        reply = await self._calls(
            operations.ROWS_DELETE,
            lambda: delete_request(self.name, where, max_rows, all_rows=all_rows, returning=returning),
            timeout=timeout,
            idempotency_key=idempotency_key,
        )
        return reply.rows if returning else reply.count
