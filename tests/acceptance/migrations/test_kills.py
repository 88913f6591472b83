"""`kill -9` at random points of a run: the old version or the new one, never between; the next finishes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from rosey_deploy.stack.nats import NatsServer
from rosey_deploy.stack.postgres import PostgresServer
from rosey_deploy.stack.service import RowService
from rosey_storage import Storage, StorageError
from support.migrations import Folder

POINTS = 12
SLOW = "import time; time.sleep(0.05)\n"


class Stage:
    """A service on a database, and a folder whose history grows by two revisions a round."""

    def __init__(self, nats: NatsServer, folder: Folder, database: str, tmp_path: Path) -> None:
        self.nats, self.folder, self.database = nats, folder, database
        self.service = RowService(
            tmp_path / "service.log",
            url=nats.url,
            database=database,
            subject=folder.plugin,
            plugins=folder.toml,
        )
        self.number = 0
        folder.write("0000", 'op.create_table("t", *service_columns(), sa.Column("n", sa.BigInteger))')

    def grow(self) -> tuple[str, str]:
        """Write two more revisions: a column each, a row each, with pauses in which a kill may fall."""
        first, second = f"{self.number + 1:04d}", f"{self.number + 2:04d}"
        for revision in (first, second):
            self.folder.write(
                revision,
                f'{SLOW}op.add_column("t", sa.Column("c{revision}", sa.BigInteger))\n'
                f'{SLOW}op.execute("INSERT INTO t (n, c{revision}) VALUES ({int(revision)}, 1)")\n{SLOW}',
            )
        self.number += 2
        return first, second

    def connect(self) -> Storage:
        return Storage.connect(self.folder.plugin, url=self.nats.url, subject=self.folder.plugin, timeout=60)

    async def state(self) -> tuple[str | None, set[str], list[int]]:
        """Return the version, the columns that migrations made, and the rows they wrote."""
        async with self.connect() as storage:
            status = await storage.migrations.status(timeout=60)
            described = await storage.table("t").describe()
            rows = (await storage.table("t").select(columns=["n"], order_by=["n"], limit=1000)).rows
            columns = {column.name for column in described.columns if column.name.startswith("c0")}
            assert status.drift == [], status.drift
            return status.current, columns, [row["n"] for row in rows]

    def expected(self, number: int) -> tuple[str, set[str], list[int]]:
        done = range(1, number + 1)
        return f"{number:04d}", {f"c{n:04d}" for n in done}, list(done)


def children_of(pid: int) -> list[int]:
    """Return the processes that a process started."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def is_there(pid: int) -> bool:
    """Whether a process is there, running or not yet waited for."""
    return Path(f"/proc/{pid}/stat").exists()


async def kill_child(stage: Stage) -> bool:
    """Kill the process of the run, if it is there; the service tells the caller."""
    for child in children_of(stage.service.process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    return True


async def rounds(
    stage: Stage, kill: Callable[[Stage], Awaitable[bool]], points: int, seed: int
) -> dict[str, int]:
    """Kill at `points` moments spread over a run, and look after each."""
    chance = random.Random(seed)
    outcomes = {"old": 0, "new": 0}
    async with stage.connect() as storage:
        await storage.migrations.apply()
        stage.grow()
        began = time.monotonic()
        await storage.migrations.apply()
        whole = time.monotonic() - began
    for _ in range(points):
        before = stage.number
        stage.grow()
        async with stage.connect() as storage:
            running = asyncio.create_task(storage.migrations.apply(timeout=60))
            await asyncio.sleep(chance.uniform(0, whole * 1.1))
            told = await kill(stage)
            if not told:  # nobody is left to tell the caller
                running.cancel()
            with contextlib.suppress(StorageError, asyncio.CancelledError):
                await asyncio.wait_for(running, 30)
        found = await stage.state()
        assert found in (stage.expected(before), stage.expected(stage.number)), (found, before)
        outcomes["new" if found == stage.expected(stage.number) else "old"] += 1
        async with stage.connect() as storage:
            await storage.migrations.apply()
        assert await stage.state() == stage.expected(stage.number)
    return outcomes


@pytest.fixture
def folder(tmp_path: Path, plugin: str) -> Folder:
    return Folder(tmp_path, plugin)


@contextlib.contextmanager
def running(stage: Stage) -> Iterator[Stage]:
    stage.service.start()
    try:
        yield stage
    finally:
        stage.service.stop()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("database", ["postgres", "sqlite"])
async def test_the_child_is_killed(
    database: str, request: pytest.FixtureRequest, nats_server: NatsServer, folder: Folder, tmp_path: Path
) -> None:
    """Killing the process of the run, at many moments, leaves the old version or the new one."""
    url = (
        f"sqlite:{tmp_path / 'rows'}"
        if database == "sqlite"
        else request.getfixturevalue("postgres_database")
    )
    with running(Stage(nats_server, folder, url, tmp_path)) as stage:
        outcomes = await rounds(stage, kill_child, POINTS, seed=1)
    assert outcomes["old"] > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("database", ["postgres", "sqlite"])
async def test_the_service_is_killed(
    database: str, request: pytest.FixtureRequest, nats_server: NatsServer, folder: Folder, tmp_path: Path
) -> None:
    """Killing the service in the middle of a run ends the run with it; the next service finishes."""

    async def kill_service(stage: Stage) -> bool:
        left = children_of(stage.service.process.pid)
        stage.service.kill()
        for _ in range(1200):
            if not any(is_there(child) for child in left):
                break
            await asyncio.sleep(0.05)
        else:
            raise AssertionError("the run outlived its service")
        await asyncio.to_thread(stage.service.start)
        return False

    url = (
        f"sqlite:{tmp_path / 'rows'}"
        if database == "sqlite"
        else request.getfixturevalue("postgres_database")
    )
    with running(Stage(nats_server, folder, url, tmp_path)) as stage:
        outcomes = await rounds(stage, kill_service, POINTS, seed=2)
    assert outcomes["old"] > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_postgres_is_killed(
    own_postgres_server: PostgresServer, nats_server: NatsServer, folder: Folder, tmp_path: Path
) -> None:
    """Killing Postgres in the middle of a run leaves the old version or the new one once it is back."""

    async def kill_postgres(stage: Stage) -> bool:
        await asyncio.to_thread(own_postgres_server.kill)
        await asyncio.to_thread(own_postgres_server.start)
        return True

    stage = Stage(nats_server, folder, own_postgres_server.dsn, tmp_path)
    with running(stage):
        outcomes = await rounds(stage, kill_postgres, POINTS, seed=3)
    assert outcomes["old"] > 0
