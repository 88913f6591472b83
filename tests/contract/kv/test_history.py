"""History: what a key was, newest last, as deep as the bucket keeps it."""

from __future__ import annotations

import asyncio

import pytest

from rosey_kvstore import KV, BucketLimits
from support.kv import Place, told


async def test_newest_last_deletes_included(kv: KV) -> None:
    """Every change of the key and of no other, in order, with its revision and time."""
    first = await kv.set("k", 1)
    await kv.set("other", 0)
    second = await kv.set("k", 2)
    await kv.delete("k")
    third = await kv.create("k", 3)
    changes = await kv.history("k")
    assert told(changes) == [("set", "k", 1), ("set", "k", 2), ("delete", "k", None), ("set", "k", 3)]
    assert [changes[at].revision for at in (0, 1, 3)] == [first, second, third]
    assert second < changes[2].revision < third
    assert [change.created for change in changes] == sorted(change.created for change in changes)
    assert all(change.created.tzinfo is not None for change in changes)
    assert await kv.history("missing") == []


@pytest.mark.parametrize("depth", [1, 3, 64])
async def test_depth(place: Place, depth: int) -> None:
    """The last `history` changes are kept, a delete among them."""
    place.limits = BucketLimits(history=depth)
    kv = await place.kv()
    for number in range(depth + 5):
        await kv.set("k", number)
    await kv.set("other", 0)
    kept = [change.value for change in await kv.history("k")]
    assert kept == list(range(5, depth + 5))
    await kv.delete("k")
    operations = [change.operation for change in await kv.history("k")]
    assert operations == ["set"] * (depth - 1) + ["delete"]


async def test_write_with_a_ttl_keeps_no_older_revision(kv: KV) -> None:
    """Older values are gone: they would come back when the newer one expires."""
    await kv.set("k", 1)
    await kv.set("k", 2)
    await kv.set("k", 3, ttl=60)
    assert told(await kv.history("k")) == [("set", "k", 3)]
    await kv.set("k", 4)
    assert told(await kv.history("k")) == [("set", "k", 3), ("set", "k", 4)]


async def test_an_expiry_stands_for_a_second(kv: KV) -> None:
    """An expiry is an event of the history for a second; then nothing is left of the key."""
    for key in ("k", "l", "m"):  # a machine that stands still for that second misses one, and not three
        await kv.set(key, 1)
        await kv.set(key, 2, ttl=1)
        await asyncio.sleep(1.0)
        seen = set()
        async with asyncio.timeout(30):
            while () not in seen:
                seen.add(tuple(change.operation for change in await kv.history(key)))
                await asyncio.sleep(0.05)
        assert await kv.get(key) is None
        if ("expire",) in seen:
            break
    assert seen - {("set",)} == {("expire",), ()}
