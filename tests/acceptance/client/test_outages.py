"""Servers die under a plugin at work: coded errors within the call's time, and it goes on by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from attrs import Factory, define

from rosey_deploy.stack.dev import DevStack
from rosey_deploy.stack.nats import NatsServer
from rosey_storage import Column, NotProvisioned, Storage, StorageError, StorageTimeout, Unavailable

TIMEOUT = 2.0
# A call ends within its timeout; this is what a machine with two noisy cores may take to notice.
SLACK = 3.0
RECOVERY = 40.0


@define
class Load:
    """Callers that go on whatever happens, and what became of their calls."""

    storage: Storage
    acknowledged: set[int] = Factory(set)
    unknown: set[int] = Factory(set)
    kv_acknowledged: set[str] = Factory(set)
    errors: list[StorageError] = Factory(list)
    slowest: float = 0.0
    reads: int = 0
    running: bool = True
    started: int = 0

    @property
    def done(self) -> tuple[int, int, int]:
        """How many calls of each kind have succeeded."""
        return len(self.acknowledged), self.reads, len(self.kv_acknowledged)

    async def __call__(self) -> None:
        callers = [self._insert, self._insert, self._insert, self._read, self._read, self._set, self._set]
        async with asyncio.TaskGroup() as group:
            for call in callers:
                group.create_task(self._repeat(call))

    async def _repeat(self, call: Callable[[int], Awaitable[None]]) -> None:
        while self.running:
            self.started += 1
            number, began = self.started, time.monotonic()
            try:
                await call(number)
            except StorageError as error:
                self.errors.append(error)
                if call == self._insert:
                    self.unknown.add(number)
            self.slowest = max(self.slowest, time.monotonic() - began)
            await asyncio.sleep(0.005)

    async def _insert(self, number: int) -> None:
        await self.storage.table("log").insert({"n": number})
        self.acknowledged.add(number)

    async def _read(self, number: int) -> None:
        await self.storage.table("log").select(order_by=["-n"], limit=5)
        self.reads += 1

    async def _set(self, number: int) -> None:
        await self.storage.kv.set(f"k{number}", number)
        self.kv_acknowledged.add(f"k{number}")


async def progress(load: Load) -> None:
    """Return once every kind of call succeeds again."""
    before = load.done
    async with asyncio.timeout(RECOVERY):
        while any(now <= then + 5 for now, then in zip(load.done, before, strict=True)):
            await asyncio.sleep(0.05)


async def live_through(storage: Storage, kill: Callable[[], Any], restore: Callable[[], Any]) -> Load:
    """Run the load over a kill and a restart; return what became of it, checked for what was promised."""
    await storage.table("log").define([Column("n", "integer", required=True, unique=True)])
    load = Load(storage)
    working = asyncio.create_task(load())
    try:
        await progress(load)
        assert load.errors == []
        await asyncio.to_thread(kill)
        await asyncio.sleep(TIMEOUT + 0.5)
        await asyncio.to_thread(restore)
        await progress(load)
    finally:
        load.running = False
        await working
    for error in load.errors:
        assert isinstance(error, Unavailable | StorageTimeout), error
        assert error.plugin == storage.plugin
        assert error.operation
    assert load.slowest < TIMEOUT + SLACK
    stored = [row["n"] async for row in storage.table("log").rows(columns=["n"], page_size=1000)]
    assert len(stored) == len(set(stored))
    assert load.acknowledged <= set(stored), "an acknowledged row is lost"
    assert set(stored) <= load.acknowledged | load.unknown, "a row that nobody wrote"
    kept = await storage.kv.get_many(load.kv_acknowledged)
    assert set(kept) == load.kv_acknowledged, "an acknowledged key is lost"
    return load


async def test_the_row_service_is_killed(own_stack: DevStack, plugin: str):
    """Row calls are refused within their time, keys never notice, and rows go on with the next process."""
    service = own_stack.service
    assert service is not None
    async with Storage.connect(plugin, url=own_stack.nats.url, timeout=TIMEOUT) as storage:
        load = await live_through(storage, service.kill, service.start)
    assert load.errors
    assert {error.operation for error in load.errors} <= {"rows.insert", "rows.select"}


async def test_nats_is_killed(own_stack: DevStack, plugin: str):
    """Every call is refused within its time, and the connection comes back by itself."""
    nats = own_stack.nats
    async with Storage.connect(plugin, url=nats.url, timeout=TIMEOUT) as storage:
        load = await live_through(storage, nats.kill, nats.start)
    assert {"kv.set", "rows.insert", "rows.select"} <= {error.operation for error in load.errors}


async def test_postgres_is_killed(own_stack: DevStack, plugin: str):
    """Row calls are refused within their time, keys never notice, and rows go on with the same service."""
    postgres = own_stack.postgres
    assert postgres is not None
    async with Storage.connect(plugin, url=own_stack.nats.url, timeout=TIMEOUT) as storage:
        load = await live_through(storage, postgres.kill, postgres.start)
    assert load.errors
    assert {error.operation for error in load.errors} <= {"rows.insert", "rows.select"}


async def test_a_read_outlives_a_short_restart_of_the_service(own_stack: DevStack, plugin: str):
    """A call with enough time waits for the service to be back instead of failing."""
    service = own_stack.service
    assert service is not None
    async with Storage.connect(plugin, url=own_stack.nats.url, timeout=60) as storage:
        table = storage.table("log")
        await table.define([Column("n", "integer")])
        service.stop()
        calls = asyncio.gather(table.select(), table.insert({"n": 1}))
        await asyncio.sleep(0.3)
        assert not calls.done()
        await asyncio.to_thread(service.start)
        page, row = await calls
    assert (len(page) <= 1, row["n"]) == (True, 1)


async def test_without_a_row_service_the_error_says_so(nats_server: NatsServer, plugin: str):
    """Keys work; rows say which part is missing and what to start, within the call's time."""
    async with Storage.connect(plugin, url=nats_server.url, timeout=1) as storage:
        await storage.kv.set("a", 1)
        began = time.monotonic()
        with pytest.raises(Unavailable, match="row service does not answer") as caught:
            await storage.table("quotes").select()
        assert time.monotonic() - began < 1 + SLACK
        assert "rosey-storage" in (caught.value.hint or "")
        assert await storage.kv.get("a") == 1


