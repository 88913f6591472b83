"""The history of the reference plugin, from empty and from each version, under a load of row requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Self

import pytest

from rosey_deploy.stack.nats import NatsServer
from rosey_deploy.stack.service import RowService
from rosey_storage import Column, DestructiveMigration, Storage
from support.servers import Servers
from support.services import launched

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "quotes" / "migrations"
ROWS = 600
CALLERS = 16
REVISIONS = ["0001", "0002", "0003", "0004", "0005", "0006"]
_MIDDLE = "0003"  # has the column that the later ones change; the other beginnings are slow tests


@pytest.fixture
def services(
    servers: Servers, nats_server: NatsServer, database: str, plugin: str, tmp_path: Path
) -> Iterator[list[RowService]]:
    """Two service processes on Postgres, one on SQLite, that know the folder of the quotes plugin."""
    toml = tmp_path / "plugins.toml"
    toml.write_text(
        f"[plugins.{plugin}]\nrows = true\nmigrations = {str(EXAMPLE)!r}\n"
        f"[plugins.{plugin}.limits]\nrequests_per_second = 100000\nrequests_in_flight = 1000\n"
    )
    made = [
        servers.row_service(
            tmp_path / f"service{number}.log",
            url=nats_server.url,
            database=database,
            subject=plugin,
            plugins=toml,
        )
        for number in range(1 if database.startswith("sqlite") else 2)
    ]
    with launched(made):
        yield made


@pytest.fixture
async def storage(services: list[RowService], nats_server: NatsServer, plugin: str) -> AsyncIterator[Storage]:
    async with Storage.connect(plugin, url=nats_server.url, subject=plugin, timeout=30) as connected:
        yield connected


async def fill(storage: Storage, revision: str) -> int:
    """Bring in quotes as that version's plugin would; return how many."""
    if revision == "base":
        return 0
    rows = [{"author": f"a{n % 7}", "source": "s", "text": f"text {n}"} for n in range(ROWS)]
    for n, row in enumerate(rows):
        if revision < "0005":
            row["voters"] = {"alice": 1, f"u{n}": -1} if n % 2 else None  # type: ignore[assignment]
        if revision >= "0003":
            row["fingerprint"] = f"f{n}"
    await storage.table("quotes").insert_many(rows)
    return len(rows)


class Load:
    """Row requests that touch no column which a migration changes, one after the other, from many tasks."""

    def __init__(self, storage: Storage, *, on_quotes: bool) -> None:
        self._storage = storage
        self._on_quotes = on_quotes
        self._stopping = False
        self.done = 0
        self.failed: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._run(number)) for number in range(CALLERS)]
        while self.done < 60:
            await asyncio.sleep(0.01)
        return self

    async def __aexit__(self, *_: object) -> None:
        after = self.done + 60
        while self.done < after and not self.failed:
            await asyncio.sleep(0.01)
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _run(self, number: int) -> None:
        quotes, log = self._storage.table("quotes"), self._storage.table("visits")
        turn = 0
        while not self._stopping:
            turn += 1
            try:
                await log.insert({"n": turn})
                if not self._on_quotes:
                    self.done += 1
                    continue
                page = await quotes.select(
                    {"author": f"a{number}"}, columns=["id", "author", "text"], limit=20
                )
                if page.rows:
                    await quotes.update({"id": page.rows[0]["id"]}, {"source": f"s{turn}"})
                    await quotes.get(page.rows[0]["id"])
                    await quotes.search("text", columns=["text"], limit=5)
                await log.select({"n": turn}, limit=5)
                self.done += 1
            except Exception as error:
                self.failed.append(f"{type(error).__name__}: {error}")
                return


@pytest.mark.parametrize(
    "start",
    [
        "base",
        *(r if r == _MIDDLE else pytest.param(r, marks=pytest.mark.slow) for r in REVISIONS[:-1]),
    ],
)
async def test_the_history_applies_from_each_version_under_load(storage: Storage, start: str) -> None:
    """From each version the rest is applied while rows are read and written; none of those requests fails."""
    visits = storage.table("visits")
    await visits.define([Column("n", "integer")])
    if start != "base":
        await storage.migrations.apply(start)
    count = await fill(storage, start)
    load = Load(storage, on_quotes=start != "base")
    async with load:
        if start < "0005":
            with pytest.raises(DestructiveMigration, match=r"quotes\.voters"):
                await storage.migrations.apply()
            await storage.migrations.apply(allow_destructive=True)
        else:
            await storage.migrations.apply()
    assert load.failed == []
    status = await storage.migrations.status()
    assert status.current == "0006"
    assert [step.revision for step in status.applied] == REVISIONS
    quotes = storage.table("quotes")
    votes = await storage.table("votes").select(limit=1000)
    if start < "0005" and count:
        assert len(votes.rows) == ROWS
        assert sorted({vote["value"] for vote in votes}) == [-1, 1]
    assert len((await quotes.select(limit=1000)).rows) == count
    described = await quotes.describe()
    assert [
        column.name for column in described.columns if column.name in ("voters", "score", "fingerprint")
    ] == [
        "score",
        "fingerprint",
    ]


async def test_the_history_goes_back_as_it_came(storage: Storage) -> None:
    """Rolled back one by one and applied again, the votes that were split are there in every form."""
    await storage.migrations.apply("0001")
    await fill(storage, "0001")
    await storage.migrations.apply(allow_destructive=True)
    for target in [*REVISIONS[-2::-1]]:
        await storage.migrations.rollback(target)
        assert (await storage.migrations.status()).drift == []
    rows = (await storage.table("quotes").select(limit=100, order_by=["id"])).rows
    assert rows[1]["voters"] == {"alice": 1, "u1": -1}
    await storage.migrations.apply(allow_destructive=True)
    assert len((await storage.table("votes").select(limit=1000)).rows) == ROWS
