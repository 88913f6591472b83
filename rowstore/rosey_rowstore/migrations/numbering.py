"""Numbers for SQLite's tables and columns, so that a renamed one is told from a new one."""

from __future__ import annotations

import re
from typing import Final

import attrs

from rosey_rowstore.migrations.snapshot import Snapshot, TableState

__all__ = ["REBUILT", "Numbers"]

_NAME: Final = r'["`\[]?(\w+)["`\]]?'
_RENAME_TABLE: Final = re.compile(rf"\s*ALTER\s+TABLE\s+{_NAME}\s+RENAME\s+TO\s+{_NAME}", re.IGNORECASE)
_RENAME_COLUMN: Final = re.compile(
    rf"\s*ALTER\s+TABLE\s+{_NAME}\s+RENAME\s+(?:COLUMN\s+)?(?!TO\b){_NAME}\s+TO\s+{_NAME}", re.IGNORECASE
)
_DROP_TABLE: Final = re.compile(rf"\s*DROP\s+TABLE\s+(?:IF\s+EXISTS\s+)?{_NAME}", re.IGNORECASE)
_DROP_COLUMN: Final = re.compile(rf"\s*ALTER\s+TABLE\s+{_NAME}\s+DROP\s+(?:COLUMN\s+)?{_NAME}", re.IGNORECASE)
REBUILT: Final = "_alembic_tmp_"
"""In front of a table's name while Alembic makes it anew."""


class Numbers:
    """Given at the first snapshot, kept on renames."""

    def __init__(self) -> None:
        self._tables: dict[str, int] | None = None
        self._columns: dict[str, dict[str, int]] = {}
        self._dropped: dict[str, tuple[int | None, dict[str, int]]] = {}
        self._next = 0

    def _number(self) -> int:
        self._next += 1
        return self._next

    def numbered(self, found: Snapshot) -> Snapshot:
        """Return the snapshot with the numbers, new ones for what is new."""
        self._tables = self._tables or {}
        return attrs.evolve(
            found, tables={name: self._numbered_table(name, table) for name, table in found.tables.items()}
        )

    def _numbered_table(self, name: str, table: TableState) -> TableState:
        assert self._tables is not None  # noqa: S101 - made by `numbered`
        number = self._tables.setdefault(name, self._number())
        columns = self._columns.setdefault(name, {})
        return attrs.evolve(
            table,
            number=number,
            columns={
                column: attrs.evolve(state, number=columns.setdefault(column, self._number()))
                for column, state in table.columns.items()
            },
        )

    def note(self, statement: str) -> None:
        """Follow what a statement renames or drops."""
        if self._tables is None:
            return
        if found := _RENAME_TABLE.match(statement):
            self._rename_table(found[1], found[2])
        elif found := _RENAME_COLUMN.match(statement):
            self.rename_column(found[1], found[2], found[3])
        elif found := _DROP_TABLE.match(statement):
            self._dropped[found[1]] = (self._tables.pop(found[1], None), self._columns.pop(found[1], {}))
        elif found := _DROP_COLUMN.match(statement):
            self.drop_column(found[1], found[2])

    def _rename_table(self, old: str, new: str) -> None:
        assert self._tables is not None  # noqa: S101 - checked by `note`
        if old == REBUILT + new and new in self._dropped:  # Alembic rebuilt the table
            number, columns = self._dropped.pop(new)
        else:
            number, columns = self._tables.pop(old, None), self._columns.pop(old, {})
        if number is not None:
            self._tables[new] = number
        self._columns[new] = columns

    def rename_column(self, table: str, old: str, new: str) -> None:
        """Let a column keep its number under its new name."""
        columns = self._columns.get(table, {})
        if old in columns and old != new:
            columns[new] = columns.pop(old)

    def drop_column(self, table: str, column: str) -> None:
        """Let the next column of this name be another."""
        self._columns.get(table, {}).pop(column, None)
