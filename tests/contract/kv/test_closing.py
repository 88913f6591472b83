"""The bucket outlives its clients, and a closed client says so."""

from __future__ import annotations

from typing import Any

import pytest

from rosey_kvstore.errors import StorageError, Unavailable
from support.kv import Place


async def test_what_one_client_wrote_another_reads(place: Place) -> None:
    """Nothing is kept in a client: a new one finds values, revisions, TTLs and history."""
    first = await place.kv()
    revision = await first.set("k", {"a": 1})
    await first.set("k", {"a": 2})
    await first.set("t", 1, ttl=60)
    await first.close()
    second = await place.kv()
    assert await second.get("k") == {"a": 2}
    assert [change.revision for change in await second.history("k")] == [revision, revision + 1]
    entry = await second.entry("t")
    assert entry is not None
    assert entry.expires is not None
    assert await second.set("k", 3) == revision + 3


async def test_every_call_of_a_closed_client(place: Place) -> None:
    """`unavailable`, naming the plugin and the call; closing twice is no error."""
    kv = await place.kv()
    await kv.set("k", 1)
    await kv.close()
    await kv.close()
    calls: list[Any] = [
        kv.get("k"),
        kv.entry("k"),
        kv.set("k", 1),
        kv.create("k", 1),
        kv.update("k", 1, revision=1),
        kv.delete("k"),
        kv.increment("k"),
        kv.list(),
        kv.get_many(["k"]),
        kv.set_many({"k": 1}),
        kv.delete_many(["k"]),
        kv.delete_many(prefix="k"),
        kv.history("k"),
        anext(kv.items()),
        anext(kv.watch()),
    ]
    for call in calls:
        with pytest.raises(Unavailable, match="closed") as caught:
            await call
        assert caught.value.plugin == place.plugin
        assert str(caught.value.operation).startswith("kv.")
    assert caught.value.code == "unavailable"
    assert isinstance(caught.value, StorageError)
