"""Random requests that mean something: from a seed, so that a failure can be run again."""

from __future__ import annotations

import random
from typing import Any

from contract.rows.model import TYPES

TEXTS = [
    "",
    "a",
    "A",
    "ab",
    "Ab",
    "b%",
    "b_c",
    "é",
    "É",
    "ß",
    "İ",
    "Σ",
    "σ",
    "日本",
    "𝄞",
    "z\\",
    "two words",
    "x" * 20,
]
NUMBERS = [0, 1, -1, 2, 3, 7, 100, -(2**31), 2**31, 2**53 + 1, 2**63 - 1, -(2**63)]
FLOATS = [0.0, 0.25, -0.25, 1.5, 2, 3.75, -8.5, 1e10]
DECIMALS = ["0", "1", "-1", "1.5", "1.50", "0.1", "-0.05", "99999999999999999999999999999999999999.9", "10"]
DATETIMES = [
    "2026-11-23T04:05:06.000007Z",
    "2026-11-23T04:05:06.000000Z",
    "2026-11-23T04:05:05.999999Z",
    "1969-12-31T23:59:59.500000Z",
    "0001-01-01T00:00:00.000000Z",
    "9999-12-31T23:59:59.999999Z",
]
DATES = ["2026-11-23", "2024-02-29", "0001-01-01", "9999-12-31"]
UUIDS = [f"00000000-0000-0000-0000-{n:012x}" for n in (0, 1, 10, 255, 2**48 - 1)]
JSONS = [True, False, 0, 1, "a", "", [], [1, 2], {}, {"a": 1}, {"a": None, "b": [True]}, {"b": 1, "a": 2}]

VALUES: dict[str, list[Any]] = {
    "string": TEXTS,
    "text": TEXTS,
    "integer": NUMBERS,
    "float": FLOATS,
    "decimal": DECIMALS,
    "boolean": [True, False],
    "datetime": DATETIMES,
    "date": DATES,
    "uuid": UUIDS,
    "json": JSONS,
}
WRONG: list[Any] = ["5", "x", 5, 5.5, True, [], {}, 2**63, "2026-13-01", "\0", 1e308, "1e5", {"$foo": 1}]
RANGES = ("$gt", "$gte", "$lt", "$lte")
PATTERNS = ("$like", "$ilike", "$contains", "$icontains", "$startswith")
LIKES = ["%", "_", "a%", "%b%", "b\\%", "b\\_c", "É", "_b", "%Σ%", "z\\\\", "%日%", ""]
ORDERABLE = [name for name, kind in TYPES.items() if kind != "json"]


class Requests:
    """A source of random requests over the one table."""

    def __init__(self, seed: int, *, wrong: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.wrong = wrong
        self._next_k = 0

    def value(self, name: str, *, null: float = 0.2) -> Any:
        """Return a value for a column, null or of the wrong kind now and then."""
        if self.random.random() < self.wrong:
            return self.random.choice(WRONG)
        if self.random.random() < null:
            return None
        return self.random.choice(VALUES[TYPES[name]])

    def row(self) -> dict[str, Any]:
        """Return a row with some of the columns and a `k` of its own."""
        names = [name for name in TYPES if name != "k" and self.random.random() < 0.7]
        self._next_k += 1
        return {"k": self._next_k} | {name: self.value(name) for name in names}

    def some_k(self) -> int:
        """Return a `k` that was given out, or the next one."""
        return self.random.randint(1, self._next_k + 1)

    def where(self, depth: int = 0) -> dict[str, Any]:
        """Return a filter, nested now and then."""
        found: dict[str, Any] = {}
        for _ in range(self.random.choice([1, 1, 2])):
            kind = self.random.random()
            if depth < 3 and kind < 0.12:
                found["$or"] = [self.where(depth + 1) for _ in range(self.random.randint(1, 3))]
            elif depth < 3 and kind < 0.2:
                found["$and"] = [self.where(depth + 1) for _ in range(self.random.randint(1, 3))]
            elif depth < 3 and kind < 0.3:
                found["$not"] = self.where(depth + 1)
            else:
                name = self.random.choice(list(TYPES))
                found[name] = self.condition(name)
        return found

    def condition(self, name: str) -> Any:
        """Return what one column is compared with."""
        choices = ["plain", "$eq", "$ne", "$in", "$nin", "$null"]
        kind = TYPES[name]
        if kind not in ("json", "boolean"):
            choices += ["range"] * 4
        if kind in ("string", "text"):
            choices += ["pattern"] * 6
        choice = self.random.choice(choices)
        if choice == "plain":
            value = self.value(name)
            return value if not isinstance(value, dict) else {"$eq": value}
        if choice == "range":
            pair = self.random.sample(RANGES, self.random.choice([1, 1, 2]))
            return {operator: self.value(name, null=0) for operator in pair}
        if choice == "pattern":
            operator = self.random.choice(PATTERNS)
            return {operator: self.random.choice(LIKES if "like" in operator else TEXTS)}
        if choice in ("$in", "$nin"):
            return {choice: [self.value(name) for _ in range(self.random.randint(0, 3))]}
        if choice == "$null":
            return {"$null": self.random.random() < 0.5}
        return {choice: self.value(name)}

    def order_by(self) -> list[str]:
        """Return up to three columns, each rising or falling."""
        names = self.random.sample(ORDERABLE, self.random.randint(0, 3))
        return [name if self.random.random() < 0.5 else f"-{name}" for name in names]

    def change(self, name: str) -> Any:
        """Return what an update makes of a column."""
        kind = TYPES[name]
        choices = ["plain", "$set", "$unset"]
        if kind in ("integer", "float", "decimal"):
            choices += ["$inc", "$inc", "$mul"]
        if kind not in ("boolean", "json"):
            choices += ["$max", "$min"]
        choice = self.random.choice(choices)
        if choice == "plain":
            value = self.value(name)
            return value if not isinstance(value, dict) else {"$set": value}
        if choice == "$unset":
            return {"$unset": True}
        if choice == "$mul":
            return {"$mul": "2" if kind == "decimal" else 2}
        return {choice: self.value(name, null=0.2 if choice == "$set" else 0)}

    def changes(self) -> dict[str, Any]:
        """Return the `set` of an update; never of `k`, which is unique."""
        names = [name for name in TYPES if name != "k"]
        return {name: self.change(name) for name in self.random.sample(names, self.random.randint(1, 3))}

    def merge(self, row: dict[str, Any]) -> dict[str, str]:
        """Return merge rules for some of a row's columns."""
        rules = {}
        for name in row.keys() - {"k"}:
            kind = TYPES[name]
            allowed = ["$set", "$keep"]
            if kind in ("integer", "float", "decimal"):
                allowed += ["$inc"]
            if kind not in ("boolean", "json"):
                allowed += ["$max", "$min"]
            if self.random.random() < 0.6:
                rules[name] = self.random.choice(allowed)
        return rules

    def measures(self) -> dict[str, dict[str, str]]:
        """Return one to three measures."""
        found = {}
        for number in range(self.random.randint(1, 3)):
            operator = self.random.choice(["$count", "$sum", "$avg", "$min", "$max"])
            if operator == "$count":
                column = self.random.choice(["*", *TYPES])
            elif operator in ("$sum", "$avg"):
                column = self.random.choice(["i", "f", "d", "k"])
            else:
                column = self.random.choice(["s", "t", "i", "f", "d", "at", "day", "u", "k"])
            found[f"m{number}"] = {operator: column}
        return found
