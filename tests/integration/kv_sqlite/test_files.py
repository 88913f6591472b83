"""The SQLite twin's file: what may be wrong with it, and what other programs do to it meanwhile."""

# ruff: noqa: ASYNC240  # small local files of a test's own

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest

from rosey_kvstore import KV, BucketLimits
from rosey_kvstore.errors import InternalError, StorageError, StorageTimeout, Unavailable
from rosey_kvstore.sqlite import SqliteBackend
from rosey_kvstore.sqlite.faults import translate

needs_permissions = pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "quotes.sqlite3"


async def refused(file: Path, error: type[StorageError] = Unavailable) -> StorageError:
    """Open `file` and return how that fails; the message names the file."""
    kv = KV(SqliteBackend(file, timeout=0.3), plugin="quotes")
    with pytest.raises(error) as caught:
        await kv.get("k")
    assert str(file) in caught.value.message
    assert caught.value.hint
    await kv.close()
    return caught.value


async def test_file_and_folder_are_made(file: Path) -> None:
    """The first use makes both, in WAL mode, with tables that rows cannot name."""
    kv = KV(SqliteBackend(file), plugin="quotes")
    await kv.set("k", 1)
    await kv.close()
    with sqlite3.connect(file) as connection:
        names = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    connection.close()
    assert sorted(names) == ["_rosey_kv_bucket", "_rosey_kv_records"]
    assert mode == "wal"


async def test_file_that_is_no_database(file: Path) -> None:
    """Another kind of file is left as it is."""
    file.parent.mkdir()
    file.write_bytes(b"This is a letter, not a database. " * 100)
    before = file.read_bytes()
    error = await refused(file)
    assert "no SQLite database" in error.message
    assert file.read_bytes() == before


async def test_damaged_file(file: Path) -> None:
    """A page that was overwritten is told as damage, not as a missing key."""
    kv = KV(SqliteBackend(file), plugin="quotes")
    await kv.set_many({f"k{number}": "x" * 1000 for number in range(200)})
    await kv.close()
    with file.open("r+b") as raw:
        raw.seek(4096)
        raw.write(b"\xff" * (file.stat().st_size - 8192))
    kv = KV(SqliteBackend(file), plugin="quotes")
    with pytest.raises(Unavailable, match="damaged") as caught:
        async for _ in kv.items():
            pass
    assert str(file) in caught.value.message
    await kv.close()


async def test_folder_in_place_of_the_file(file: Path) -> None:
    """A folder of that name cannot be opened."""
    file.mkdir(parents=True)
    await refused(file)


async def test_file_in_place_of_the_folder(tmp_path: Path) -> None:
    """A folder that cannot be made is named."""
    (tmp_path / "data").write_text("")
    kv = KV(SqliteBackend(tmp_path / "data" / "quotes.sqlite3"), plugin="quotes")
    with pytest.raises(Unavailable, match="data") as caught:
        await kv.get("k")
    assert str(tmp_path / "data") in caught.value.message


@needs_permissions
async def test_read_only_folder(file: Path) -> None:
    """A folder that this user may not write to is told as such."""
    file.parent.mkdir(mode=0o500)
    await refused(file)


async def test_newer_format(file: Path) -> None:
    """A file of a newer release is not touched."""
    backend = SqliteBackend(file)
    await backend.open()
    await backend.close()
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE _rosey_kv_bucket SET version = 99")
    connection.close()
    assert "newer release" in (await refused(file)).message


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (sqlite3.SQLITE_FULL, Unavailable),
        (sqlite3.SQLITE_IOERR_WRITE, Unavailable),
        (sqlite3.SQLITE_READONLY_DBMOVED, Unavailable),
        (sqlite3.SQLITE_CORRUPT, Unavailable),
        (sqlite3.SQLITE_NOTADB, Unavailable),
        (sqlite3.SQLITE_CANTOPEN, Unavailable),
        (sqlite3.SQLITE_NOMEM, Unavailable),
        (sqlite3.SQLITE_BUSY, StorageTimeout),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StorageTimeout),
        (sqlite3.SQLITE_LOCKED, StorageTimeout),
        (sqlite3.SQLITE_ERROR, InternalError),
        (sqlite3.SQLITE_CONSTRAINT, InternalError),
    ],
)
def test_every_report_of_sqlite_has_a_code(code: int, error: type[StorageError]) -> None:
    """Every result code becomes an error of the tree that names the file."""
    reported = sqlite3.OperationalError("as reported")
    reported.sqlite_errorcode = code
    fault = translate(reported, "/data/quotes.sqlite3")
    assert type(fault) is error
    assert "/data/quotes.sqlite3" in fault.message


