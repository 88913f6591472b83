"""Requests and replies of every operation, as values.

Rows, filters and sets stay JSON objects here: what they mean depends on the table, and the engine
checks them against it.
"""

from __future__ import annotations

from typing import Any, Literal

from attrs import field, frozen

__all__ = [
    "AggregateReply",
    "AggregateRequest",
    "AppliedMigration",
    "ApplyReply",
    "ApplyRequest",
    "ChangesReply",
    "ColumnDefinition",
    "ColumnDescription",
    "DefineRequest",
    "DeleteRequest",
    "DescribeReply",
    "DescribeRequest",
    "DropRequest",
    "EmptyReply",
    "IndexDefinition",
    "IndexDescription",
    "InsertRequest",
    "ListRequest",
    "PageReply",
    "PendingMigration",
    "RanMigration",
    "RollbackReply",
    "RollbackRequest",
    "RowsReply",
    "RunningMigration",
    "RunningStep",
    "SearchRequest",
    "SelectRequest",
    "StatusReply",
    "StatusRequest",
    "TableSummary",
    "TablesReply",
    "TransactReply",
    "TransactRequest",
    "UpdateRequest",
    "UpsertRequest",
]

Row = dict[str, Any]
MergeRule = Literal["$set", "$keep", "$inc", "$max", "$min"]


# rows


@frozen(kw_only=True)
class InsertRequest:
    """Rows to add, as one statement."""

    table: str
    rows: list[Row]
    returning: bool = True


@frozen(kw_only=True)
class UpsertRequest:
    """Rows to add, or to merge into the row with the same `key`."""

    table: str
    rows: list[Row]
    key: list[str]
    merge: dict[str, MergeRule] = field(factory=dict)
    returning: bool = True


@frozen(kw_only=True)
class SelectRequest:
    """A page of rows; `columns` None gives all of them, `limit` None 100 or as many as the plugin may."""

    table: str
    where: Row = field(factory=dict)
    columns: list[str] | None = None
    order_by: list[str] = field(factory=list)
    limit: int | None = None
    cursor: str | None = None


@frozen(kw_only=True)
class SearchRequest:
    """A page of rows in which every term of `query` stands; `columns` are those searched in."""

    table: str
    query: str
    columns: list[str] | None = None
    where: Row = field(factory=dict)
    order_by: list[str] = field(factory=list)
    limit: int | None = None
    cursor: str | None = None


@frozen(kw_only=True)
class AggregateRequest:
    """Measures over groups of rows; without `group_by`, over all of them as one row."""

    table: str
    measures: dict[str, dict[str, str]]
    where: Row = field(factory=dict)
    group_by: list[str] = field(factory=list)
    order_by: list[str] = field(factory=list)
    limit: int | None = None


@frozen(kw_only=True)
class UpdateRequest:
    """A change of every row that matches `where`, as one statement."""

    table: str
    where: Row
    set: Row
    max_rows: int | None = None
    all_rows: bool = False
    returning: bool = False


@frozen(kw_only=True)
class DeleteRequest:
    """The removal of every row that matches `where`."""

    table: str
    where: Row
    max_rows: int | None = None
    all_rows: bool = False
    returning: bool = False


@frozen(kw_only=True)
class TransactRequest:
    """Writes that happen all or not at all; each is its request with an `op` beside."""

    operations: list[InsertRequest | UpsertRequest | UpdateRequest | DeleteRequest]


@frozen(kw_only=True)
class RowsReply:
    """What a write did; `rows` is empty unless they were asked for."""

    count: int
    rows: list[Row] = field(factory=list)


@frozen(kw_only=True)
class PageReply:
    """One page; `next_cursor` is None at the end."""

    rows: list[Row]
    next_cursor: str | None = None


@frozen(kw_only=True)
class AggregateReply:
    """The groups; `truncated` when there are more than `limit`."""

    rows: list[Row]
    truncated: bool = False


@frozen(kw_only=True)
class TransactReply:
    """One result an operation, in their order."""

    results: list[RowsReply]


# tables


