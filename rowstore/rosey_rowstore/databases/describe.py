"""Tables as the contract tells them to a plugin."""

from __future__ import annotations

from collections.abc import Mapping

from rosey_rowstore.databases.base import Size
from rosey_rowstore.engine.catalog_types import SERVICE_COLUMNS
from rosey_rowstore.engine.model import Column, Table
from rosey_rowstore.protocol import (
    ColumnDescription,
    DescribeReply,
    IndexDescription,
    TablesReply,
    TableSummary,
)

__all__ = ["describe", "summaries"]


def summaries(sizes: Mapping[str, Size]) -> TablesReply:
    """Return every table with its estimates, by name."""
    return TablesReply(
        tables=[
            TableSummary(table=name, rows=size.rows, bytes=size.bytes) for name, size in sorted(sizes.items())
        ]
    )


def describe(table: Table, size: Size | None) -> DescribeReply:
    """Return a table as the database has it."""
    return DescribeReply(
        table=table.name,
        columns=[_column(table, column) for column in table.columns],
        indexes=[
            IndexDescription(name=index.name, columns=list(index.columns), unique=index.unique)
            for index in table.indexes
        ],
        rows=0 if size is None else size.rows,
        bytes=0 if size is None else size.bytes,
    )


def _column(table: Table, column: Column) -> ColumnDescription:
    owned = table.managed and column.name in SERVICE_COLUMNS
    return ColumnDescription(
        name=column.name,
        type=column.type.value,
        required=not column.nullable,
        default=column.default,
        unique=any(index.unique and index.columns == (column.name,) for index in table.indexes),
        max_length=column.max_length,
        references=column.references,
        primary_key=column.name in table.primary_key,
        writable=not (column.generated or owned),
    )
