"""Rows of small tables, counted: the server's own figures know nothing of a table for its first minutes.

Counted on the plugin's own connection like every other statement for it: a policy or a function that a
plugin hung on its table must not run with the service's rights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from rosey_rowstore.databases.base import Size, Work
from rosey_rowstore.engine.model import Result, Statement
from rosey_rowstore.engine.plans import Plan

__all__ = ["counted", "counting", "small_tables"]

_COUNTED_BYTES: Final = 2 * 1024 * 1024
_MOST_COUNTED: Final = 200


def small_tables(sizes: Mapping[str, Size]) -> tuple[str, ...]:
    """Return the tables that are counted in a millisecond or two, smallest first."""
    small = sorted((size.bytes, name) for name, size in sizes.items() if size.bytes <= _COUNTED_BYTES)
    return tuple(name for _, name in small[:_MOST_COUNTED])


def counting(tables: Sequence[str], deadline: float) -> Work:
    """Return the work that counts `tables` by `deadline` (the loop's clock); its reply is for `counted`."""
    query = "SELECT " + ", ".join(f'(SELECT count(*) FROM "{table}")' for table in tables)  # noqa: S608 - names of the catalog

    def finish(results: Sequence[Result]) -> bytes:
        return json.dumps(dict(zip(tables, map(int, results[0].rows[0]), strict=True))).encode()

    plan = Plan(
        statements=(Statement(query),), finish=finish, writes=False, atomic=False, tables=tuple(tables)
    )
    return Work(plan, deadline)


def counted(sizes: Mapping[str, Size], reply: bytes) -> dict[str, Size]:
    """Return the sizes with what was counted."""
    counts = json.loads(reply)["result"]
    return {name: attrs.evolve(size, rows=counts.get(name, size.rows)) for name, size in sizes.items()}