@frozen(kw_only=True)
class ColumnDefinition:
    """A column as a plugin declares it; `references` names a table, by its `id`."""

    name: str
    type: str
    required: bool = False
    default: Any = None
    unique: bool = False
    max_length: int | None = None
    references: str | None = None


@frozen(kw_only=True)
class IndexDefinition:
    """An index over columns, in their order."""

    columns: list[str]
    unique: bool = False


@frozen(kw_only=True)
class DefineRequest:
    """A table as it should be; additions are made, anything else is a conflict."""

    table: str
    columns: list[ColumnDefinition]
    indexes: list[IndexDefinition] = field(factory=list)
    dry_run: bool = False


@frozen(kw_only=True)
class ListRequest:
    """The tables of the plugin."""


@frozen(kw_only=True)
class DescribeRequest:
    """One table."""

    table: str


@frozen(kw_only=True)
class DropRequest:
    """A table to remove with its rows; `confirm` repeats its name."""

    table: str
    confirm: str


@frozen(kw_only=True)
class ChangesReply:
    """What a definition changed, or would change, one sentence each."""

    changes: list[str]


@frozen(kw_only=True)
class TableSummary:
    """A table; `rows` and `bytes` are the database's own estimates."""

    table: str
    rows: int
    bytes: int


@frozen(kw_only=True)
class TablesReply:
    """The tables of the plugin, by name."""

    tables: list[TableSummary]


@frozen(kw_only=True)
class ColumnDescription:
    """A column as the database has it."""

    name: str
    type: str
    required: bool
    default: Any = None
    unique: bool = False
    max_length: int | None = None
    references: str | None = None
    primary_key: bool = False
    writable: bool = True


@frozen(kw_only=True)
class IndexDescription:
    """An index as the database has it."""

    name: str
    columns: list[str]
    unique: bool


@frozen(kw_only=True)
class DescribeReply:
    """A table as the database has it; `rows` and `bytes` are estimates."""

    table: str
    columns: list[ColumnDescription]
    indexes: list[IndexDescription]
    rows: int
    bytes: int


@frozen(kw_only=True)
class EmptyReply:
    """It is done, and there is nothing to say."""


# migrations


@frozen(kw_only=True)
class StatusRequest:
    """Where the plugin's schema stands."""


@frozen(kw_only=True)
class ApplyRequest:
    """Apply what is pending up to `target`."""

    target: str = "head"
    dry_run: bool = False
    allow_destructive: bool = False


@frozen(kw_only=True)
class RollbackRequest:
    """Go back to `target`, a revision or `base`."""

    target: str
    dry_run: bool = False


@frozen(kw_only=True)
class PendingMigration:
    """A revision that is not applied."""

    revision: str
    message: str


@frozen(kw_only=True)
class AppliedMigration:
    """A revision that is applied; `applied_at` in UTC, `seconds` it took, `sha256` of its file."""

    revision: str
    message: str
    applied_at: str
    seconds: float
    sha256: str


@frozen(kw_only=True)
class RanMigration:
    """A revision that this run applied or rolled back."""

    revision: str
    message: str
    seconds: float


@frozen(kw_only=True)
class RunningStep:
    """A revision of a run under way; `state` is `waiting`, `running` or `done`, `seconds` what it took."""

    revision: str
    message: str
    state: str
    seconds: float | None = None


@frozen(kw_only=True)
class RunningMigration:
    """A run under way: `direction` is `apply` or `rollback`, `who` asked for it, `started_at` in UTC."""

    direction: str
    who: str
    started_at: str
    steps: list[RunningStep]


@frozen(kw_only=True)
class StatusReply:
    """Where the schema stands; `drift` is empty when it is what the migrations made.

    `running` tells of a run that has not ended, whoever began it; nothing of it counts before its end.
    """

    current: str | None
    pending: list[PendingMigration]
    applied: list[AppliedMigration]
    drift: list[str]
    running: RunningMigration | None = None


@frozen(kw_only=True)
class ApplyReply:
    """What was applied, in order; `sql` with `dry_run`."""

    applied: list[RanMigration]
    sql: str | None = None


@frozen(kw_only=True)
class RollbackReply:
    """What was rolled back, in order; `sql` with `dry_run`."""

    rolled_back: list[RanMigration]
    sql: str | None = None