async def test_full_disk(file: Path) -> None:
    """When the file cannot grow, a write is refused whole; reads, and later writes, go on."""
    backend = SqliteBackend(file)
    kv = KV(backend, plugin="quotes")
    await kv.set("k", 1)
    assert backend._writer is not None

    def limit(bucket: object) -> None:
        connection: sqlite3.Connection = bucket._connection  # type: ignore[attr-defined]
        (now,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {now}")

    await backend._writer.run(limit)
    outcomes = await asyncio.gather(
        *(kv.set(f"big{number}", "x" * 30_000) for number in range(3)), kv.get("k"), return_exceptions=True
    )
    assert all(
        isinstance(outcome, Unavailable) and "disk is full" in outcome.message for outcome in outcomes[:3]
    )
    assert outcomes[3] == 1
    assert (await kv.list()).keys == ["k"]
    assert await kv.delete("k") is True
    await kv.close()


async def test_one_refusal_does_not_fail_its_neighbours(file: Path) -> None:
    """Writes that share a transaction are each all or nothing: the large one alone fails."""
    backend = SqliteBackend(file)
    kv = KV(backend, plugin="quotes")
    await kv.set("k", 1)
    assert backend._writer is not None

    def limit(bucket: object) -> None:
        connection: sqlite3.Connection = bucket._connection  # type: ignore[attr-defined]
        (now,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {now + 2}")

    await backend._writer.run(limit)
    outcomes = await asyncio.gather(
        kv.set("a", 1), kv.set("big", "x" * 60_000), kv.set("b", 2), return_exceptions=True
    )
    assert isinstance(outcomes[1], Unavailable)
    assert [type(outcomes[0]), type(outcomes[2])] == [int, int]
    assert (await kv.list()).keys == ["a", "b", "k"]
    await kv.close()


async def test_lock_held_by_another_program(file: Path) -> None:
    """A write waits for its time and says that nothing was written; reads go on; afterwards all is well."""
    kv = KV(SqliteBackend(file, timeout=0.4), plugin="quotes")
    await kv.set("k", 1)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    loop = asyncio.get_running_loop()
    begun = loop.time()
    writes = await asyncio.gather(*(kv.set("k", number) for number in range(20)), return_exceptions=True)
    assert all(isinstance(outcome, StorageTimeout) for outcome in writes)
    assert "nothing was written" in str(writes[0])
    assert loop.time() - begun < 10
    assert await kv.get("k") == 1
    waiting = asyncio.create_task(kv.set("k", 2))
    await asyncio.sleep(0.1)
    other.execute("COMMIT")
    other.close()
    await waiting
    assert await kv.get("k") == 2
    await kv.close()


async def test_opening_together(file: Path) -> None:
    """Many that open a new file at once all succeed, on one bucket."""
    clients = [KV(SqliteBackend(file), plugin="quotes") for _ in range(12)]
    revisions = await asyncio.gather(*(kv.set(f"k{n}", n) for n, kv in enumerate(clients)))
    assert sorted(revisions) == list(range(1, 13))
    for kv in clients:
        await kv.close()


async def test_memory() -> None:
    """`:memory:` belongs to its object, keeps every promise of reading and watching, and goes with it."""
    first, second = (KV(SqliteBackend(":memory:"), plugin="quotes") for _ in range(2))
    async with first.watch() as changes:
        await asyncio.gather(*(first.increment("n") for _ in range(50)))
        assert [(await anext(changes)).value for _ in range(50)] == list(range(1, 51))
        await first.set("t", 1, ttl=1)
        assert [(await anext(changes)).operation for _ in range(2)] == ["set", "expire"]
    assert (await first.list()).keys == ["n"]
    assert (await second.list()).keys == []
    await first.close()
    await second.close()


async def test_expired_while_nobody_looked(file: Path) -> None:
    """What expired with no process running is missing on opening, and told to no later watch."""
    now = 1_800_000_000_000_000_000
    kv = KV(SqliteBackend(file, clock=lambda: now), plugin="quotes")
    await kv.set("k", 1)
    await kv.set("k", 2, ttl=60)
    await kv.set("l", 3)
    await kv.close()
    later = now + 3600 * 10**9
    kv = KV(SqliteBackend(file, clock=lambda: later), plugin="quotes")
    assert await kv.get("k") is None
    async with kv.watch(current=True) as changes:
        await kv.create("k", 4)
        assert [(await anext(changes)).value for _ in range(2)] == [3, 4]
    assert [change.value for change in await kv.history("k")] == [4]
    await kv.close()


async def test_file_does_not_grow_with_overwriting(file: Path) -> None:
    """What left the history leaves the file: ten times the bucket's size, written over, stays bounded."""
    limits = BucketLimits(bucket_size=4 * 1024 * 1024, history=2)
    kv = KV(SqliteBackend(file, limits), plugin="quotes")
    for _ in range(40):
        await kv.set_many({f"k{number}": "x" * 50_000 for number in range(30)})
    await kv.close()
    assert file.stat().st_size < 40 * 1024 * 1024


async def test_cancelled_calls(file: Path) -> None:
    """A caller that is cancelled breaks nothing for the others."""
    kv = KV(SqliteBackend(file), plugin="quotes")
    await kv.set("k", 0)
    for _ in range(20):
        tasks = [asyncio.create_task(kv.set("k", number)) for number in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, int) for outcome in outcomes[1::2])
    assert await kv.get("k") == 19
    await kv.close()
