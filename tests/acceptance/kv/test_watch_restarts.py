"""A watch outlives its server."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from rosey_deploy.stack.nats import NatsServer
from rosey_kvstore.errors import StorageError


@pytest.mark.timeout(180)
async def test_a_watcher_across_ten_restarts(own_nats_server: NatsServer, plugin: str, open_kv) -> None:
    """Every change is told exactly once, in order, within two seconds of the server being back."""
    writer = await open_kv(own_nats_server, plugin)
    watcher = await open_kv(own_nats_server, plugin)
    written: list[int] = []
    seen: list[int] = []
    delays: list[float] = []
    async with watcher.watch(prefix="n") as watch:

        async def read() -> None:
            async for change in watch:
                seen.append(change.revision)

        reading = asyncio.create_task(read())
        for restart in range(10):
            for number in range(50):
                written.append(await writer.set(f"n{number}", restart))
            if restart % 2:
                own_nats_server.kill()
            else:
                own_nats_server.stop()
            await asyncio.sleep(0.1 * restart)
            await asyncio.to_thread(own_nats_server.start)
            back = time.monotonic()
            while True:  # the first write after the break tells when the watch goes on
                with contextlib.suppress(StorageError):
                    written.append(await writer.set("n-back", restart))
                    break
                await asyncio.sleep(0.01)
            while written[-1] not in seen:
                assert time.monotonic() - back < 30, "the watch did not go on"
                await asyncio.sleep(0.005)
            delays.append(time.monotonic() - back)
        async with asyncio.timeout(10):
            while len(seen) < len(written):
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)  # what would be told twice comes now
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
    # A write whose answer was lost may stand in the bucket as well; it is told once, like every other.
    assert sorted(set(seen)) == seen
    assert set(written) <= set(seen)
    assert len(seen) <= len(written) + 10
    assert max(delays) < 2.0, delays


async def test_a_slow_reader_gets_an_error_and_never_a_gap(
    own_nats_server: NatsServer, plugin: str, open_kv
) -> None:
    """What waited is told in order, then the error comes; the consumer is gone."""
    kv = await open_kv(own_nats_server, plugin, watch_buffer=20)
    seen = []
    async with kv.watch() as watch:
        for number in range(50):
            await kv.set("n", number)
        with pytest.raises(StorageError) as caught:
            async for change in watch:
                seen.append(change.value)
    assert seen == list(range(20))
    assert caught.value.code == "overloaded"
    assert caught.value.operation == "kv.watch"


async def test_a_deleted_bucket_ends_no_watch_silently(
    own_nats_server: NatsServer, plugin: str, open_kv
) -> None:
    """A bucket that is made anew is watched on from its beginning."""
    kv = await open_kv(own_nats_server, plugin)
    api = kv._backend.api
    async with kv.watch() as watch:
        await kv.set("a", 1)
        assert (await anext(watch)).value == 1
        await api.call(f"STREAM.DELETE.{api.stream}")
        await kv.set("b", 2)  # made on use, in development
        async with asyncio.timeout(20):
            assert (await anext(watch)).key == "b"
