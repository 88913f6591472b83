"""Watches: changes of every writer, in order, each once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rosey_kvstore import KV
from rosey_kvstore.errors import InvalidName, Overloaded, Unavailable
from support.kv import Place, take, told, until


async def test_tells_changes_of_every_client(place: Place) -> None:
    """Sets, deletes and expiries by this client and by another, in the order of their revisions."""
    kv, other = await place.kv(), await place.kv()
    await kv.set("before", 1)
    async with kv.watch() as changes:
        first = await kv.set("a", 1)
        await other.set("a", 2)
        await other.delete("a")
        await kv.set("t", 3, ttl=1)
        await other.set_many({"x": 1, "y": 2})
        found = await take(changes, 7)
        assert told(found) == [
            ("set", "a", 1),
            ("set", "a", 2),
            ("delete", "a", None),
            ("set", "t", 3),
            ("set", "x", 1),
            ("set", "y", 2),
            ("expire", "t", None),
        ]
        assert found[0].revision == first
        revisions = [change.revision for change in found]
        assert revisions == sorted(set(revisions))
        assert all(change.created.tzinfo is not None for change in found)


async def test_prefix_is_text(kv: KV) -> None:
    """A watch of a prefix tells of the keys that begin with it, inside a word and across dots too."""
    async with kv.watch(prefix="us") as some, kv.watch(prefix="a.") as dotted, kv.watch(prefix="a_") as exact:
        for key in ("user:1", "u", "us", "a.b", "a.", "a..b", "axb", "a_b", "ab"):
            await kv.set(key, 0)
        await kv.set_many({"us!": 1, "a.!": 1, "a_!": 1})
        assert [change.key for change in await take(some, 3)] == ["user:1", "us", "us!"]
        assert [change.key for change in await take(dotted, 4)] == ["a.b", "a.", "a..b", "a.!"]
        assert [change.key for change in await take(exact, 2)] == ["a_b", "a_!"]


async def test_current_first(kv: KV) -> None:
    """`current=True` tells what is live, once, before what changes."""
    await kv.set_many({"a": 1, "b": 2, "c": 3})
    await kv.set("a", 4)
    await kv.delete("b")
    await kv.set("t", 5, ttl=60)
    async with kv.watch(current=True) as changes:
        first = told(await take(changes, 3))
        await kv.set("c", 6)
        await kv.delete("a")
        then = told(await take(changes, 2))
    assert sorted(first) == [("set", "a", 4), ("set", "c", 3), ("set", "t", 5)]
    assert then == [("set", "c", 6), ("delete", "a", None)]


async def test_changes_before_current_is_read(kv: KV) -> None:
    """What changes between the start and the first read is told once, as current or as a change."""
    await kv.set_many({"a": 1, "b": 2, "c": 3})
    async with kv.watch(current=True) as changes:
        await kv.set("c", 4)
        await kv.delete("a")
        await kv.set("end", 0)
        state: dict[str, Any] = {}
        revisions: list[int] = []
        while state.get("end") is None or "a" in state:
            (change,) = await take(changes, 1)
            revisions.append(change.revision)
            if change.operation == "set":
                state[change.key] = change.value
            else:
                state.pop(change.key, None)
        await kv.set("z", 1)
        while "z" not in state:
            (change,) = await take(changes, 1)
            revisions.append(change.revision)
            state[change.key] = change.value
    assert state == {"b": 2, "c": 4, "end": 0, "z": 1}
    assert len(set(revisions)) == len(revisions)


async def test_current_of_nothing(kv: KV) -> None:
    """An empty bucket has nothing to tell first, and the watch stands all the same."""
    async with kv.watch(prefix="p", current=True) as changes:
        await kv.set("q", 1)
        await kv.set("p", 2)
        assert told(await take(changes, 1)) == [("set", "p", 2)]


async def test_no_change_is_missed_while_a_watch_begins(place: Place) -> None:
    """What is current and what changes fit together without a gap or a repeat, under constant writes."""
    kv, other = await place.kv(), await place.kv()
    stop = asyncio.Event()
    last = 0

    async def write() -> None:
        nonlocal last
        while not stop.is_set():
            last += 1
            await other.set("k", last)

    await kv.set("k", 0)
    writer = asyncio.create_task(write())
    try:
        for _ in range(10):
            async with kv.watch(current=True) as changes:
                values = [change.value for change in await take(changes, 20)]
            assert values == list(range(values[0], values[0] + 20))
    finally:
        stop.set()
        await writer


async def test_every_change_of_a_hot_key(place: Place) -> None:
    """A burst far deeper than the history is told whole, to a watcher of another client too."""
    kv, other = await place.kv(), await place.kv()
    async with kv.watch(prefix="n") as near, other.watch(prefix="n") as far:
        for _ in range(20):
            await asyncio.gather(*(kv.increment("n") for _ in range(25)))
        for changes in (near, far):
            found = await take(changes, 500)
            assert [change.value for change in found] == list(range(1, 501))


async def test_every_change_of_a_burst(place: Place) -> None:
    """Writes of one key that are sent together, fifty times what its history holds, are told one by one."""
    kv, other = await place.kv(), await place.kv()
    async with kv.watch(prefix="n") as near, other.watch() as far:
        made = await asyncio.gather(*(kv.set("n", number) for number in range(500)))
        for changes in (near, far):
            found = await take(changes, 500)
            assert [change.revision for change in found] == sorted(made)
            assert {change.value for change in found} == set(range(500))


async def test_expiry_is_told_once(place: Place) -> None:
    """One event for each expiry, soon after it, to each watcher; a write in time prevents it."""
    kv, other = await place.kv(), await place.kv()
    async with kv.watch() as near, other.watch() as far:
        await kv.set("a", 1, ttl=1)
        await kv.set("b", 1, ttl=1)
        await kv.set("b", 2)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for changes in (near, far):
            assert told(await take(changes, 4))[3:] == [("expire", "a", None)]
        assert 0.8 < loop.time() - begun < 5
        await asyncio.sleep(2.5)  # past the marker's own end
        await kv.set("end", 1)
        for changes in (near, far):
            assert told(await take(changes, 1)) == [("set", "end", 1)]


async def test_create_over_an_expiry_is_told_after_it(kv: KV) -> None:
    """A key that expires and is made anew: set, expire, set."""
    async with kv.watch() as changes:
        await kv.set("k", 1, ttl=1)

        async def missing() -> bool:
            return await kv.entry("k") is None

        await until(missing)
        await kv.create("k", 2)
        found = await take(changes, 3)
        assert told(found) == [("set", "k", 1), ("expire", "k", None), ("set", "k", 2)]


async def test_closing_ends_it(kv: KV) -> None:
    """`aclose`, leaving the block and closing the storage end a waiting reader; no error, no hang."""
    watch = kv.watch()
    await watch.start()
    waiting = asyncio.create_task(take(watch, 1))
    await asyncio.sleep(0.05)
    await watch.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(watch)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    async def read() -> list[Any]:
        return [change async for change in watch_of_all]

    watch_of_all = kv.watch()
    await watch_of_all.start()
    reader = asyncio.create_task(read())
    await kv.set("k", 1)
    await asyncio.sleep(0.2)
    await kv.close()
    async with asyncio.timeout(5):
        assert told(await reader) == [("set", "k", 1)]
    with pytest.raises(Unavailable):
        await kv.watch().start()


async def test_cancelled_reader_does_not_break_the_others(kv: KV) -> None:
    """A reader that is cancelled leaves its watch; another one goes on."""
    async with kv.watch() as stays:
        for _ in range(5):
            watch = kv.watch()
            await watch.start()
            reader = asyncio.create_task(take(watch, 1))
            await asyncio.sleep(0.01)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            await watch.aclose()
        await kv.set("k", 1)
        assert told(await take(stays, 1)) == [("set", "k", 1)]


async def test_slow_reader_is_not_skipped(place: Place) -> None:
    """A reader that reads nothing during a flood gets every change or, after those it gets, an error."""
    kv = await place.kv()
    writer = await place.backend()
    total = 70_000
    async with kv.watch(prefix="f") as changes:
        for start in range(0, total, 1000):
            await writer.put_many([(f"f{n % 5000}", b"%d" % n) for n in range(start, start + 1000)], None)
        expected = 0
        try:
            async with asyncio.timeout(60):
                while expected < total:
                    change = await anext(changes)
                    assert change.value == expected
                    expected += 1
        except Overloaded:
            assert expected > 0


async def test_bad_prefix(kv: KV) -> None:
    """A prefix that is no text is refused at the call."""
    with pytest.raises(InvalidName):
        kv.watch(prefix="\ud800")
