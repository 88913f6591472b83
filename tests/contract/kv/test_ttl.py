"""Times to live: whole seconds, never early, nothing comes back."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import time
from typing import Any

import pytest

from rosey_kvstore import KV
from rosey_kvstore.errors import KeyExists, OutOfRange, RevisionMismatch, StorageError, TypeMismatch
from support.kv import Place, until


async def gone(kv: KV, key: str) -> None:
    """Wait until `key` is missing."""

    async def missing() -> bool:
        return await kv.entry(key) is None

    await until(missing)


async def left(kv: KV, key: str) -> float:
    """Seconds until `key` expires."""
    entry = await kv.entry(key)
    assert entry is not None
    assert entry.expires is not None
    assert entry.expires.tzinfo is not None
    return (entry.expires - dt.datetime.now(dt.UTC)).total_seconds()


async def test_expires_and_nothing_comes_back(kv: KV) -> None:
    """The value is there for its time, then missing for every call, whatever the key was before."""
    for number in range(3):
        await kv.set("k", number)
    begun = time.monotonic()
    revision = await kv.set("k", "last", ttl=2)
    await kv.set("plain", 1)
    while True:
        value = await kv.get("k")
        if time.monotonic() - begun > 1.8:
            break
        assert value == "last"
        await asyncio.sleep(0.2)
    await gone(kv, "k")
    assert time.monotonic() - begun < 6
    for _ in range(25):
        assert await kv.get("k", default="none") == "none"
        assert await kv.entry("k") is None
        assert (await kv.list()).keys == ["plain"]
        await asyncio.sleep(0.1)
    assert await kv.get_many(["k"]) == {}
    assert await kv.delete("k") is False
    with pytest.raises(RevisionMismatch):
        await kv.update("k", 1, revision=revision)


async def test_expired_key_can_be_created_at_once(kv: KV) -> None:
    """While the expiry's marker stands the key is missing: `create` succeeds, a delete finds nothing."""
    await kv.set("k", 1, ttl=1)
    with pytest.raises(KeyExists):
        await kv.create("k", 2)
    await gone(kv, "k")
    assert await kv.delete("k") is False
    await kv.create("k", 3)
    await asyncio.sleep(1.5)  # past the end of the marker
    assert await kv.get("k") == 3


async def test_increment_after_an_expiry_begins_anew(kv: KV) -> None:
    """An expired counter counts from 0."""
    await kv.increment("n", by=5, ttl=1)
    await gone(kv, "n")
    assert await kv.increment("n") == 1


async def test_write_without_a_ttl_ends_it(kv: KV) -> None:
    """`set`, `update` and `set_many` without a TTL make the value lasting."""
    await kv.set("a", 1, ttl=1)
    await kv.set("a", 2)
    revision = await kv.set("b", 1, ttl=1)
    await kv.update("b", 2, revision=revision)
    await kv.set("c", 1, ttl=1)
    await kv.set_many({"c": 2})
    await asyncio.sleep(2.5)
    assert await kv.get_many(["a", "b", "c"]) == {"a": 2, "b": 2, "c": 2}
    for key in "abc":
        entry = await kv.entry(key)
        assert entry is not None
        assert entry.expires is None


async def test_every_write_takes_a_ttl(kv: KV) -> None:
    """`set`, `create`, `update`, `increment`, `set_many`: each value goes at its time."""
    await kv.set("set", 1, ttl=1)
    await kv.create("create", 1, ttl=1)
    revision = await kv.set("update", 1)
    await kv.update("update", 2, revision=revision, ttl=1)
    await kv.set("increment", 1)
    await kv.increment("increment", ttl=1)
    await kv.set_many({"m1": 1, "m2": 2}, ttl=1)
    assert len((await kv.list()).keys) == 6
    for key in (await kv.list()).keys:
        assert -1 < await left(kv, key) <= 1.5

    async def empty() -> bool:
        return (await kv.list()).keys == []

    await until(empty)
    await asyncio.sleep(1.3)
    assert (await kv.list()).keys == []


