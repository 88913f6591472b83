"""Many runs at once from several service processes: each revision is applied once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from rosey_deploy.stack.nats import NatsServer
from rosey_storage import Storage
from support.migrations import Folder
from support.servers import Servers
from support.services import launched

COUNT = 'op.execute("INSERT INTO counts (n) VALUES ({n})")'


@pytest.fixture
def folder(tmp_path: Path, plugin: str) -> Folder:
    """Four revisions, each of which counts itself."""
    made = Folder(tmp_path, plugin)
    made.write(
        "0001",
        'op.create_table("counts", *service_columns(), sa.Column("n", sa.BigInteger))\n' + COUNT.format(n=1),
    )
    for n in (2, 3, 4):
        made.write(f"000{n}", COUNT.format(n=n))
    return made


@pytest.fixture
def services(
    servers: Servers, nats_server: NatsServer, database: str, folder: Folder, tmp_path: Path
) -> Iterator[list[str]]:
    """Three service processes on one database, each on subjects of its own, so that each gets its share."""
    roots = [f"{folder.plugin}s{number}" for number in range(3)]
    made = [
        servers.row_service(
            tmp_path / f"{root}.log",
            url=nats_server.url,
            database=database,
            subject=root,
            plugins=folder.toml,
        )
        for root in roots
    ]
    with launched(made):
        yield roots


async def test_twenty_applies_from_three_processes_apply_each_revision_once(
    services: list[str], nats_server: NatsServer, folder: Folder
) -> None:
    """Of twenty callers at once each gets an answer; together they applied each revision once."""

    async def apply(number: int) -> list[str]:
        async with Storage.connect(
            folder.plugin, url=nats_server.url, subject=services[number % 3], timeout=60
        ) as storage:
            return [step.revision for step in (await storage.migrations.apply()).applied]

    answers = await asyncio.gather(*(apply(number) for number in range(20)))
    assert sorted(revision for answer in answers for revision in answer) == ["0001", "0002", "0003", "0004"]
    for root in services:
        async with Storage.connect(folder.plugin, url=nats_server.url, subject=root, timeout=60) as storage:
            rows = (await storage.table("counts").select(order_by=["id"])).rows
            assert [row["n"] for row in rows] == [1, 2, 3, 4]
            status = await storage.migrations.status()
            assert [step.revision for step in status.applied] == ["0001", "0002", "0003", "0004"]
            assert status.drift == []
