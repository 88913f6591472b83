"""Many at once, and nothing left behind."""

from __future__ import annotations

import asyncio
import json

import pytest

from rosey_deploy.stack.nats import NatsServer
from rosey_kvstore.errors import KeyExists


@pytest.mark.timeout(120)
async def test_increments_from_several_clients(nats_server: NatsServer, plugin: str, open_kv) -> None:
    """50 tasks on five connections, 100 increments each: exactly 5,000, every number once."""
    clients = [await open_kv(nats_server, plugin, timeout=60) for _ in range(5)]

    async def work(number: int) -> list[int]:
        return [await clients[number % 5].increment("hits") for _ in range(100)]

    told = await asyncio.gather(*(work(number) for number in range(50)))
    assert await clients[0].get("hits") == 5000
    assert sorted(number for numbers in told for number in numbers) == list(range(1, 5001))


async def test_one_creates(nats_server: NatsServer, plugin: str, open_kv) -> None:
    """Of 20 that create the same key one wins, also while an expiry marker stands."""
    clients = [await open_kv(nats_server, plugin) for _ in range(4)]

    async def create(number: int) -> bool:
        try:
            await clients[number % 4].create("lock", number, ttl=1)
        except KeyExists:
            return False
        return True

    for _ in range(3):
        assert sum(await asyncio.gather(*(create(number) for number in range(20)))) == 1
        while await clients[0].get("lock") is not None:
            await asyncio.sleep(0.02)


@pytest.mark.timeout(120)
async def test_no_consumer_is_left(nats_server: NatsServer, plugin: str, open_kv) -> None:
    """A thousand lists, histories, items and closed watches leave none on the stream."""
    kv = await open_kv(nats_server, plugin)
    api = kv._backend.api
    for number in range(30):
        await kv.set(f"room.{number % 3}.user{number}", number)
    for number in range(1000):
        kv._backend._listing.forget()  # each list reads anew: the way that uses a consumer
        assert len((await kv.list()).keys) == 30
        await kv.history("room.0.user0")
        if number % 5 == 0:
            assert [pair async for pair in kv.items(prefix="room.1")]
            async with kv.watch(prefix="room"):
                pass
            watch = kv.watch(current=True)
            await anext(watch)
            await watch.aclose()
        if number % 50 == 0:
            listing = asyncio.create_task(kv.list())
            await asyncio.sleep(0)
            listing.cancel()
    await asyncio.sleep(0.3)
    info = json.loads((await api.connection.request(f"$JS.API.STREAM.INFO.{api.stream}")).data)
    assert info["state"]["consumer_count"] == 0


async def test_closing_the_storage_ends_watches(nats_server: NatsServer, plugin: str, open_kv) -> None:
    """A reader that waits is released, and the consumer is removed."""
    kv, other = await open_kv(nats_server, plugin), await open_kv(nats_server, plugin)

    async def read() -> int:
        return len([change async for change in kv.watch()])

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.2)
    await kv.close()
    async with asyncio.timeout(5):
        assert await reading == 0
    assert (await other._backend.api.info())["state"]["consumer_count"] == 0


async def test_full_buckets_make_room(nats_server: NatsServer, plugin: str, open_kv) -> None:
    """A full bucket refuses and drops nothing; deleting makes room again, however full it is."""
    from rosey_kvstore import BucketLimits
    from rosey_kvstore.errors import QuotaExceeded

    kv = await open_kv(
        nats_server, plugin, limits=BucketLimits(bucket_size=256 * 1024, value_size=8192, history=5)
    )
    written = 0
    with pytest.raises(QuotaExceeded):
        while True:
            await kv.set(f"k{written}", "x" * 8000)
            written += 1
    assert len((await kv.list()).keys) == written
    with pytest.raises(QuotaExceeded):
        await kv.set_many({f"m{number}": "x" * 8000 for number in range(10)})
    for _ in range(3):  # deletes and sets in turn, always at the brim
        assert await kv.delete_many([f"k{number}" for number in range(5)]) == 5
        for number in range(5):
            await kv.set(f"k{number}", "y" * 8000)
    assert len((await kv.list()).keys) == written
    assert await kv.get(f"k{written - 1}") == "x" * 8000


async def test_markers_do_not_fill_a_bucket(nats_server: NatsServer, plugin: str, open_kv) -> None:
    """Keys that are made and deleted for ever leave room for the next."""
    from rosey_kvstore import BucketLimits

    kv = await open_kv(
        nats_server, plugin, limits=BucketLimits(bucket_size=64 * 1024, value_size=1024, history=3)
    )
    await kv.set("kept", "here")
    for number in range(1500):
        await kv.set(f"session:{number}", "x" * 100)
        assert await kv.delete(f"session:{number}")
    assert await kv.get("kept") == "here"
    assert (await kv.list()).keys == ["kept"]
