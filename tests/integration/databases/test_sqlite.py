"""SQLite's threads: batches that are all-or-nothing by request, deadlines, and a file that others use too."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from integration.databases.world import work
from rosey_rowstore.databases.base import StaleSchemaError
from rosey_rowstore.databases.sqlite.database import SqliteDatabase
from rosey_rowstore.engine.model import Limits
from rosey_rowstore.protocol import Fault

LIMITS = Limits()
INSERT = "INSERT INTO t (n) VALUES (?) RETURNING id"
SLOW = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"
SLOW_WRITE = (
    "INSERT INTO t (n) WITH RECURSIVE c(n) AS (SELECT 1000 UNION ALL SELECT n + 1 FROM c) SELECT n FROM c"
)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    """A folder with the plugin q, whose table t has a unique n."""
    with sqlite3.connect(tmp_path / "q.sqlite3") as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, n BIGINT UNIQUE)")
    connection.close()
    made = SqliteDatabase(tmp_path, may_provision=True)
    await made.open()
    await made.tables("q", LIMITS)
    try:
        yield made
    finally:
        await made.close()


async def insert(database: SqliteDatabase, n: int, **options: Any) -> bytes:
    return await database.run("q", LIMITS, work((INSERT, (n,)), writes=True, **options))


async def count(database: SqliteDatabase) -> bytes:
    return await database.run("q", LIMITS, work("SELECT count(*) FROM t"))


async def test_one_bad_request_in_a_batch(database: SqliteDatabase) -> None:
    """Of requests that share a transaction only the wrong one is refused."""
    answers = await asyncio.gather(*(insert(database, n % 50) for n in range(60)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert len(refused) == 10
    assert {getattr(error, "code", None) for error in refused} == {"unique_violation"}
    assert await count(database) == b'{"result":[[(50,)]]}'


async def test_several_statements_are_one(database: SqliteDatabase) -> None:
    """A plan of several statements leaves nothing when its second fails, and its neighbours stand."""
    both = work((INSERT, (1,)), (INSERT, (1,)), writes=True, atomic=True)
    answers = await asyncio.gather(
        insert(database, 2), database.run("q", LIMITS, both), insert(database, 3), return_exceptions=True
    )
    assert isinstance(answers[1], Fault)
    assert await count(database) == b'{"result":[[(2,)]]}'


async def test_read_past_its_deadline(database: SqliteDatabase) -> None:
    """An endless read is stopped at its deadline, and the reader serves the next."""
    before = time.monotonic()
    for _ in range(3):
        with pytest.raises(Fault) as caught:
            await database.run("q", LIMITS, work(SLOW, timeout=0.2))
        assert caught.value.code == "timeout"
    assert time.monotonic() - before < 10
    assert await count(database) == b'{"result":[[(0,)]]}'


async def test_write_past_its_deadline_leaves_its_neighbours(database: SqliteDatabase) -> None:
    """SQLite undoes the whole transaction with a stopped write; the others of the batch run again."""
    slow = database.run("q", LIMITS, work(SLOW_WRITE, writes=True, timeout=0.3))
    answers = await asyncio.gather(
        *(insert(database, n) for n in range(10)),
        slow,
        *(insert(database, n) for n in range(10, 20)),
        return_exceptions=True,
    )
    assert [index for index, answer in enumerate(answers) if isinstance(answer, BaseException)] == [10]
    assert getattr(answers[10], "code", None) == "timeout"
    assert await count(database) == b'{"result":[[(20,)]]}'


async def test_file_held_by_another(database: SqliteDatabase, tmp_path: Path) -> None:
    """While another connection holds the file writes are answered in time with a code, reads go on."""
    other = sqlite3.connect(tmp_path / "q.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(Fault) as caught:
            await insert(database, 1, timeout=0.3)
        assert caught.value.code == "timeout"
        assert "nothing was written" in caught.value.message
        assert await count(database) == b'{"result":[[(0,)]]}'
    finally:
        other.execute("ROLLBACK")
        other.close()
    await insert(database, 1)
    assert await count(database) == b'{"result":[[(1,)]]}'


async def test_same_id_has_one_effect(database: SqliteDatabase) -> None:
    """The second request with an id gets the stored reply; another request under it is refused."""
    first = await asyncio.gather(*(insert(database, 7, message_id="a") for _ in range(20)))
    assert len(set(first)) == 1
    with pytest.raises(Fault) as caught:
        await insert(database, 8, message_id="a", digest=b"fedcba9876543210")
    assert caught.value.code == "invalid_request"
    assert await count(database) == b'{"result":[[(1,)]]}'


async def test_a_schema_changed_by_another_is_stale(database: SqliteDatabase, tmp_path: Path) -> None:
    """A plan made before someone else's change is refused as stale, for reads and writes alike."""
    other = sqlite3.connect(tmp_path / "q.sqlite3")
    other.execute("ALTER TABLE t ADD COLUMN more TEXT")
    other.close()
    with pytest.raises(StaleSchemaError):
        await insert(database, 1)
    with pytest.raises(StaleSchemaError):
        await count(database)
    tables = await database.tables("q", LIMITS, stale=await database.tables("q", LIMITS))
    assert "more" in tables["t"].by_name
    await insert(database, 1)


async def test_close_answers_what_waits_and_ends_the_threads(tmp_path: Path) -> None:
    """Closing leaves no request unanswered and no thread behind."""
    database = SqliteDatabase(tmp_path, may_provision=True)
    await database.open()
    await database.tables("q", LIMITS)
    running = [asyncio.ensure_future(database.run("q", LIMITS, work("SELECT 1"))) for _ in range(50)]
    await asyncio.sleep(0)
    await database.close()
    assert await asyncio.gather(*running) == [b'{"result":[[(1,)]]}'] * 50
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("q ")]


async def test_in_memory() -> None:
    """A database in memory keeps its rows as long as it is open."""
    database = SqliteDatabase(None, may_provision=True)
    await database.open()
    try:
        tables = await database.tables("q", LIMITS)
        await database.run(
            "q", LIMITS, work("CREATE TABLE t (id INTEGER PRIMARY KEY, n BIGINT)", writes=True)
        )
        await database.tables("q", LIMITS, stale=tables)
        await insert(database, 1)
        assert await count(database) == b'{"result":[[(1,)]]}'
    finally:
        await database.close()


async def test_not_provisioned_and_no_database(tmp_path: Path) -> None:
    """A plugin without a file is not provisioned, and a file of another kind is no crash."""
    database = SqliteDatabase(tmp_path, may_provision=False)
    (tmp_path / "broken.sqlite3").write_bytes(b"this is no database, only text" * 100)
    await database.open()
    try:
        for plugin, code in (("absent", "not_provisioned"), ("broken", "unavailable")):
            with pytest.raises(Fault) as caught:
                await database.tables(plugin, LIMITS)
            assert caught.value.code == code
    finally:
        await database.close()
