"""What the contract says of rows, in plain Python: slow, short, and independent of any SQL.

Values are kept as Python's own: decimals as `Decimal`, the rest as they travel. It answers requests
that are right; whether a wrong one is refused is for the cases to say.
"""

from __future__ import annotations

import decimal
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

TYPES = {
    "s": "string",
    "t": "text",
    "i": "integer",
    "f": "float",
    "d": "decimal",
    "b": "boolean",
    "at": "datetime",
    "day": "date",
    "u": "uuid",
    "j": "json",
    "k": "integer",
}
"""The columns of the table that random requests speak of; `k` is unique."""

COLUMNS = [
    {"name": name, "type": kind, **({"unique": True} if name == "k" else {})} for name, kind in TYPES.items()
]

Row = dict[str, Any]


def fold(text: str) -> str:
    """Lower case, one code point for one."""
    return "".join("i" if char == "İ" else char.lower() if len(char.lower()) == 1 else char for char in text)


def inner(name: str, value: Any) -> Any:
    """Return a travelling value as the model keeps it."""
    kind = TYPES.get(name)
    if kind == "decimal" and isinstance(value, str):
        return Decimal(value)
    return float(value) if kind == "float" and type(value) is int else value


def outer(name: str, value: Any) -> Any:
    """Return a kept value as it travels."""
    if TYPES.get(name) == "decimal" and value is not None:
        text = format(value, "f")
        text = text.rstrip("0").rstrip(".") if "." in text else text
        return "0" if text in ("-0", "") else text
    return value


