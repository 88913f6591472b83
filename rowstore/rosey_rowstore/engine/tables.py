"""What the planner needs to know of a table, worked out once, and the bounded cache of shapes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final, TypeVar

from rosey_rowstore.engine.catalog_types import SERVICE_COLUMNS
from rosey_rowstore.engine.filters import Shape, find_column
from rosey_rowstore.engine.model import Column, Dialect, Table
from rosey_rowstore.engine.rows import FIXED_SIZES, RowReader, largest_text
from rosey_rowstore.protocol import Fault, check_identifier, nearest
from rosey_rowstore.protocol.json import dump_json

__all__ = ["Cache", "TableFacts", "find_table"]

T = TypeVar("T")
_MOST_SHAPES: Final = 2048
_NONE: Final[Any] = object()


class Cache:
    """Compiled shapes; those not used lately leave first."""

    def __init__(self, most: int = _MOST_SHAPES) -> None:
        self._most = most
        self._young: dict[Hashable, Any] = {}
        self._old: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what is kept under `key`, made at the first request."""
        # Two generations: what was used since the last change of them stays. Moving each key to the end
        # of one order would cost as much as the look-up itself.
        found: T
        if (found := self._young.get(key, _NONE)) is not _NONE:
            return found
        if (found := self._old.get(key, _NONE)) is _NONE:
            found = make()
        self.put(key, found)
        return found

    def peek(self, key: Hashable) -> Any:
        """Return what is kept under `key`, None when nothing is."""
        if (found := self._young.get(key)) is not None:
            return found
        if (found := self._old.get(key)) is not None:
            self.put(key, found)
        return found

    def put(self, key: Hashable, value: Any) -> None:
        """Keep `value` under `key`."""
        self._young[key] = value
        if len(self._young) * 2 > self._most:
            self._old, self._young = self._young, {}


class TableFacts:
    """A table with what follows from its columns.

    Attributes:
        key: Plugin, table and generation: the beginning of every key of the cache.
        names: The table's name, as plans hold it.
        pages: What selects that differ in values alone need; kept by `known_selects`.
        additions: The same of inserts of a single row; kept by `known_inserts`.
        orders: The orders that were asked for, checked and with the primary key.
        reader: Reads all columns.
        required: Columns that an insert has to give.
        default_size: Bytes that defaulted texts add to a returned row at most; None when unknown.
    """

    __slots__ = (
        "additions",
        "default_size",
        "key",
        "names",
        "orders",
        "pages",
        "reader",
        "required",
        "table",
        "unwritable",
    )

    def __init__(self, plugin: str, table: Table, dialect: Dialect) -> None:
        self.table = table
        self.key = (plugin, table.name, table.generation)
        self.names = (table.name,)
        self.orders = Cache(64)
        self.pages = Cache(256)
        self.additions = Cache(256)
        self.reader = RowReader(table.columns, dialect)
        owned = SERVICE_COLUMNS if table.managed else ()
        self.unwritable: Mapping[str, str] = {
            column.name: "belongs to the service" if column.name in owned else "is made by the database"
            for column in table.columns
            if column.generated or column.name in owned
        }
        self.required = tuple(
            column.name
            for column in table.columns
            if not (column.nullable or column.has_default or column.name in self.unwritable)
        )
        self.default_size = _default_size(table)

    def writable(self, name: Any) -> Column:
        """Return a column that a request may write.

        Raises:
            Fault: `column_not_found` or `invalid_request`, without a path.
        """
        column = self.table.by_name.get(name) or find_column(self.table, name)
        if name in self.unwritable:
            raise Fault(
                "invalid_request",
                f"The column {name} {self.unwritable[name]} and is not written.",
                hint="Leave it out.",
            )
        return column

    def at_most_one(self, shape: Shape) -> bool:
        """Return whether a filter of this shape matches one row at most, by its primary key or an index."""
        leaves = shape[1] if shape[0] == "and" else (shape,)
        equal = {leaf[1] for leaf in leaves if leaf[0] == "eq"}
        if not equal:
            return False
        unique = (index.columns for index in self.table.indexes if index.unique)
        return any(equal.issuperset(columns) for columns in (self.table.primary_key, *unique))


def _default_size(table: Table) -> int | None:
    total = 0
    for column in table.columns:
        if column.has_default and column.type not in FIXED_SIZES:
            if column.default is None:  # an expression: its text may be of any length
                return None
            total += largest_text(dump_json(column.default))
    return total


def find_table(tables: Mapping[str, Table], name: str) -> Table:
    """Return the plugin's table of this name.

    Raises:
        Fault: `invalid_name`, `table_not_found` with the nearest name.
    """
    table = tables.get(name)
    if table is None:
        check_identifier(name, "table", "table")
        near = nearest(name, tables)
        raise Fault(
            "table_not_found",
            f"There is no table {name}" + (f"; did you mean {near!r}?" if near else "."),
            path="table",
            hint="tables.define or a migration makes it.",
        )
    if not table.primary_key:
        raise Fault(
            "table_not_found",
            f"The table {name} is not served.",
            path="table",
            hint="It has no primary key; rows need one to be told apart.",
        )
    return table
