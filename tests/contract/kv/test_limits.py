"""The bucket's size: full means refused, never dropped, and deleting makes room again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from rosey_kvstore import KV, BucketLimits
from rosey_kvstore.errors import QuotaExceeded
from support.kv import Place

VALUE = "x" * 1000


async def full(place: Place, history: int = 10) -> tuple[KV, list[str]]:
    """A bucket of 64 KiB that takes no further kilobyte, and its keys."""
    place.limits = BucketLimits(bucket_size=64 * 1024, history=history)
    kv = await place.kv()
    keys: list[str] = []
    with pytest.raises(QuotaExceeded):
        for number in range(100):
            await kv.set(f"k{number:02}", VALUE)
            keys.append(f"k{number:02}")
    return kv, keys


async def test_a_full_bucket_refuses_and_keeps_everything(place: Place) -> None:
    """Writes of every kind get `quota_exceeded`; what is stored stays, readable and whole."""
    kv, keys = await full(place)
    assert 50 <= len(keys) <= 64  # 64 KiB, less what the bucket adds to each record
    writes: list[Callable[[], Awaitable[object]]] = [
        lambda: kv.set("new", VALUE),
        lambda: kv.create("new", VALUE),
        lambda: kv.set("new", VALUE, ttl=60),
        lambda: kv.set_many({"new": VALUE, "new2": VALUE}),
    ]
    for write in writes:
        with pytest.raises(QuotaExceeded):
            await write()
    assert (await kv.list()).keys == keys
    assert [value async for _, value in kv.items()] == [VALUE] * len(keys)


async def test_set_many_past_the_quota_writes_nothing(place: Place) -> None:
    """A batch that does not fit whole leaves nothing of itself."""
    place.limits = BucketLimits(bucket_size=64 * 1024)
    kv = await place.kv()
    await kv.set("k", 1)
    with pytest.raises(QuotaExceeded):
        await kv.set_many({f"m{number}": VALUE for number in range(80)})
    assert (await kv.list()).keys == ["k"]
    assert len(await kv.set_many({f"m{number}": VALUE for number in range(20)})) == 20


async def test_deleting_makes_room_again(place: Place) -> None:
    """In a full bucket delete works, is known as one, and what it frees can be used."""
    kv, keys = await full(place)
    assert await kv.delete(keys[0]) is True
    assert await kv.get(keys[0]) is None
    assert await kv.delete(keys[1]) is True
    await kv.set("new", VALUE)
    assert await kv.get("new") == VALUE
    assert (await kv.list()).keys == [*keys[2:], "new"]


async def test_deleting_all_empties_it(place: Place) -> None:
    """A bucket can be filled and emptied again and again, though it keeps a history.

    Filled to three quarters: the markers under values that are back take some room.
    """
    kv, keys = await full(place)
    for _ in range(3):
        assert await kv.delete_many(keys) == len(keys)
        keys = keys[:48]
        for key in keys:
            await kv.set(key, VALUE)
    assert (await kv.list()).keys == keys


async def test_history_of_deleted_keys_does_not_fill_it(place: Place) -> None:
    """Ever new keys, each deleted after use, never fill the bucket."""
    place.limits = BucketLimits(bucket_size=64 * 1024)
    kv = await place.kv()
    for number in range(300):
        await kv.set(f"job:{number}", VALUE)
        await kv.delete(f"job:{number}")
    assert (await kv.list()).keys == []


async def test_expiry_makes_room(place: Place) -> None:
    """What expires frees its bytes, without a delete."""
    place.limits = BucketLimits(bucket_size=64 * 1024)
    kv = await place.kv()
    await kv.set_many({f"t{number}": VALUE for number in range(55)}, ttl=1)
    with pytest.raises(QuotaExceeded):
        await kv.set("big", "x" * 20_000)
    await asyncio.sleep(3)
    await kv.set("big", "x" * 20_000)


async def test_watchers_see_deletes_of_a_full_bucket(place: Place) -> None:
    """However a delete makes its room, watchers are told of it, once."""
    kv, keys = await full(place)
    async with kv.watch() as changes, asyncio.timeout(10):
        for key in keys[:3]:
            await kv.delete(key)
        found = [await anext(changes) for _ in range(3)]
        assert [(change.operation, change.key) for change in found] == [("delete", key) for key in keys[:3]]
        await kv.set("end", 1)
        assert (await anext(changes)).key == "end"
