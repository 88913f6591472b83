"""Several processes on one file: nothing lost, nothing told twice, also when one is killed."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from rosey_kvstore import KV
from rosey_kvstore.sqlite import SqliteBackend

COUNTER = """
import asyncio, sys
from rosey_kvstore import KV
from rosey_kvstore.sqlite import SqliteBackend

async def main():
    kv = KV(SqliteBackend(sys.argv[1]), plugin="quotes", timeout=60)
    for number in range(int(sys.argv[2])):
        await kv.increment("n")
    await kv.close()

asyncio.run(main())
"""

WRITER = """
import asyncio, sys
from rosey_kvstore import KV
from rosey_kvstore.sqlite import SqliteBackend

async def main():
    kv = KV(SqliteBackend(sys.argv[1]), plugin="quotes")
    batch = 0
    while True:
        batch += 1
        await kv.set_many({f"b{number}": batch for number in range(20)})
        print(batch, flush=True)

asyncio.run(main())
"""


async def start(code: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, *arguments), stdout=asyncio.subprocess.PIPE
    )


async def end(*processes: asyncio.subprocess.Process) -> None:
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_processes_count_together(tmp_path: Path) -> None:
    """Three processes increment one key: the sum is exact, and a watcher here sees every number once."""
    file = str(tmp_path / "quotes.sqlite3")
    kv = KV(SqliteBackend(file), plugin="quotes")
    async with kv.watch() as changes:
        processes = [await start(COUNTER, file, "150") for _ in range(3)]
        try:
            async with asyncio.timeout(90):
                values = [(await anext(changes)).value for _ in range(450)]
                assert [await process.wait() for process in processes] == [0, 0, 0]
        finally:
            await end(*processes)
    assert values == list(range(1, 451))
    assert await kv.get("n") == 450
    await kv.close()


async def test_expiry_set_by_a_process_that_is_gone(tmp_path: Path) -> None:
    """A watcher is told of the expiry of what another process wrote before it ended."""
    file = str(tmp_path / "quotes.sqlite3")
    kv = KV(SqliteBackend(file), plugin="quotes")
    code = COUNTER.replace('kv.increment("n")', 'kv.set("t", 1, ttl=1)')
    async with kv.watch() as changes, asyncio.timeout(30):
        process = await start(code, file, "1")
        try:
            assert [(await anext(changes)).operation for _ in range(2)] == ["set", "expire"]
        finally:
            await end(process)
    await kv.close()


@pytest.mark.parametrize("times", [5])
async def test_killed_writer(tmp_path: Path, times: int) -> None:
    """`kill -9` in the middle of writing: what was acknowledged is there, every batch is whole."""
    file = str(tmp_path / "quotes.sqlite3")
    for _ in range(times):
        writer = await start(WRITER, file)
        assert writer.stdout is not None
        try:
            async with asyncio.timeout(60):
                lines = [int(await writer.stdout.readline()) for _ in range(20)]
            writer.send_signal(signal.SIGKILL)
            rest, _ = await writer.communicate()
        finally:
            await end(writer)
        acknowledged = max([*lines, *map(int, rest.split(b"\n")[:-1])])
        kv = KV(SqliteBackend(file), plugin="quotes")
        values = [value async for _, value in kv.items()]
        assert len(values) == 20
        assert len(set(values)) == 1
        assert values[0] in (acknowledged, acknowledged + 1)
        await kv.delete_many(prefix="b")
        await kv.close()
