"""Filters: JSON against a table's columns, to a shape without values and the values beside it.

Two requests whose filters differ in their values alone have the same shape, and share one statement.
A shape is a tuple: `("and", (shape, …))`, `("or", (shape, …))`, `("not", shape)`, `("never",)`, or a leaf
`(kind, column)` that takes one value (`null` none). Negations are built from leaves by `("not", …)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rosey_rowstore.engine.codecs import Codec
from rosey_rowstore.engine.model import Column, ColumnType, Dialect, Table
from rosey_rowstore.engine.texts import check_pattern, check_text, escape_like, fold, glob_from_like
from rosey_rowstore.engine.values import ORDERED, TEXTUAL, check_value
from rosey_rowstore.protocol import Fault, nearest

__all__ = ["DEEPEST", "LONGEST_LIST", "MOST_TERMS", "FilterParser", "Shape", "find_column"]

Shape = tuple[Any, ...]

DEEPEST: Final = 16
MOST_TERMS: Final = 200
LONGEST_LIST: Final = 1000

_GROUPS: Final = ("$and", "$or", "$not")
_COMPARISONS: Final = {"$gt": "gt", "$gte": "gte", "$lt": "lt", "$lte": "lte"}
_PATTERNS: Final = ("$like", "$ilike", "$contains", "$icontains", "$startswith")
_OPERATORS: Final = ("$eq", "$ne", *_COMPARISONS, "$in", "$nin", *_PATTERNS, "$null")
_NEVER: Final[Shape] = ("never",)


def find_column(table: Table, name: Any, path: str | None = None) -> Column:
    """Return the table's column of this name.

    Raises:
        Fault: `column_not_found` with the nearest name, `invalid_request` for what is no name.
    """
    if type(name) is not str:
        raise Fault("invalid_request", f"{name!r} is no column name.", path=path)
    column = table.by_name.get(name)
    if column is None:
        near = nearest(name, table.by_name)
        raise Fault(
            "column_not_found",
            f"The table {table.name} has no column {name[:80]!r}"
            + (f"; did you mean {near!r}?" if near else "."),
            path=path,
            hint="Its columns are " + ", ".join(table.by_name) + ".",
        )
    return column


class FilterParser:
    """Reads one filter of one request; `values` grows in the order in which the shape takes them."""

    __slots__ = ("_codec", "_postgres", "_table", "_terms", "values")

    def __init__(self, table: Table, dialect: Dialect, codec: Codec) -> None:
        self._table = table
        self._codec = codec
        self._postgres = dialect is Dialect.POSTGRES
        self._terms = 0
        self.values: list[Any] = []

    def parse(self, where: Mapping[str, Any]) -> Shape:
        """Return the shape of a filter; an empty one matches everything.

        Raises:
            Fault: With a path that begins at `where`.
        """
        try:
            return self._group(where, 0)
        except Fault as fault:
            raise fault.at("where") from None

    def _group(self, group: Mapping[str, Any], depth: int) -> Shape:
        found: list[Shape] = []
        by_name = self._table.by_name
        for name, operand in group.items():
            try:
                column = by_name.get(name)
                if column is not None:
                    self._column(column, operand, found)
                elif name[:1] == "$":
                    found.append(self._logic(name, operand, depth + 1))
                else:
                    find_column(self._table, name)
            except Fault as fault:
                raise fault.at(name) from None
        return found[0] if len(found) == 1 else ("and", tuple(found))

    def _logic(self, name: str, operand: Any, depth: int) -> Shape:
        if name not in _GROUPS:
            raise _unknown(name, (*_GROUPS, *_OPERATORS))
        if depth > DEEPEST:
            raise Fault("request_too_large", f"The filter nests deeper than {DEEPEST} levels.")
        if name == "$not":
            return ("not", self._member(operand, depth))
        if type(operand) is not list:
            raise Fault("invalid_request", f"{name} takes a list of filters.")
        if not operand:
            raise Fault("invalid_request", f"{name} takes at least one filter.", hint=_EMPTY_HINT)
        members = []
        for index, member in enumerate(operand):
            try:
                members.append(self._member(member, depth))
            except Fault as fault:
                raise fault.at(f"[{index}]") from None
        return (name[1:], tuple(members))

    def _member(self, operand: Any, depth: int) -> Shape:
        if type(operand) is not dict:
            raise Fault("invalid_request", "A filter is an object.")
        if not operand:
            raise Fault("invalid_request", "A filter inside a group is not empty.", hint=_EMPTY_HINT)
        return self._group(operand, depth)

    def _column(self, column: Column, operand: Any, found: list[Shape]) -> None:
        if type(operand) is not dict or (
            column.type is ColumnType.JSON and not any(name[:1] == "$" for name in operand)
        ):
            found.append(self._term(column, "$eq", operand))
            return
        if not operand:
            raise Fault("invalid_request", f"The filter on {column.name} is empty.", hint=_EMPTY_HINT)
        for name, value in operand.items():
            if name not in _OPERATORS:
                if not any(key[:1] == "$" for key in operand):
                    check_value(column, operand)  # says what the column takes
                unknown = (key for key in operand if key[:1] == "$" and key not in _OPERATORS)
                raise _unknown(next(unknown, name), _OPERATORS)
            found.append(self._term(column, name, value))

    def _term(self, column: Column, operator: str, operand: Any) -> Shape:
        self._terms += 1
        if self._terms > MOST_TERMS:
            raise Fault("request_too_large", f"The filter has more than {MOST_TERMS} terms.")
        if operator == "$eq":
            return self._equal(column, operand)
        if operator == "$ne":
            return ("not", self._equal(column, operand))
        if operator in _COMPARISONS:
            return self._compare(column, operator, operand)
        if operator in ("$in", "$nin"):
            shape = self._in(column, operator, operand)
            return shape if operator == "$in" else ("not", shape)
        if operator == "$null":
            if type(operand) is not bool:
                raise Fault("type_mismatch", "$null takes true or false.")
            return ("null", column.name) if operand else ("not", ("null", column.name))
        return self._pattern(column, operator, operand)

    def _equal(self, column: Column, operand: Any) -> Shape:
        if operand is None:
            return ("null", column.name)
        self.values.append(self._codec.compared(column.type, check_value(column, operand)))
        return ("eq", column.name)

    def _compare(self, column: Column, operator: str, operand: Any) -> Shape:
        if column.type not in ORDERED:
            raise _not_for(operator, column)
        self.values.append(self._codec.compared(column.type, check_value(column, operand)))
        return (_COMPARISONS[operator], column.name)

    def _in(self, column: Column, operator: str, operand: Any) -> Shape:
        if type(operand) is not list:
            raise Fault("invalid_request", f"{operator} takes a list of values.")
        if len(operand) > LONGEST_LIST:
            raise Fault("request_too_large", f"{operator} takes at most {LONGEST_LIST} values.")
        codec, kind, values = self._codec, column.type, []
        for index, value in enumerate(operand):
            if value is not None:
                try:
                    values.append(codec.compared(kind, check_value(column, value)))
                except Fault as fault:
                    raise fault.at(f"{operator}[{index}]") from None
        null: Shape | None = ("null", column.name) if len(values) < len(operand) else None
        if not values:
            return null or _NEVER
        self.values.append(codec.array(values))
        leaf: Shape = ("in", column.name)
        return ("or", (leaf, null)) if null else leaf

    def _pattern(self, column: Column, operator: str, operand: Any) -> Shape:
        if column.type not in TEXTUAL:
            raise _not_for(operator, column)
        if type(operand) is not str:
            code = "value_required" if operand is None else "type_mismatch"
            raise Fault(code, f"{operator} takes text.")
        pattern = check_pattern(operand) if operator.endswith("like") else check_text(operand)
        self.values.append(self._pattern_value(operator, pattern))
        return (operator[1:], column.name)

    def _pattern_value(self, operator: str, text: str) -> str:
        """Return the pattern as the dialect's statement takes it (`conditions`)."""
        if not self._postgres:
            folded = fold(text) if operator in ("$ilike", "$icontains") else text
            return glob_from_like(folded) if operator.endswith("like") else folded
        if operator.endswith("like"):
            return text
        return f"{escape_like(text)}%" if operator == "$startswith" else f"%{escape_like(text)}%"


_EMPTY_HINT: Final = "Leave an empty filter out: it would match every row."


def _unknown(name: str, known: tuple[str, ...]) -> Fault:
    near = nearest(name, known)
    return Fault(
        "unknown_operator" if name[:1] == "$" else "invalid_request",
        f"{name[:80]!r} is no operator" + (f"; did you mean {near!r}?" if near else "."),
        hint="One of " + ", ".join(known) + ".",
    )


def _not_for(operator: str, column: Column) -> Fault:
    return Fault(
        "type_mismatch", f"{operator} does not work on {column.name}, a column of type {column.type}."
    )