def same(left: Any, right: Any) -> bool:
    """Equality of JSON values: true is not 1, and 1.0 is 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is not dict and type(right) is not dict and bool(left == right)


def like(pattern: str, text: str) -> bool:
    """Say whether the whole of `text` is as a LIKE pattern says."""
    parts = re.findall(r"\\.|[^\\]", pattern, re.DOTALL)
    regex = "".join(".*" if part == "%" else "." if part == "_" else re.escape(part[-1]) for part in parts)
    return re.fullmatch(regex, text, re.DOTALL) is not None


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda value, operand: value is not None and compare(value, operand)


def _textual(compare: Callable[[str, str], bool]) -> Callable[[Any, Any], bool]:
    return lambda value, operand: value is not None and compare(value, operand)


OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "$eq": same,
    "$ne": lambda value, operand: not same(value, operand),
    "$gt": _ordered(lambda value, operand: value > operand),
    "$gte": _ordered(lambda value, operand: value >= operand),
    "$lt": _ordered(lambda value, operand: value < operand),
    "$lte": _ordered(lambda value, operand: value <= operand),
    "$in": lambda value, operand: any(same(value, member) for member in operand),
    "$nin": lambda value, operand: not any(same(value, member) for member in operand),
    "$like": _textual(lambda value, operand: like(operand, value)),
    "$ilike": _textual(lambda value, operand: like(fold(operand), fold(value))),
    "$contains": _textual(lambda value, operand: operand in value),
    "$icontains": _textual(lambda value, operand: fold(operand) in fold(value)),
    "$startswith": _textual(lambda value, operand: value.startswith(operand)),
    "$null": lambda value, operand: (value is None) is operand,
}


def matches(row: Row, where: Mapping[str, Any]) -> bool:
    """Say whether a row is one that `where` means."""
    return all(_member_matches(row, name, value) for name, value in where.items())


def _member_matches(row: Row, name: str, value: Any) -> bool:
    if name == "$and":
        return all(matches(row, part) for part in value)
    if name == "$or":
        return any(matches(row, part) for part in value)
    if name == "$not":
        return not matches(row, value)
    if isinstance(value, dict) and any(key.startswith("$") for key in value):
        return all(
            OPERATORS[operator](row[name], _operand(name, operator, operand))
            for operator, operand in value.items()
        )
    return same(row[name], inner(name, value))


def _operand(name: str, operator: str, operand: Any) -> Any:
    if operator in ("$in", "$nin"):
        return [inner(name, member) for member in operand]
    return operand if operator == "$null" else inner(name, operand)


def ordered(rows: Iterable[Row], order_by: list[str]) -> list[Row]:
    """Sort as the contract says: nulls last both ways, the primary key rising at the end."""

    def compare(left: Row, right: Row) -> int:
        for part in [*order_by, "id"]:
            name, sign = (part[1:], -1) if part.startswith("-") else (part, 1)
            one, other = left[name], right[name]
            if one is None or other is None:
                if one is not other:
                    return 1 if one is None else -1
            elif one != other:
                return sign if one > other else -sign
        return 0

    return sorted(rows, key=functools.cmp_to_key(compare))


def _exactly(compute: Callable[[], Any]) -> Any:
    """Compute with more decimal digits than any result has."""
    with decimal.localcontext(prec=400):
        return compute()


def changed(name: str, old: Any, value: Any) -> Any:
    """Return what an update makes of one column."""
    if not (isinstance(value, dict) and len(value) == 1 and next(iter(value)).startswith("$")):
        return inner(name, value)
    ((operator, operand),) = value.items()
    operand = inner(name, operand)
    if operator == "$set":
        return operand
    if operator == "$unset":
        return None
    if operator == "$inc":
        return _exactly(lambda: (0 if old is None else old) + operand)
    if operator == "$mul":
        return _exactly(lambda: (0 if old is None else old) * operand)
    choose = {"$max": max, "$min": min}[operator]
    return operand if old is None else choose(old, operand)


class Model:
    """One table of `COLUMNS`, with the operations of the contract."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._next = 1

    def insert(self, row: Row) -> Row:
        """Add a row; the caller knows that its `k` is free."""
        new = {"id": self._next} | {name: inner(name, row.get(name)) for name in TYPES}
        self._next += 1
        self.rows.append(new)
        return new

    def upsert(self, row: Row, merge: Mapping[str, str]) -> Row:
        """Add a row, or merge it into the one with the same `k`."""
        old = next((other for other in self.rows if other["k"] == row["k"]), None)
        if old is None:
            return self.insert(row)
        for name in row.keys() - {"k"}:
            rule, given = merge.get(name, "$set"), row[name]
            if rule == "$keep" or (given is None and rule != "$set"):
                continue
            old[name] = changed(name, old[name], {rule: given})
        return old

    def select(self, where: Mapping[str, Any], order_by: list[str]) -> list[Row]:
        """Return every row of `where`, in order."""
        return ordered((row for row in self.rows if matches(row, where)), order_by)

    def search(self, query: str, columns: list[str]) -> list[Row]:
        """Return every row in which each term stands in one of the columns."""
        terms = [fold(term) for term in query.split()]
        return ordered((row for row in self.rows if all(self._has(row, term, columns) for term in terms)), [])

    @staticmethod
    def _has(row: Row, term: str, columns: list[str]) -> bool:
        return any(row[name] is not None and term in fold(row[name]) for name in columns)

    def update(self, where: Mapping[str, Any], changes: Mapping[str, Any]) -> list[Row]:
        """Change every row of `where`; the result is in no order."""
        found = [row for row in self.rows if matches(row, where)]
        for row in found:
            row.update({name: changed(name, row[name], value) for name, value in changes.items()})
        return found

    def delete(self, where: Mapping[str, Any]) -> list[Row]:
        """Remove every row of `where`."""
        gone = [row for row in self.rows if matches(row, where)]
        self.rows = [row for row in self.rows if not matches(row, where)]
        return gone

    def aggregate(
        self, where: Mapping[str, Any], group_by: list[str], measures: Mapping[str, Mapping[str, str]]
    ) -> list[Row]:
        """Return a row a group, in no order."""
        groups: dict[tuple[Any, ...], list[Row]] = {} if group_by else {(): []}
        for row in self.rows:
            if matches(row, where):
                groups.setdefault(tuple(row[name] for name in group_by), []).append(row)
        return [
            dict(zip(group_by, key, strict=True))
            | {name: measured(rows, measure) for name, measure in measures.items()}
            for key, rows in groups.items()
        ]


def measured(rows: list[Row], measure: Mapping[str, str]) -> Any:
    """Return one measure of a group as it travels; `$avg` of decimals stays a `Decimal`."""
    ((operator, column),) = measure.items()
    if column == "*":
        return len(rows)
    values = [row[column] for row in rows if row[column] is not None]
    if operator == "$count":
        return len(values)
    if not values:
        return None
    if operator == "$avg":
        return _exactly(lambda: sum(values) / len(values))
    chosen = _exactly(lambda: {"$sum": sum, "$min": min, "$max": max}[operator](values))
    return outer(column, chosen)


def travelling(row: Row) -> Row:
    """Return a row of the model as a reply shows it, without what the service sets."""
    return {name: outer(name, row[name]) for name in TYPES}
