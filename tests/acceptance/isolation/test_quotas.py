"""A plugin past its quota gets its code; its neighbour notices nothing."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from rosey_storage import (
    Column,
    OutOfRange,
    QuotaExceeded,
    RequestTooLarge,
    Storage,
    StorageError,
    TooManyRows,
    ValueTooLarge,
)
from support.secure import Installation


async def neighbour_in_use(storage: Storage, stop: asyncio.Event) -> list[float]:
    """A quiet neighbour: one key and one row again and again; any error ends the test."""
    times = []
    while not stop.is_set():
        began = time.perf_counter()
        await storage.kv.set("a", 1)
        assert await storage.kv.get("a") == 1
        await storage.table("t").insert({"n": 1})
        times.append(time.perf_counter() - began)
        await asyncio.sleep(0.01)
    return times


async def burst(call, count: int) -> Counter[str]:
    """Many calls at once; how they ended."""

    async def one() -> str:
        try:
            await call()
        except StorageError as error:
            return error.code
        return "ok"

    return Counter(await asyncio.gather(*(one() for _ in range(count))))


async def test_each_limit_has_its_code(installation: Installation, plugin: str) -> None:
    """Bucket bytes, value, request, rows per page and per insert, statements at once, rate."""
    await installation.add(
        plugin,
        rows=True,
        value_size=1000,
        bucket_size=64 * 1024,
        request_size=20_000,
        rows_per_page=200,
        rows_per_insert=10,
        requests_in_flight=2,
        requests_waiting=4,
        requests_per_second=200.0,
        burst=200.0,
    )
    quiet = f"{plugin}quiet"
    await installation.add(quiet, rows=True)
    await asyncio.sleep(0.5)  # the row service has read the limits
    stop = asyncio.Event()
    async with installation.storage(plugin) as storage, installation.storage(quiet) as other:
        await other.table("t").define([Column("n", "integer")])
        neighbour = asyncio.create_task(neighbour_in_use(other, stop))
        table = storage.table("t")
        await table.define([Column("n", "integer"), Column("text", "text")])

        with pytest.raises(ValueTooLarge):
            await storage.kv.set("a", "x" * 1000)
        with pytest.raises(QuotaExceeded):
            for number in range(200):
                await storage.kv.set(f"k{number}", "x" * 900)
        with pytest.raises(OutOfRange):
            await table.select(limit=201)
        with pytest.raises(TooManyRows):
            await table.insert_many([{"n": 1}] * 11)
        with pytest.raises(RequestTooLarge):
            await table.insert({"text": "x" * 30_000})

        ended = await burst(lambda: table.insert({"n": 1}), 60)
        assert set(ended) <= {"ok", "overloaded"}
        assert ended["overloaded"] > 0
        assert ended["ok"] >= 6
        ended = await burst(lambda: table.select(limit=1), 600)
        assert ended["rate_limited"] >= 300
        await asyncio.sleep(1)
        await table.insert({"n": 1})  # and it goes on

        stop.set()
        times = sorted(await neighbour)
        assert len(times) > 20
        assert times[len(times) // 2] < 0.1


async def test_watches_have_a_limit(installation: Installation, plugin: str) -> None:
    """More watches than an account may have consumers are refused with a code, and none is lost."""
    await installation.add(plugin)
    async with installation.storage(plugin) as storage:
        watches = []
        with pytest.raises(QuotaExceeded):
            for _ in range(200):
                watch = storage.kv.watch(prefix="a")
                watches.append(watch)
                await watch.start()
        assert len(watches) > 100
        assert await storage.kv.set("b", 1)
