"""A thousand keys that expire, where older values are kept."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from rosey_deploy.stack.nats import NatsServer


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_thousand_ttls_with_history(nats_server: NatsServer, plugin: str, open_kv) -> None:
    """None comes back, none expires early, all are gone within 1.5 s after, each expiry is told once."""
    kv = await open_kv(nats_server, plugin)
    reader = await open_kv(nats_server, plugin)
    names = [f"k{number}" for number in range(1000)]
    for value in range(3):
        await kv.set_many(dict.fromkeys(names, value))
    expired: list[str] = []
    choose = random.Random(5)
    async with reader.watch() as watch:

        async def read() -> None:
            async for change in watch:
                if change.operation == "expire":
                    expired.append(change.key)

        reading = asyncio.create_task(read())
        ends: dict[str, float] = {}
        ttls: dict[str, int] = {}
        for name in names:
            ttls[name] = choose.choice((2, 3, 4))
            before = time.monotonic()
            await kv.set(name, "short", ttl=ttls[name])
            ends[name] = before + ttls[name]
        early, late = [], []
        last = max(ends.values())
        while (now := time.monotonic()) < last + 2.5:
            live = await reader.get_many(names)
            then = time.monotonic()
            early += [name for name in names if name not in live and then < ends[name]]
            # 1.5 s after the end, and what this reading took
            late += [name for name in live if now > ends[name] + 1.5]
            assert set(live.values()) <= {"short"}
            await asyncio.sleep(0.05)
        assert (early, late) == ([], [])
        assert await reader.list() == await kv.list()
        assert (await kv.list()).keys == []
        async with asyncio.timeout(5):
            while len(expired) < 1000:
                await asyncio.sleep(0.05)
        reading.cancel()
    assert sorted(expired) == sorted(names)


async def test_increment_keeps_the_time_that_is_left(nats_server: NatsServer, plugin: str, open_kv) -> None:
    """However often it is called, the key ends when it was to end; within the server's second."""
    kv = await open_kv(nats_server, plugin)
    start = time.monotonic()
    await kv.increment("hits", ttl=3)
    first = (await kv.entry("hits")).expires
    while time.monotonic() - start < 2.7:
        await kv.increment("hits")
        await asyncio.sleep(0.05)
    entry = await kv.entry("hits")
    assert entry.value > 20
    assert entry.expires == first
    while await kv.get("hits") is not None:
        await asyncio.sleep(0.02)
    assert 3.0 <= time.monotonic() - start + 0.01 < 4.8
