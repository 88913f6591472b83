"""Which requests may share a statement, and what each gets of it."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from rosey_rowstore.databases.base import Work
from rosey_rowstore.databases.postgres.groups import grouped
from rosey_rowstore.databases.postgres.jobs import Job
from rosey_rowstore.engine.model import Column, ColumnType, Dialect, Limits, Result, Table
from rosey_rowstore.engine.planner import Planner
from rosey_rowstore.engine.plans import Plan
from rosey_rowstore.protocol import OPERATIONS
from rosey_rowstore.protocol.convert import structure_request
from unit.rowstore.engine_tables import EVERYTHING

POSTGRES = Planner(Dialect.POSTGRES)
TOKENS = Table(
    name="tokens",
    columns=(
        Column(name="token", type=ColumnType.UUID, nullable=False),
        Column(name="name", type=ColumnType.TEXT),
    ),
    primary_key=("token",),
)


class Nobody:
    """An answer that nobody waits for."""

    def done(self) -> bool:
        """Say no."""
        return False

    def set_result(self, body: bytes, /) -> None:
        """Take nothing."""

    def set_exception(self, error: BaseException, /) -> None:
        """Take nothing."""


def plan(tail: str, *, planner: Planner = POSTGRES, table: Table = EVERYTHING, **members: Any) -> Plan:
    request: Any = structure_request({"table": table.name, **members}, OPERATIONS[f"rows.{tail}"].request)
    return planner.plan(request, {table.name: table}, Limits(), plugin="q")


def insert(**row: Any) -> Plan:
    return plan("insert", rows=[row])


def jobs(*plans: Plan) -> list[Job]:
    return [Job(Work(each, 0.0), Nobody()) for each in plans]


def sizes(batch: list[Job]) -> list[int]:
    return [len(group.jobs) for group in grouped(batch)]


@pytest.mark.parametrize(
    ("tail", "members"),
    [
        ("insert", {"rows": [{"p0": 1}, {"p0": 2}]}),
        ("insert", {"rows": [{}]}),
        ("upsert", {"rows": [{"a_string": "x"}], "key": ["a_string"]}),
        ("update", {"where": {"id": 1}, "set": {"p0": 1}}),
        ("delete", {"where": {"id": 1}}),
        ("select", {"where": {"id": 1, "p0": 1}}),
        ("select", {"where": {"a_string": "x"}}),
        ("select", {"where": {"id": {"$gte": 1}}}),
        ("select", {"where": {"id": None}}),
        ("select", {"where": {"id": 1}, "columns": ["p0"]}),
        ("search", {"where": {"id": 1}, "query": "x"}),
    ],
)
def test_other_requests_share_nothing(tail: str, members: dict[str, Any]) -> None:
    """Only a single row to insert, and a row by its key alone, go together with others."""
    assert plan(tail, **members).shared is None


def test_what_goes_together_is_of_one_shape() -> None:
    """Rows for the same columns, keys of the same table for the same columns; values do not matter."""
    assert insert(p0=1).shared is insert(p0=2).shared is not None
    assert insert(p0=1).shared is not insert(needed=1).shared
    assert insert(p0=1).shared is not plan("insert", rows=[{"p0": 1}], returning=False).shared
    by_key = plan("select", where={"id": 1})
    assert by_key.shared is plan("select", where={"id": {"$eq": 2}}).shared is not None
    assert by_key.shared is not plan("select", where={"id": 1}, columns=["id"]).shared


def test_sqlite_and_tables_with_triggers_share_nothing() -> None:
    """SQLite has nothing to gain; a trigger for each statement would fire once instead of often."""
    assert plan("insert", planner=Planner(Dialect.SQLITE), rows=[{"p0": 1}]).shared is None
    assert plan("select", planner=Planner(Dialect.SQLITE), where={"id": 1}).shared is None
    reacting = attrs.evolve(EVERYTHING, reacts=True, generation=1)
    assert plan("insert", table=reacting, rows=[{"p0": 1}]).shared is None
    assert plan("select", table=reacting, where={"id": 1}).shared is not None


def test_a_row_that_may_pass_the_reply_shares_nothing() -> None:
    """What may have to be undone has a transaction of its own."""
    assert insert(a_text="x" * 100_000).shared is not None
    assert insert(a_text="x" * 300_000).shared is None


def test_the_shared_statement_has_the_values_in_their_columns() -> None:
    """One array a column, in the order of the requests; quotes, backslashes and null are told apart."""
    plans = [insert(p0=n, select=text) for n, text in enumerate(['a"b', "c\\d", None, "NULL", ""])]
    (group,) = grouped(jobs(*plans))
    statement = group.statement()
    assert sorted(statement.parameters) == sorted(
        ['{"0","1","2","3","4"}', '{"a\\"b","c\\\\d",NULL,"NULL",""}']
    )
    rows = [(n,) for n in range(5)]
    assert [result.rows for result in group.results(Result(rows, 5))] == [(row,) for row in rows]


def test_each_gets_the_row_of_its_key() -> None:
    """Rows come back in any order, some twice asked for, some not there."""
    plans = [plan("select", where={"id": key}, columns=["p0", "id"]) for key in (3, 1, 3, 9, 2)]
    (group,) = grouped(jobs(*plans))
    assert group.statement().parameters == ['{"3","1","9","2"}']
    found = group.results(Result([(10, 1), (20, 2), (30, 3)], 3))
    assert [result.rows for result in found] == [((30, 3),), ((10, 1),), ((30, 3),), (), ((20, 2),)]


def test_a_uuid_is_found_in_any_case() -> None:
    """The key as the database writes it is what the rows are told apart by."""
    token = "0A0B0C0D-0000-4000-8000-00000000ABCD"
    plans = [plan("select", table=TOKENS, where={"token": token})] * 4
    (group,) = grouped(jobs(*plans))
    (first, *_) = group.results(Result([(token.lower(), "x")], 1))
    assert first.rows == ((token.lower(), "x"),)


def test_few_go_alone() -> None:
    """Three of a shape have a statement each: they would gain nothing."""
    plans = [insert(p0=n) for n in range(3)]
    assert sizes(jobs(*plans)) == [1, 1, 1]
    assert sizes(jobs(*plans, insert(needed=1))) == [1, 1, 1, 1]
    assert sizes(jobs(*plans, insert(p0=3))) == [4]


def test_reads_go_together_from_anywhere_and_writes_from_beside() -> None:
    """A write takes effect after those that came before it; reads see no order."""
    other_read, read = plan("select", where={"p0": 1}), plan("select", where={"id": 1})
    assert sizes(jobs(read, read, other_read, read, read)) == [4, 1]
    change, row = plan("update", where={"id": 1}, set={"p0": 1}), insert(p0=1)
    assert sizes(jobs(row, row, row, row, change, row, row, row, row)) == [4, 1, 4]
    assert sizes(jobs(row, row, change, row, row)) == [1, 1, 1, 1, 1]


def test_a_job_that_was_parted_stays_alone() -> None:
    """After a shared statement failed each of its jobs has one of its own."""
    batch = jobs(*[insert(p0=n) for n in range(6)])
    (group,) = grouped(batch)
    group.part()
    assert sizes(batch) == [1] * 6
    assert sizes([*batch, *jobs(*[insert(p0=n) for n in range(4)])]) == [1] * 6 + [4]
