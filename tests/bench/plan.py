"""What the engine costs a request: planning and finishing, without a database.

Run it with `make bench-plan`. Each line is the median of several rounds, in microseconds of one core,
for a request whose shape is known already; `first` is what building the shape cost once.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from rosey_rowstore.engine.model import Column, ColumnType, Dialect, Index, Limits, Result, Table
from rosey_rowstore.engine.planner import Planner
from rosey_rowstore.protocol import DeleteRequest, InsertRequest, SelectRequest, UpdateRequest, UpsertRequest

ROUNDS = 7
CALLS = 2000
BUDGET = 25.0
"""Microseconds that the frequent requests (the first three) may cost."""

_MOMENT = "2026-11-23T04:05:06.000007Z"


def _table() -> Table:
    def service(name: str, kind: ColumnType) -> Column:
        return Column(name=name, type=kind, nullable=False, has_default=True, generated=name == "id")

    return Table(
        name="quotes",
        managed=True,
        columns=(
            service("id", ColumnType.INTEGER),
            service("created_at", ColumnType.DATETIME),
            service("updated_at", ColumnType.DATETIME),
            Column(name="text", type=ColumnType.TEXT, nullable=False),
            Column(name="by", type=ColumnType.STRING, max_length=64),
            Column(name="score", type=ColumnType.INTEGER, has_default=True, default=0),
        ),
        primary_key=("id",),
        indexes=(Index(name="by", columns=("by",), unique=True),),
    )


REQUESTS: dict[str, tuple[Callable[[int], Any], int]] = {
    "select by key": (lambda n: SelectRequest(table="quotes", where={"id": n}, limit=1), 1),
    "insert one": (lambda n: InsertRequest(table="quotes", rows=[{"text": f"quote {n}", "by": "bob"}]), 1),
    "$inc by key": (lambda n: UpdateRequest(table="quotes", where={"id": n}, set={"score": {"$inc": 1}}), 0),
    "delete by key": (lambda n: DeleteRequest(table="quotes", where={"id": n}), 0),
    "upsert one": (
        lambda n: UpsertRequest(
            table="quotes", rows=[{"text": "t", "by": f"b{n}"}], key=["by"], merge={"score": "$inc"}
        ),
        1,
    ),
    "100 sorted rows": (
        lambda n: SelectRequest(table="quotes", where={"score": {"$gte": n}}, order_by=["-score"]),
        101,
    ),
    "insert 100": (
        lambda n: InsertRequest(table="quotes", rows=[{"text": f"q{n}", "by": "bob"}] * 100, returning=False),
        0,
    ),
}


def _measure(dialect: Dialect, make: Callable[[int], Any], rows: int) -> tuple[float, float]:
    planner, tables, limits = Planner(dialect), {"quotes": _table()}, Limits()
    result = Result([(n, _MOMENT, _MOMENT, "a quote of usual length", "bob", 5) for n in range(rows)], 1)

    def answer(request: Any) -> None:
        plan = planner.plan(request, tables, limits, plugin="quotes")
        plan.finish([result] * len(plan.statements))

    start = time.perf_counter()
    answer(make(0))
    first = time.perf_counter() - start
    requests = [make(n) for n in range(CALLS // (10 if rows > 10 else 1))]
    rounds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for request in requests:
            answer(request)
        rounds.append((time.process_time() - start) / len(requests))
    return first * 1e6, statistics.median(rounds) * 1e6


def main() -> None:
    """Print the table."""
    print(f"{'µs a request':18}{'first':>10}{'postgres':>10}{'first':>10}{'sqlite':>10}")
    for name, (make, rows) in REQUESTS.items():
        figures = [figure for dialect in Dialect for figure in _measure(dialect, make, rows)]
        print(f"{name:18}" + "".join(f"{figure:10.1f}" for figure in figures))
    print(f"The budget of the first three is {BUDGET:.0f} µs.")


if __name__ == "__main__":
    main()
