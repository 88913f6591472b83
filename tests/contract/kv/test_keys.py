"""Keys, prefixes, lists and their cursors."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rosey_kvstore import KV
from rosey_kvstore.errors import InvalidName, InvalidRequest, OutOfRange, StorageError, TypeMismatch
from support.kv import Place

# Dots, escapes and what surrounds surrogates are where an encoding or an order goes wrong.
letters = st.sampled_from("ab.._*>=%:/- \u00fc\ud7ff\ue000\uffff\U0001f600\U0010ffff\x00\x1f\x7f\n\\'\"")
some_keys = st.text(letters | st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)

TRICKY = [
    *("a", "a.b", "a.", ".a", "a..b", "a...b", ".", "..", "A", "aa", "a_", "axb", "a_b", "a%b", "a*", "a>"),
    *(
        "$x",
        "user:bob",
        "user=3Abob",
        "=",
        "==",
        "ü",
        "\U0001f600",
        "\uffff",
        "a b",
        "a\nb",
        "\x00",
        "x\x00y",
    ),
    *("room.42", "room.42.a", "room.42..a", "room.42.", "room.420", "/", "-", "_", "0", "a/b", "*", ">", "%"),
]


async def clear(kv: KV) -> None:
    await kv.delete_many((await kv.list(limit=10_000)).keys)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.lists(some_keys, min_size=1, max_size=8, unique=True), data=st.data())
async def test_any_text_is_a_key(kv: KV, keys: list[str], data: st.DataObject) -> None:
    """Keys are one-to-one with what is stored, sorted by code point, found by any beginning."""
    await clear(kv)
    await kv.set_many({key: key for key in keys})
    assert (await kv.list()).keys == sorted(keys)
    assert await kv.get_many(keys) == {key: key for key in keys}
    chosen = data.draw(st.sampled_from(keys))
    prefix = chosen[: data.draw(st.integers(0, len(chosen)))]
    expected = sorted(key for key in keys if key.startswith(prefix))
    assert (await kv.list(prefix=prefix)).keys == expected
    assert [item async for item in kv.items(prefix=prefix)] == [(key, key) for key in expected]


async def test_tricky_keys_and_every_prefix(kv: KV) -> None:
    """No key shadows another, whatever stands in it, and a prefix is text: no wildcard, no token."""
    await kv.set_many({key: key for key in TRICKY})
    for key in TRICKY:
        assert await kv.get(key) == key
    prefixes = {key[:length] for key in TRICKY for length in range(len(key) + 1)} | {"a_", "room.4", "no"}
    for prefix in sorted(prefixes):
        expected = sorted(key for key in TRICKY if key.startswith(prefix))
        assert (await kv.list(prefix=prefix)).keys == expected, prefix
        assert [key async for key, _ in kv.items(prefix=prefix)] == expected, prefix


async def test_prefix_is_no_pattern(kv: KV) -> None:
    """`a_` does not match `axb`."""
    await kv.set_many({"axb": 1, "a_b": 2, "a%b": 3})
    assert (await kv.list(prefix="a_")).keys == ["a_b"]
    assert (await kv.list(prefix="a%")).keys == ["a%b"]


async def test_encoded_length_counts(kv: KV) -> None:
    """A key of 512 bytes as written on the bus passes, one byte more does not."""
    for key in ("x" * 512, "ü" * 85):
        await kv.set(key, 1)
        assert await kv.get(key) == 1
        assert (await kv.list(prefix=key[:-1])).keys == [key]
        with pytest.raises(InvalidName):
            await kv.set(key + "xxx", 1)


@pytest.mark.parametrize(
    ("key", "error"),
    [
        ("", InvalidName),
        ("\ud800", InvalidName),
        ("a\udfffb", InvalidName),
        (None, TypeMismatch),
        (b"a", TypeMismatch),
    ],
)
async def test_bad_keys(kv: KV, key: Any, error: type[StorageError]) -> None:
    """Every call refuses what is no key, with a code that names the plugin and the call."""
    calls = {
        "kv.get": kv.get(key),
        "kv.entry": kv.entry(key),
        "kv.set": kv.set(key, 1),
        "kv.create": kv.create(key, 1),
        "kv.update": kv.update(key, 1, revision=1),
        "kv.delete": kv.delete(key),
        "kv.increment": kv.increment(key),
        "kv.history": kv.history(key),
        "kv.get_many": kv.get_many(["a", key]),
        "kv.set_many": kv.set_many({"a": 1, key: 1}),
        "kv.delete_many": kv.delete_many(["a", key]),
    }
    for name, call in calls.items():
        with pytest.raises(error) as caught:
            await call
        assert caught.value.operation == name
        assert caught.value.plugin is not None
    assert (await kv.list()).keys == []


async def test_deleted_and_expired_keys_are_not_listed(kv: KV) -> None:
    """Lists, items and get_many hold live keys only."""
    await kv.set_many({"a": 1, "b": 2, "d": 4})
    await kv.set("c", 3, ttl=1)
    await kv.delete("b")
    await asyncio.sleep(1.3)
    assert (await kv.list()).keys == ["a", "d"]
    assert [item async for item in kv.items()] == [("a", 1), ("d", 4)]
    assert await kv.get_many(["a", "b", "c", "d"]) == {"a": 1, "d": 4}


async def test_pages(kv: KV) -> None:
    """A walk by cursor gives each key once, in order; the last page has no cursor."""
    keys = [f"k{number:03}" for number in range(95)]
    await kv.set_many(dict.fromkeys(keys, 0))
    found: list[str] = []
    cursor, pages = None, 0
    while True:
        page = await kv.list(prefix="k", limit=10, cursor=cursor)
        found += page.keys
        pages += 1
        cursor = page.next_cursor
        if cursor is None:
            break
        assert len(page.keys) == 10
    assert (found, pages) == (keys, 10)
    exact = await kv.list(prefix="k09", limit=5)
    assert (exact.keys, exact.next_cursor) == (keys[90:], None)


async def test_cursor_stays_right_while_keys_come_and_go(kv: KV) -> None:
    """What stays is told once; what comes behind the cursor is told, what comes before it is not."""
    await kv.set_many(dict.fromkeys("bdfh", 0))
    first = await kv.list(limit=2)
    assert first.keys == ["b", "d"]
    await kv.delete("d")
    await kv.delete("f")
    await kv.set_many({"a": 0, "e": 0})
    second = await kv.list(limit=10, cursor=first.next_cursor)
    assert (second.keys, second.next_cursor) == (["e", "h"], None)


async def test_bad_lists(kv: KV) -> None:
    """Limits, cursors and prefixes that cannot be get their codes."""
    await kv.set_many({"a": 1, "b": 2})
    cursor = (await kv.list(limit=1)).next_cursor
    assert cursor is not None
    for limit in (0, -1, 10_001):
        with pytest.raises(OutOfRange):
            await kv.list(limit=limit)
    for bad in ("", "no cursor", cursor + "x", cursor[:-1], "ü"):
        with pytest.raises(InvalidRequest):
            await kv.list(cursor=bad)
    with pytest.raises(InvalidRequest):
        await kv.list(prefix="a", cursor=cursor)
    with pytest.raises(InvalidName):
        await kv.list(prefix="\ud800")
    wrong: Any = 3
    with pytest.raises(TypeMismatch):
        await kv.list(prefix=wrong)


async def test_list_of_many(place: Place) -> None:
    """Three thousand keys of nested prefixes: every list is exact."""
    kv = await place.kv()
    keys = [f"room.{room}.user:{user}" for room in range(30) for user in range(100)]
    for start in range(0, len(keys), 1000):
        await kv.set_many(dict.fromkeys(keys[start : start + 1000], start))
    assert (await kv.list(limit=10_000)).keys == sorted(keys)
    for prefix in ("room.1", "room.1.", "room.12.user:", "room.12.user:9", "room.29.user:99"):
        assert (await kv.list(prefix=prefix, limit=10_000)).keys == sorted(
            k for k in keys if k.startswith(prefix)
        )
    assert len([key async for key, _ in kv.items(prefix="room.2")]) == 1100


async def test_lists_miss_nothing_that_is_written_meanwhile(place: Place) -> None:
    """A key that is there all the time is in every list, first ones too, however often it is rewritten.

    A write with a TTL takes the older revision away: what a reader comes to later stands elsewhere by then.
    """
    writer, keys = await place.kv(), [f"room.{number}" for number in range(1200)]
    await writer.set_many(dict.fromkeys(keys[:600], 0))
    await writer.set_many(dict.fromkeys(keys[600:], 0))

    async def rewrite() -> None:
        numbers = itertools.count(step=7)
        while True:
            await asyncio.gather(*(writer.set(keys[next(numbers) % 1200], 1, ttl=600) for _ in range(30)))

    rewriting = asyncio.create_task(rewrite())
    try:
        warm = await place.kv()
        for _ in range(6):
            cold = await place.kv()
            assert (await cold.list(limit=10_000)).keys == sorted(keys)
            assert [key async for key, _ in cold.items()] == sorted(keys)
            assert (await warm.list(limit=10_000)).keys == sorted(keys)
            assert (await warm.list(prefix="room.", limit=10_000)).keys == sorted(keys)
            assert [key async for key, _ in warm.items(prefix="room.1")] == sorted(
                key for key in keys if key.startswith("room.1")
            )
            assert len(await warm.get_many(keys)) == len(keys)
    finally:
        rewriting.cancel()
        await asyncio.gather(rewriting, return_exceptions=True)


async def test_first_lists_leave_out_what_is_deleted(place: Place) -> None:
    """Deletes among thousands of keys, some written again: a first list has exactly the live ones."""
    kv = await place.kv()
    keys = [f"k{number}" for number in range(3000)]
    for start in range(0, 3000, 1000):
        await kv.set_many(dict.fromkeys(keys[start : start + 1000], "KV-Operation: DEL"))
    assert await kv.delete_many(keys[::13]) == len(keys[::13])
    for key in keys[::39]:
        await kv.set(key, "again")
    live = sorted((set(keys) - set(keys[::13])) | set(keys[::39]))
    cold = await place.kv()
    assert (await cold.list(limit=10_000)).keys == live
    assert [key async for key, _ in cold.items()] == live
