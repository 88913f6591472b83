"""A table's definition as an author writes it: columns and indexes, made into the request that defines it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import attrs
from attrs import field, frozen

from rosey_kvstore.errors import TypeMismatch
from rosey_rowstore.protocol import ColumnDefinition, DefineRequest, IndexDefinition
from rosey_storage.requests import sequence

__all__ = ["Column", "ColumnKind", "Index", "define_request"]

ColumnKind = Literal[
    "string", "text", "integer", "float", "decimal", "boolean", "datetime", "date", "uuid", "json"
]


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


def define_request(
    table: str, columns: Sequence[Column], indexes: Sequence[Index], *, dry_run: bool
) -> DefineRequest:
    """Return the request that makes the table, or adds what it lacks.

    Raises:
        TypeMismatch: What is listed are no columns or indexes.
    """
    return DefineRequest(
        table=table,
        columns=[_column(*item) for item in enumerate(sequence(columns, "columns", "Column"))],
        indexes=[_index(*item) for item in enumerate(sequence(indexes, "indexes", "Index"))],
        dry_run=dry_run,
    )


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