async def test_increment_keeps_the_time_that_is_left(kv: KV) -> None:
    """However often a counter is moved, its TTL is neither prolonged nor shortened."""
    await kv.increment("n", ttl=3)
    begun = time.monotonic()
    while time.monotonic() - begun < 2:
        await kv.increment("n")
        await asyncio.sleep(0.1)
    assert await left(kv, "n") < 2
    await asyncio.sleep(max(0, 2.6 - (time.monotonic() - begun)))
    assert await kv.get("n") is not None
    await gone(kv, "n")
    assert time.monotonic() - begun < 7


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [(1, 1), (60, 60), (1.1, 2), (59.0, 59), (dt.timedelta(minutes=2), 120), (dt.timedelta(seconds=9.5), 10)],
)
async def test_rounded_up_to_whole_seconds(kv: KV, ttl: Any, seconds: int) -> None:
    """Seconds or a timedelta; never less than was asked for."""
    await kv.set("k", 1, ttl=ttl)
    entry = await kv.entry("k")
    assert entry is not None
    assert entry.expires is not None
    assert (entry.expires - entry.created).total_seconds() == pytest.approx(seconds, abs=0.001)


@pytest.mark.parametrize(
    ("ttl", "error"),
    [
        (0, OutOfRange),
        (-1, OutOfRange),
        (0.9, OutOfRange),
        (math.nan, OutOfRange),
        (math.inf, OutOfRange),
        (1e12, OutOfRange),
        (dt.timedelta(milliseconds=999), OutOfRange),
        (dt.timedelta(seconds=-5), OutOfRange),
        ("5", TypeMismatch),
        (True, TypeMismatch),
    ],
)
async def test_impossible_ttls(kv: KV, ttl: Any, error: type[StorageError]) -> None:
    """A TTL below a second is an error and not "for ever", in every call; nothing is written."""
    revision = await kv.set("k", 1)
    for call in (
        kv.set("k", 2, ttl=ttl),
        kv.create("n", 2, ttl=ttl),
        kv.update("k", 2, revision=revision, ttl=ttl),
        kv.increment("k", ttl=ttl),
        kv.set_many({"k": 2, "n": 2}, ttl=ttl),
    ):
        with pytest.raises(error):
            await call
    assert (await kv.list()).keys == ["k"]
    assert await kv.get("k") == 1


@pytest.mark.slow
async def test_a_thousand_mixed_ttls(place: Place) -> None:
    """1,000 keys with older values and mixed TTLs: none early, none comes back, each expiry told once."""
    kv = await place.kv()
    keys = [f"k:{number}" for number in range(1000)]
    for value in range(3):
        await kv.set_many(dict.fromkeys(keys, value))
    async with (await place.kv()).watch() as changes:
        expires: dict[str, float] = {}

        async def write(number: int) -> None:
            ttl = 1 + number % 4
            before = time.monotonic()
            await kv.set(keys[number], "x", ttl=ttl)
            expires[keys[number]] = before + ttl

        for start in range(0, 1000, 100):
            await asyncio.gather(*map(write, range(start, start + 100)))
        last = max(expires.values())
        while (now := time.monotonic()) < last:
            early = {key for key, moment in expires.items() if moment > now + 0.15} - set(
                (await kv.list(limit=10_000)).keys
            )
            # Read once more: a list that took long may have seen an expiry that was due.
            assert not {key for key in early if expires[key] > time.monotonic()}
            await asyncio.sleep(0.2)

        async def empty() -> bool:
            return not (await kv.list()).keys

        await until(empty)
        told: list[str] = []
        async with asyncio.timeout(10):
            while len(told) < 1000:
                change = await anext(changes)
                if change.operation == "expire":
                    told.append(change.key)
        assert sorted(told) == sorted(keys)
        for _ in range(10):
            assert (await kv.list()).keys == []
            assert await kv.get_many(keys) == {}
            await asyncio.sleep(0.2)
        await kv.set("end", 1)
        assert (await anext(changes)).key == "end"
