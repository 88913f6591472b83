"""A plugin's tables: what an author writes, turned into the requests of the wire contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, overload

import attrs
from attrs import field, frozen

from rosey_kvstore.errors import TypeMismatch
from rosey_rowstore.protocol import (
    AggregateRequest,
    ColumnDefinition,
    DefineRequest,
    DescribeReply,
    DescribeRequest,
    DropRequest,
    IndexDefinition,
    SearchRequest,
    SelectRequest,
    operations,
)
from rosey_storage.calls import Calls
from rosey_storage.requests import (
    delete_request,
    insert_request,
    members,
    names,
    optional_members,
    optional_names,
    sequence,
    update_request,
    upsert_request,
)

__all__ = ["Column", "ColumnKind", "Groups", "Index", "MergeRule", "Row", "RowPage", "Table"]

Row = dict[str, Any]
ColumnKind = Literal[
    "string", "text", "integer", "float", "decimal", "boolean", "datetime", "date", "uuid", "json"
]
MergeRule = Literal["$set", "$keep", "$inc", "$max", "$min"]

_PLAIN_KEYS: Final = (dict, list, tuple, set)


@frozen
class Column:
    """A column to define.

    Attributes:
        name: `[a-z][a-z0-9_]{0,62}`; `id`, `created_at` and `updated_at` are the service's.
        type: One of the contract's types.
        required: Null is refused.
        default: What an insert without the column stores.
        unique: No value stands twice; nulls may.
        max_length: Code points that a `string` takes, 255 unless given.
        references: The table whose `id` this column names.
    """

    name: str
    type: ColumnKind
    required: bool = field(default=False, kw_only=True)
    default: Any = field(default=None, kw_only=True)
    unique: bool = field(default=False, kw_only=True)
    max_length: int | None = field(default=None, kw_only=True)
    references: str | None = field(default=None, kw_only=True)


@frozen(init=False)
class Index:
    """An index over columns, in their order: `Index("by", "score")`."""

    columns: tuple[str, ...]
    unique: bool

    def __init__(self, *columns: str, unique: bool = False) -> None:
        self.__attrs_init__(columns, unique)


@frozen
class RowPage:
    """A page of rows; iterate over it, or over its `rows`.

    Attributes:
        rows: The rows, in order.
        next_cursor: What gives the next page; None at the end.
    """

    rows: list[Row]
    next_cursor: str | None = None

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


@frozen
class Groups:
    """The rows of an aggregate; iterate over it, or over its `rows`.

    Attributes:
        rows: One row a group.
        truncated: There are more groups than `limit`.
    """

    rows: list[Row]
    truncated: bool = False

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


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

        def request() -> DefineRequest:
            return DefineRequest(
                table=self.name,
                columns=[_column(*item) for item in enumerate(sequence(columns, "columns", "Column"))],
                indexes=[_index(*item) for item in enumerate(sequence(indexes, "indexes", "Index"))],
                dry_run=dry_run,
            )

        return (await self._calls(operations.TABLES_DEFINE, request, timeout=timeout)).changes

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
                **_given(limit=limit),
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
                **_given(limit=limit),
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
                measures=_measures(measures),
                where=optional_members(where, "where"),
                group_by=names(group_by, "group_by"),
                order_by=names(order_by, "order_by"),
                **_given(limit=limit),
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


def _column(place: int, column: Any) -> ColumnDefinition:
    if not isinstance(column, Column):
        raise TypeMismatch(
            f"columns takes Column objects, not {type(column).__name__}.", path=f"columns[{place}]"
        )
    return ColumnDefinition(**attrs.asdict(column, recurse=False))


def _index(place: int, index: Any) -> IndexDefinition:
    if not isinstance(index, Index):
        raise TypeMismatch(
            f"indexes takes Index objects, not {type(index).__name__}.",
            path=f"indexes[{place}]",
            hint='As Index("by", "score").',
        )
    return IndexDefinition(columns=list(index.columns), unique=index.unique)


def _measures(measures: Any) -> dict[str, dict[str, str]]:
    found = members(measures, "measures")
    return {name: members(measure, f"measures.{name}") for name, measure in found.items()}


def _given(*, limit: int | None) -> dict[str, Any]:
    """Return the members that were given; the service has the defaults of the others."""
    return {} if limit is None else {"limit": limit}
