"""Writes: revisions, compare-and-set, counters, and calls that are all or nothing."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
from typing import Any

import pytest

from rosey_kvstore import KV
from rosey_kvstore.errors import (
    InvalidRequest,
    KeyExists,
    OutOfRange,
    RequestTooLarge,
    RevisionMismatch,
    StorageError,
    TypeMismatch,
)
from support.kv import Place


async def test_revisions_rise_through_the_bucket(kv: KV) -> None:
    """One sequence counts the writes of every key, deletes included."""
    first = await kv.set("a", 1)
    second = await kv.set("b", 1)
    third = await kv.create("c", 1)
    fourth = await kv.update("a", 2, revision=first)
    assert first < second < third < fourth
    await kv.delete("b")
    assert await kv.set("b", 2) > fourth + 1
    entry = await kv.entry("a")
    assert entry is not None
    assert (entry.key, entry.value, entry.revision, entry.expires) == ("a", 2, fourth, None)
    age = dt.datetime.now(dt.UTC) - entry.created
    assert dt.timedelta(seconds=-1) < age < dt.timedelta(seconds=30)


async def test_create_refuses_a_live_value(kv: KV) -> None:
    """`create` writes where nothing is, also after a delete."""
    await kv.create("k", 1)
    with pytest.raises(KeyExists):
        await kv.create("k", 2)
    assert await kv.get("k") == 1
    await kv.delete("k")
    await kv.create("k", 3)
    assert await kv.get("k") == 3


async def test_create_refuses_a_stored_null(kv: KV) -> None:
    """A null is a value."""
    await kv.set("k", None)
    with pytest.raises(KeyExists):
        await kv.create("k", 1)


async def test_update_wants_the_live_revision(kv: KV) -> None:
    """Another revision, a missing or a deleted key: `RevisionMismatch`, and nothing is written."""
    first = await kv.set("k", 1)
    second = await kv.update("k", 2, revision=first)
    with pytest.raises(RevisionMismatch):
        await kv.update("k", 3, revision=first)
    with pytest.raises(RevisionMismatch):
        await kv.update("missing", 3, revision=second)
    assert await kv.get("k") == 2
    await kv.delete("k")
    for revision in (second, second + 1):
        with pytest.raises(RevisionMismatch):
            await kv.update("k", 3, revision=revision)
    assert await kv.entry("k") is None
    assert await kv.entry("missing") is None


@pytest.mark.parametrize(
    ("revision", "error"), [(0, OutOfRange), (-1, OutOfRange), ("1", TypeMismatch), (True, TypeMismatch)]
)
async def test_bad_revisions(kv: KV, revision: Any, error: type[StorageError]) -> None:
    """A revision is a whole number from 1."""
    await kv.set("k", 1)
    with pytest.raises(error):
        await kv.update("k", 2, revision=revision)


async def test_delete_tells_whether_something_was_there(kv: KV) -> None:
    """True for a live value alone; a delete of nothing changes nothing."""
    assert await kv.delete("k") is False
    assert await kv.history("k") == []
    await kv.set("k", 1)
    assert await kv.delete("k") is True
    assert await kv.delete("k") is False
    assert [change.operation for change in await kv.history("k")] == ["set", "delete"]
    assert await kv.get("k") is None


async def test_twenty_creates_one_winner(place: Place) -> None:
    """Of twenty concurrent creates, from two clients, one writes and nineteen learn that they did not."""
    clients = [await place.kv(), await place.kv()]
    tries = (clients[number % 2].create("lock", number) for number in range(20))
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(outcome, KeyExists) for outcome in outcomes) == 19
    (winner,) = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, int)]
    assert await clients[0].get("lock") == winner


async def test_updates_have_one_winner(place: Place) -> None:
    """Of concurrent updates from one revision exactly one writes."""
    clients = [await place.kv(), await place.kv()]
    revision = await clients[0].set("k", 0)
    tries = (clients[number % 2].update("k", number, revision=revision) for number in range(20))
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(outcome, RevisionMismatch) for outcome in outcomes) == 19


async def test_increment(kv: KV) -> None:
    """Counts from 0; whole and float numbers; gives the new number."""
    assert await kv.increment("n") == 1
    assert await kv.increment("n", by=4) == 5
    assert await kv.increment("n", by=-7) == -2
    assert await kv.increment("n", by=0.5) == -1.5
    assert await kv.get("n") == -1.5
    assert await kv.increment("big", by=2**70) == 2**70
    await kv.delete("n")
    assert await kv.increment("n", by=3) == 3


@pytest.mark.parametrize("value", ["1", None, True, [], {"n": 1}])
async def test_increment_of_no_number(kv: KV, value: Any) -> None:
    """Anything else than a number stays as it is."""
    await kv.set("k", value)
    with pytest.raises(TypeMismatch):
        await kv.increment("k")
    assert await kv.get("k") == value


async def test_increment_by_no_number(kv: KV) -> None:
    """What is added is a number, and so is the sum."""
    wrong: Any
    for wrong in ("1", True, None, math.nan, math.inf):
        with pytest.raises(TypeMismatch):
            await kv.increment("k", by=wrong)
    await kv.set("f", 1.7e308)
    with pytest.raises(OutOfRange):
        await kv.increment("f", by=1.7e308)
    assert await kv.get("f") == 1.7e308


async def test_fifty_tasks_count_to_five_thousand(place: Place) -> None:
    """50 tasks of 100 increments, from two clients, end at exactly 5,000, each number given once."""
    clients = [await place.kv(), await place.kv()]

    async def count(number: int) -> list[float]:
        return [await clients[number % 2].increment("hits") for _ in range(100)]

    numbers = [n for counted in await asyncio.gather(*map(count, range(50))) for n in counted]
    assert await clients[0].get("hits") == 5000
    assert sorted(numbers) == list(range(1, 5001))


async def test_set_many_and_get_many(kv: KV) -> None:
    """Many keys in one call: revisions by key, live keys only."""
    revisions = await kv.set_many({"a": 1, "b:c": [2], "d.": None})
    assert revisions == {key: (await kv.entry(key)).revision for key in ("a", "b:c", "d.")}  # type: ignore[union-attr]
    assert await kv.get_many(["a", "d.", "b:c", "zz", "a"]) == {"a": 1, "d.": None, "b:c": [2]}
    assert await kv.get_many([]) == {}
    assert await kv.set_many({}) == {}


async def test_set_many_is_all_or_nothing(place: Place, kv: KV) -> None:
    """A bad value, a bad key or too many keys: nothing is written."""
    await kv.set("a", 0)
    with pytest.raises(TypeMismatch, match="b"):
        await kv.set_many({"a": 1, "b": object()})
    with pytest.raises(RequestTooLarge):
        await kv.set_many({f"k{number}": 1 for number in range(1001)})
    assert (await kv.list()).keys == ["a"]
    assert await kv.get("a") == 0


async def test_set_many_takes_a_thousand(kv: KV) -> None:
    """1,000 keys in one call, with one event each."""
    values = {f"k{number:04}": number for number in range(1000)}
    revisions = await kv.set_many(values)
    assert len(set(revisions.values())) == 1000
    assert dict([item async for item in kv.items()]) == values


async def test_set_many_is_seen_whole_or_not(place: Place) -> None:
    """Concurrent batches on the same keys leave one of them, never a mixture."""
    clients = [await place.kv(), await place.kv()]
    keys = [f"k{number}" for number in range(20)]
    for _ in range(5):
        await asyncio.gather(*(clients[n % 2].set_many(dict.fromkeys(keys, n)) for n in range(4)))
        assert len(set((await clients[0].get_many(keys)).values())) == 1


async def test_delete_many(kv: KV) -> None:
    """By keys or by prefix; the count is of live keys."""
    await kv.set_many({"a:1": 1, "a:2": 2, "a_3": 3, "b": 4})
    assert await kv.delete_many(["a:1", "zz", "a:1"]) == 1
    assert await kv.delete_many(prefix="a:") == 1
    assert (await kv.list()).keys == ["a_3", "b"]
    assert await kv.delete_many([]) == 0
    wrong: Any = "ab"
    with pytest.raises(TypeMismatch):
        await kv.delete_many(wrong)
    for call in (kv.delete_many(prefix=""), kv.delete_many(), kv.delete_many(["b"], prefix="b")):
        with pytest.raises(InvalidRequest):
            await call
    assert (await kv.list()).keys == ["a_3", "b"]


async def test_many_deletes_many(kv: KV) -> None:
    """A prefix with more than a thousand keys goes in one call."""
    for start in (0, 1000):
        await kv.set_many({f"k{number}": 1 for number in range(start, start + 800)})
    await kv.set("other", 1)
    assert await kv.delete_many(prefix="k") == 1600
    assert (await kv.list()).keys == ["other"]
