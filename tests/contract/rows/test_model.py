"""Random requests: both databases answer alike, and as a model in plain Python does."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from contract.rows.model import COLUMNS, TYPES, Model, matches, outer, travelling
from contract.rows.requests import Requests
from contract.rows.speaker import Refused, Speaker

Row = dict[str, Any]
SERVICE_COLUMNS = {"id", "created_at", "updated_at"}


def plain(rows: list[Row]) -> list[Row]:
    """Return rows without what the service sets, which differs from database to database."""
    return [{name: value for name, value in row.items() if name not in SERVICE_COLUMNS} for row in rows]


def unordered(rows: list[Row]) -> list[str]:
    """Return rows so that two lists compare whatever their order."""
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


class Trio:
    """Both databases and the model, asked the same."""

    def __init__(self, both: list[Speaker], requests: Requests) -> None:
        self.both = both
        self.requests = requests
        self.random = requests.random
        self.model = Model()
        self.answered = 0
        self.refused = 0

    async def define(self) -> None:
        """Make the table."""
        for speaker in self.both:
            await speaker.call("tables.define", table="things", columns=COLUMNS)

    async def ask(self, tail: str, **members: Any) -> Any:
        """Ask both; return the result, or None when both refused alike."""
        answers = [await self._answer(speaker, tail, members) for speaker in self.both]
        request = f"{tail} {json.dumps(members)}"
        one, other = answers
        if isinstance(one, Refused) or isinstance(other, Refused):
            assert isinstance(one, Refused), f"only SQLite refuses {request}: {other}"
            assert isinstance(other, Refused), f"only Postgres refuses {request}: {one}"
            assert (one.code, one.path) == (other.code, other.path), f"{request}: {one} against {other}"
            assert one.code not in ("internal", "unavailable", "timeout"), f"{request}: {one}"
            self.refused += 1
            return None
        for answer in answers:
            answer["rows"] = plain(answer["rows"])
        self.answered += 1
        return answers

    @staticmethod
    async def _answer(speaker: Speaker, tail: str, members: dict[str, Any]) -> Any:
        try:
            return await speaker.call(tail, table="things", **members)
        except Refused as refused:
            return refused

    def check_rows(self, request: Any, answers: list[Any], expected: list[Row], *, ordered: bool) -> None:
        """Compare the rows of both answers with the model's."""
        wanted = [travelling(row) for row in expected]
        for name, answer in zip(("Postgres", "SQLite"), answers, strict=True):
            left, right = (
                (answer["rows"], wanted) if ordered else (unordered(answer["rows"]), unordered(wanted))
            )
            assert left == right, f"{name} answers {request} with {left}, the model with {right}"

    async def step(self) -> None:
        """Ask one random thing."""
        kinds = (
            ["select"] * 8 + ["update"] * 3 + ["insert", "insert", "upsert", "delete", "search", "aggregate"]
        )
        await getattr(self, "_" + self.random.choice(kinds))()

    async def _insert(self) -> None:
        rows = [self.requests.row() for _ in range(self.random.choice([1, 1, 5]))]
        answers = await self.ask("rows.insert", rows=rows)
        if answers:
            self.check_rows(rows, answers, [self.model.insert(row) for row in rows], ordered=True)

    async def _upsert(self) -> None:
        row = self.requests.row() | {"k": self.requests.some_k()}
        merge = self.requests.merge(row)
        answers = await self.ask("rows.upsert", rows=[row], key=["k"], merge=merge)
        if answers:
            self.check_rows((row, merge), answers, [self.model.upsert(row, merge)], ordered=True)

    async def _select(self) -> None:
        where, order_by = self.requests.where(), self.requests.order_by()
        members: dict[str, Any] = {"where": where, "order_by": order_by}
        limit = self.random.choice([1, 3, 1000])
        pages: list[list[Row]] = [[], []]
        for number, speaker in enumerate(self.both):
            cursor: str | None = None
            while True:
                answer = await self._answer(
                    speaker, "rows.select", {**members, "limit": limit, "cursor": cursor}
                )
                if isinstance(answer, Refused):
                    break
                pages[number] += plain(answer["rows"])
                cursor = answer["next_cursor"]
                if cursor is None:
                    break
        answers = await self.ask("rows.select", **members, limit=1000)
        if answers:
            expected = self.model.select(where, order_by)
            self.check_rows(members, answers, expected, ordered=True)
            self.check_rows(
                ("in pages", limit, members), [{"rows": page} for page in pages], expected, ordered=True
            )

    async def _search(self) -> None:
        query = self.random.choice(["a", "É", "two WORDS", "b%", "σ", "i", "日", "a b", "x"])
        columns = self.random.choice([["s"], ["t"], ["s", "t"]])
        answers = await self.ask("rows.search", query=query, columns=columns, limit=1000)
        if answers:
            self.check_rows((query, columns), answers, self.model.search(query, columns), ordered=True)

    async def _update(self) -> None:
        where, changes = self.requests.where(), self.requests.changes()
        answers = await self.ask("rows.update", where=where, set=changes, returning=True)
        if answers:
            self.check_rows((where, changes), answers, self.model.update(where, changes), ordered=False)

    async def _delete(self) -> None:
        where = {"k": self.requests.some_k()} | self.requests.where()
        allowed = self.random.choice([None, 0, 1])
        answers = await self.ask("rows.delete", where=where, max_rows=allowed, returning=True)
        if answers:
            matching = sum(matches(row, where) for row in self.model.rows)
            assert allowed is None or matching <= allowed
            self.check_rows(where, answers, self.model.delete(where), ordered=False)

    async def _aggregate(self) -> None:
        where, measures = self.requests.where(), self.requests.measures()
        group_by = self.random.choice([[], ["b"], ["s"], ["day", "b"], ["u"], ["d"]])
        answers = await self.ask(
            "rows.aggregate", where=where, measures=measures, group_by=group_by, limit=1000
        )
        if not answers:
            return
        one, other = (answer["rows"] for answer in answers)
        assert unordered(one) == unordered(other), f"{measures} by {group_by} where {where}"
        wanted = [
            {name: outer(name, value) if name in TYPES else value for name, value in row.items()}
            for row in self.model.aggregate(where, group_by, measures)
        ]
        averages = [name for name, measure in measures.items() if "$avg" in measure]
        for row in [*one, *wanted]:
            for name in averages:
                row[name] = None if row[name] is None else float(f"{Decimal(row[name]):.12e}")
        assert unordered(one) == unordered(wanted), f"{measures} by {group_by} where {where}"


async def play(both: list[Speaker], seed: int, steps: int, *, wrong: float) -> Trio:
    """Ask `steps` random things of a table of its own."""
    trio = Trio(both, Requests(seed, wrong=wrong))
    await trio.define()
    for _ in range(steps):
        await trio.step()
    return trio


@pytest.mark.parametrize("seed", [1, 2])
async def test_both_databases_answer_as_the_model(both: list[Speaker], seed: int) -> None:
    """Random filters, updates, orders, searches, measures and page walks have one answer."""
    trio = await play(both, seed, 150, wrong=0.0)
    assert trio.answered > 100


async def test_both_databases_refuse_alike(both: list[Speaker]) -> None:
    """What one database refuses, the other refuses with the same code and path, and nothing changes."""
    trio = await play(both, 3, 200, wrong=0.15)
    assert trio.refused > 20


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", range(100, 120))
async def test_ten_thousand_random_requests_have_one_answer(both: list[Speaker], seed: int) -> None:
    """Twenty tables of more than five hundred random requests each: SQLite, Postgres and the model agree."""
    trio = await play(both, seed, 520, wrong=0.05 if seed % 2 else 0.0)
    assert trio.answered + trio.refused >= 500
