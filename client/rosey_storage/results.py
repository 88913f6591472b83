"""What a read returns: rows, as a page of them or as the groups of an aggregate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attrs import frozen

__all__ = ["Groups", "Row", "RowPage"]

Row = dict[str, Any]


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
