"""A bucket on three servers: reads are not older than what the process itself wrote, whoever answers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, closing
from pathlib import Path

import pytest

from rosey_deploy.stack.nats import NatsServer
from rosey_kvstore import KV
from rosey_kvstore.backend import BucketLimits
from rosey_kvstore.connection import Connection
from rosey_kvstore.errors import (
    KeyExists,
    NotProvisioned,
    RevisionMismatch,
    StorageError,
    StorageTimeout,
    Unavailable,
)
from rosey_kvstore.jetstream import JetStreamBackend

pytestmark = pytest.mark.slow

BUCKET = "plugin_quotes"


class Cluster:
    """Three servers that know each other, in a folder."""

    def __init__(self, folder: Path) -> None:
        routes = [_free_port() for _ in range(3)]
        self.servers = [
            NatsServer(
                folder / str(number),
                settings={
                    "server_name": f"n{number}",
                    "cluster": {
                        "name": "test",
                        "listen": f"127.0.0.1:{route}",
                        "routes": [f"nats://127.0.0.1:{other}" for other in routes],
                        "no_advertise": True,
                    },
                },
            )
            for number, route in enumerate(routes)
        ]

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def cluster(tmp_path: Path):
    made = Cluster(tmp_path)
    with ExitStack() as stack:
        for server in made.servers:
            stack.callback(server.stop)
            server.launch()
        for server in made.servers:
            server.wait_ready()
        yield made


@pytest.fixture
async def kvs(cluster: Cluster) -> AsyncIterator[list[KV]]:
    """One plugin's keys, over a connection to each server."""
    connections = [await Connection.open([url], timeout=10) for url in cluster.urls]
    limits = BucketLimits(replicas=3, history=3)
    backends = [JetStreamBackend(connection, bucket=BUCKET, create=limits) for connection in connections]
    async with asyncio.timeout(60):
        while True:  # until the servers have found each other
            try:
                await backends[0].open()
            except (Unavailable, NotProvisioned, StorageError):
                await asyncio.sleep(0.1)
            else:
                break
    found = [KV(backend, plugin="quotes", timeout=10) for backend in backends]
    yield found
    for kv in found:
        await kv.close()
    for connection in connections:
        await connection.close()


async def test_what_a_process_wrote_it_reads(kvs: list[KV]):
    """set, then get, entry, get_many, list, items; delete, then get and list: never as it was before."""

    async def one(kv: KV, number: int) -> None:
        for turn in range(60):
            key = f"k{number}.{turn % 7}"
            await kv.set(key, turn)
            assert await kv.get(key) == turn
            entry = await kv.entry(key)
            assert entry is not None
            assert entry.value == turn
            assert await kv.update(key, -turn, revision=entry.revision) > entry.revision
            assert await kv.get_many([key]) == {key: -turn}
            if turn % 6 == 0:
                assert key in (await kv.list(prefix=f"k{number}.", limit=100)).keys
                assert (key, -turn) in [found async for found in kv.items(prefix=f"k{number}.")]
            assert await kv.delete(key), "a value that is there counts as deleted"
            assert await kv.get(key, default="gone") == "gone"
            assert await kv.get_many([key]) == {}
            if turn % 6 == 0:
                assert key not in (await kv.list(prefix=f"k{number}.", limit=100)).keys
            await kv.create(key, turn)
            with pytest.raises(KeyExists):
                await kv.create(key, 0)
            await kv.set_many({key: turn, f"{key}.more": turn})
            assert await kv.get(f"{key}.more") == turn

    await asyncio.gather(*(one(kvs[number % 3], number) for number in range(12)))
    # What others wrote is there a moment later; lists of every connection agree, and none keeps an old one.
    lists = [(await kv.list(limit=1000)).keys for kv in kvs]
    assert len(lists[0]) == 12 * 14
    assert lists[0] == lists[1] == lists[2]


async def test_counting_over_three_servers(kvs: list[KV]):
    """Increments through every server add up, each number once; one of many creates wins."""
    numbers = await asyncio.gather(*(kvs[n % 3].increment("hits") for n in range(150)))
    assert sorted(numbers) == list(range(1, 151))
    created = await asyncio.gather(*(kvs[n % 3].create("lock", n) for n in range(12)), return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in created) == 1
    entry = await kvs[0].entry("lock")
    assert entry is not None
    results = await asyncio.gather(
        *(kvs[n % 3].update("lock", n, revision=entry.revision) for n in range(6)), return_exceptions=True
    )
    assert sum(isinstance(result, RevisionMismatch) for result in results) == 5


async def test_an_expired_key_is_gone_without_delay(kvs: list[KV]):
    """That this process wrote it does not make it come back, or take long to be missed."""
    kv = kvs[1]
    await kv.set("short", 1, ttl=1)
    async with asyncio.timeout(20):
        while await kv.get("short") is not None:
            await asyncio.sleep(0.05)
    await asyncio.sleep(1.5)  # the marker goes as well
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(5):
        assert await kv.get("short") is None
    assert loop.time() - began < 2
    await kv.create("short", 2)
    assert await kv.get("short") == 2


async def test_a_watch_over_the_death_of_a_leader(cluster: Cluster, kvs: list[KV]):
    """Nothing acknowledged is missing from a watch, nothing comes twice or out of order; bursts included."""
    async with AsyncExitStack() as stack:
        made: list[KV] = []
        for _ in range(3):
            connection = await Connection.open(cluster.urls, timeout=10)
            stack.push_async_callback(connection.close)
            made.append(KV(JetStreamBackend(connection, bucket=BUCKET), plugin="quotes", timeout=10))
            stack.push_async_callback(made[-1].close)
        writer, *watchers = made
        watches = [await stack.enter_async_context(kv.watch(prefix="w")) for kv in watchers]
        seen: list[dict[int, tuple[str, int]]] = [{} for _ in watches]
        acknowledged: dict[int, tuple[str, int]] = {}

        async def write(key: str, value: int) -> None:
            with contextlib.suppress(
                Unavailable, StorageTimeout
            ):  # away, or nobody knows whether it was done
                acknowledged[await writer.set(key, value)] = (key, value)

        async def write_own(phase: str) -> None:
            for turn in range(20):
                await asyncio.gather(*(write(f"w.{phase}.{turn}.{number}", turn) for number in range(10)))

        async def write_hot() -> None:
            """Writes of one key that are sent together, far more than its history holds."""
            await asyncio.gather(*(write("w.hot", number) for number in range(100)))

        async def read() -> None:
            last = await writer.set("w.last", 0)
            async with asyncio.timeout(60):
                for watch, told in zip(watches, seen, strict=True):
                    while max(told, default=0) < last:
                        change = await anext(watch)
                        assert change.revision > max(told, default=0)
                        told[change.revision] = (change.key, change.value)

        await write_hot()
        await read()
        info = await JetStreamBackend(connection, bucket=BUCKET).api.info()
        leader = int(info["cluster"]["leader"].removeprefix("n"))
        await asyncio.gather(write_own("during"), asyncio.to_thread(cluster.servers[leader].kill))
        await write_own("after")
        await write_hot()
        await read()
        assert len(acknowledged) > 500
        for told in seen:
            assert acknowledged.items() <= told.items()