async def test_production_makes_no_bucket(nats_server: NatsServer, plugin: str):
    """A plugin that was not provisioned gets `NotProvisioned`, with what an operator has to do."""
    async with Storage.connect(plugin, url=nats_server.url, env="production") as storage:
        with pytest.raises(NotProvisioned) as caught:
            await storage.kv.get("a")
    assert caught.value.plugin == plugin
    assert caught.value.hint
    async with Storage.connect(plugin, url=nats_server.url) as storage:
        await storage.kv.set("a", 1)
    async with Storage.connect(plugin, url=nats_server.url, env="production") as storage:
        assert await storage.kv.get("a") == 1


async def test_a_storage_closed_in_the_middle_ends_its_calls(own_stack: DevStack, plugin: str):
    """Calls under way and watches end at once; nobody waits for a reply that cannot come."""
    storage = await Storage.connect(plugin, url=own_stack.nats.url, timeout=60)
    await storage.table("log").define([Column("n", "integer")])
    watching = asyncio.create_task(anext(storage.kv.watch(), None))
    await asyncio.sleep(0.2)
    calls = [asyncio.create_task(storage.table("log").insert({"n": n})) for n in range(20)]
    await asyncio.sleep(0)
    await storage.close()
    async with asyncio.timeout(10):
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert await watching is None
    for result in results:
        assert isinstance(result, dict | Unavailable), result


async def test_the_timeout_is_that_of_keys_too(nats_server: NatsServer, plugin: str):
    """ROSEY_STORAGE_TIMEOUT bounds every request of KV, as it bounds those of rows."""
    async with Storage.connect(plugin, url=nats_server.url, timeout=1.5) as storage:
        await storage.kv.set("a", 1)
        assert storage._transport.backend.api.timeout == 1.5
