"""Filter shapes to SQL conditions.

A condition is true, or false, or null where a null was compared; at the top, under AND and under OR null
counts as false. Only a negation would tell them apart, so it asks whether the condition *is not true*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import sqlalchemy as sa

from rosey_rowstore.engine.filters import Shape
from rosey_rowstore.engine.model import Column, Table
from rosey_rowstore.engine.sql import Expression, Sql, literal

__all__ = ["Conditions"]

_COMPARE: Final[Mapping[str, Callable[[Expression, Expression], Expression]]] = {
    "eq": lambda found, value: found == value,
    "gt": lambda found, value: found > value,
    "gte": lambda found, value: found >= value,
    "lt": lambda found, value: found < value,
    "lte": lambda found, value: found <= value,
}


class Conditions:
    """Builds the condition of one filter; `positions` numbers its values as the parser listed them."""

    def __init__(self, sql: Sql, table: Table, clause: sa.FromClause, positions: Iterator[int]) -> None:
        self._sql = sql
        self._table = table
        self._clause = clause
        self._positions = positions

    def build(self, shape: Shape) -> Expression:
        """Return the condition of a shape."""
        kind = shape[0]
        if kind == "and":
            return sa.and_(sa.true(), *[self.build(member) for member in shape[1]])
        if kind == "or":
            return sa.or_(sa.false(), *[self.build(member) for member in shape[1]])
        if kind == "not":
            return self._not(shape[1])
        if kind == "never":
            return literal("1 = 0")
        return self._leaf(kind, self._table.by_name[shape[1]])

    def _not(self, shape: Shape) -> Expression:
        if shape[0] == "null":
            return self._clause.c[shape[1]].is_not(None)
        return self.build(shape).is_not(sa.true())

    def _leaf(self, kind: str, column: Column) -> Expression:
        sql, found = self._sql, self._clause.c[column.name]
        if kind == "null":
            return found.is_(None)
        if kind in _COMPARE:
            value = sql.compared(column, next(self._positions))
            return _COMPARE[kind](sql.comparable(column, found), value)
        if kind == "in":
            return sql.is_one_of(column, found, next(self._positions))
        return self._pattern(kind, sql.text(column, found), next(self._positions))

    def _pattern(self, kind: str, found: Expression, position: int) -> Expression:
        sql = self._sql
        value = sql.text_parameter(position)
        folds = kind in ("ilike", "icontains")
        text = sql.folded(found) if folds else found
        if sql.postgres:
            return text.like(sql.folded(value) if folds else value)
        if kind in ("like", "ilike"):
            return text.op("GLOB", is_comparison=True)(value)
        if kind == "startswith":
            return sa.func.substr(text, literal("1"), sa.func.length(value)) == value
        return sa.func.instr(text, value) > literal("0")
