"""Values: JSON's kinds, unchanged, within the plugin's limit."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rosey_kvstore import KV, BucketLimits, InvalidValue
from rosey_kvstore.errors import InvalidJson, TypeMismatch, ValueTooLarge
from support.kv import Place

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=12)


@attrs.frozen
class Prefs:
    theme: str
    size: int = 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=values)
async def test_round_trip(kv: KV, value: Any) -> None:
    """What is stored comes back, of the same types."""
    await kv.set("k", value)
    assert repr(await kv.get("k")) == repr(value)


async def test_stored_as_compact_json(place: Place, kv: KV) -> None:
    """The bytes are compact UTF-8 JSON, readable to an operator."""
    await kv.set("k", {"a": [1, None, "ü"]})
    stored = await (await place.backend()).get("k")
    assert stored is not None
    assert stored.data == '{"a":[1,null,"ü"]}'.encode()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {"a": [math.nan]}])
async def test_nan_and_infinity_are_refused(kv: KV, value: Any) -> None:
    """NaN and Infinity are no JSON and are not stored, wherever they stand."""
    with pytest.raises(TypeMismatch):
        await kv.set("k", value)
    assert await kv.entry("k") is None


@pytest.mark.parametrize("value", [{1: "a"}, {"a": {None: 1}}, b"x", {1, 2}, object(), "\ud800"])
async def test_what_json_has_not_is_refused(kv: KV, value: Any) -> None:
    """Keys of objects are text, and only JSON's kinds and attrs instances are stored."""
    with pytest.raises(TypeMismatch):
        await kv.set("k", value)
    assert await kv.entry("k") is None


async def test_missing_gives_none_or_the_default(kv: KV) -> None:
    """A missing key is no exception."""
    assert await kv.get("k") is None
    assert await kv.get("k", default=3) == 3
    assert await kv.entry("k") is None


async def test_null_is_a_value(kv: KV) -> None:
    """A stored null is there: `entry` knows it, and a default does not stand in for it."""
    revision = await kv.set("k", None)
    assert await kv.get("k", default=3) is None
    entry = await kv.entry("k")
    assert entry is not None
    assert (entry.value, entry.revision, entry.expires) == (None, revision, None)
    assert (await kv.list()).keys == ["k"]


async def test_typed_values(kv: KV) -> None:
    """Attrs instances go in, and come back when asked for; what does not fit is refused, uncoerced."""
    await kv.set("k", Prefs(theme="dark"))
    assert await kv.get("k") == {"theme": "dark", "size": 1}
    assert await kv.get("k", type=Prefs) == Prefs(theme="dark")
    await kv.set("k", {"theme": "dark", "size": "1"})
    with pytest.raises(TypeMismatch, match="size"):
        await kv.get("k", type=Prefs)


@pytest.mark.parametrize("ttl", [None, 60])
async def test_value_limit_is_exact(place: Place, ttl: int | None) -> None:
    """A value of exactly the limit passes, with a TTL as well; one byte more does not."""
    place.limits = BucketLimits(value_size=1000)
    kv = await place.kv()
    fits = "x" * 998
    await kv.set("k", fits, ttl=ttl)
    assert await kv.get("k") == fits
    for write in (
        kv.set("k", fits + "x", ttl=ttl),
        kv.create("n", fits + "x", ttl=ttl),
        kv.set_many({"a": 1, "n": fits + "x"}, ttl=ttl),
    ):
        with pytest.raises(ValueTooLarge):
            await write
    assert (await kv.list()).keys == ["k"]


async def test_value_limit_counts_utf8(place: Place) -> None:
    """The limit counts bytes of UTF-8, not characters."""
    place.limits = BucketLimits(value_size=100)
    kv = await place.kv()
    await kv.set("k", "ü" * 49)
    with pytest.raises(ValueTooLarge):
        await kv.set("k", "ü" * 50)


@pytest.mark.parametrize("data", [b"", b"plain text", b"\xff\xfe", b"NaN", b"{", b'{"a":1} x'])
async def test_values_that_are_no_json(place: Place, kv: KV, data: bytes) -> None:
    """What another program put is reported with its key; every other call goes on."""
    await (await place.backend()).put("k", data, None)
    await kv.set("l", 1)
    for read in (kv.get("k"), kv.entry("k")):
        with pytest.raises(InvalidJson, match="'k'"):
            await read
    assert (await kv.list()).keys == ["k", "l"]
    items = dict([item async for item in kv.items()])
    assert isinstance(items["k"], InvalidValue)
    assert items["k"].data == data
    assert items["l"] == 1
    assert (await kv.history("k"))[-1].value == items["k"]
    async with kv.watch(current=True) as changes:
        first = [await anext(changes), await anext(changes)]
        assert [change.value for change in first] == [items["k"], 1]
    with pytest.raises(TypeMismatch):
        await kv.increment("k")
    await kv.set("k", 2)
    assert await kv.get("k") == 2
    await (await place.backend()).put("k", data, None)
    assert await kv.delete("k") is True
