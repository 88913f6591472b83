"""A plain dict with revisions and a clock, beside the real thing: the same answers to random calls."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import pytest
from attrs import define, field

from rosey_kvstore import KV, BucketLimits
from rosey_kvstore.errors import KeyExists, RevisionMismatch, StorageError
from support.kv import Place

HISTORY = 4
KEYS = ["a", "a.b", "a..b", "a_b", "axb", "user:1", "user:2", "ü", "k"]
# Around an expiry the answer may be either: before it for as long as a call may take on a busy machine,
# behind it for as long as the bucket may take by the contract.
BEFORE = 0.6
DOUBT = 1.5
# What increment keeps of a TTL is rounded up to whole seconds by the server: it goes up to a second later.
KEPT_DOUBT = 2.5


@define
class Slot:
    """What is known of one key: its changes in the history, and whether the newest is live until when."""

    changes: list[tuple[str, Any, int]] = field(factory=list)
    live: bool = False
    until: float | None = None
    doubt: float = DOUBT


@define
class Model:
    """The bucket as the contract tells it."""

    slots: dict[str, Slot] = field(factory=dict)
    told: list[tuple[str, str, Any]] = field(factory=list)

    def live(self, key: str) -> bool:
        slot = self.slots.get(key)
        return slot is not None and slot.live and (slot.until is None or slot.until > time.monotonic())

    def value(self, key: str) -> Any:
        return self.slots[key].changes[-1][1] if self.live(key) else None

    def revision(self, key: str) -> int:
        return self.slots[key].changes[-1][2] if self.live(key) else 0

    def doubtful(self) -> float:
        """Seconds to wait until no key is about to expire, or has just done so."""
        now = time.monotonic()
        near = [
            slot.until + slot.doubt - now
            for slot in self.slots.values()
            if slot.live and slot.until is not None and now - slot.doubt < slot.until < now + BEFORE
        ]
        return max([*near, 0.0])

    def settle(self) -> None:
        """Turn what has expired into missing keys."""
        now = time.monotonic()
        for key, slot in self.slots.items():
            if slot.live and slot.until is not None and slot.until <= now:
                self.slots[key] = Slot()
                self.told.append(("expire", key, None))

    def wrote(self, key: str, value: Any, revision: int, ttl: int | None, until: float | None = None) -> None:
        slot = self.slots.setdefault(key, Slot())
        if ttl is not None or until is not None:
            slot.changes = []
        slot.changes = [*slot.changes, ("set", value, revision)][-HISTORY:]
        slot.live = True
        slot.until = time.monotonic() + ttl if ttl is not None else until
        slot.doubt = KEPT_DOUBT if ttl is None and until is not None else DOUBT
        self.told.append(("set", key, value))

    def deleted(self, key: str) -> None:
        slot = self.slots[key]
        slot.changes = [*slot.changes, ("delete", None, 0)][-HISTORY:]
        slot.live, slot.until = False, None
        self.told.append(("delete", key, None))

    def keys(self, prefix: str) -> list[str]:
        return sorted(key for key in self.slots if key.startswith(prefix) and self.live(key))


class Player:
    """Makes a random call of both, and compares what they say."""

    def __init__(self, clients: list[KV], dice: random.Random) -> None:
        self.model = Model()
        self._clients = clients
        self._dice = dice
        self._last = 0

    async def play(self) -> None:
        if self._dice.random() < 0.03:
            await asyncio.sleep(self._dice.uniform(0.5, 1.5))  # so that something expires on the way
        if wait := self.model.doubtful():
            await asyncio.sleep(wait)
        self.model.settle()
        kv = self._dice.choice(self._clients)
        key = self._dice.choice(KEYS)
        name = self._dice.choices(
            ["set", "create", "update", "delete", "increment", "set_many", "delete_many", "read", "list"],
            [5, 3, 3, 3, 3, 1, 1, 5, 2],
        )[0]
        await getattr(self, f"_{name}")(kv, key)

    def _ttl(self) -> int | None:
        return self._dice.choice([None, None, None, 1, 2, 60])

    def _number(self, revision: int) -> int:
        assert revision > self._last
        self._last = revision
        return revision

    async def _set(self, kv: KV, key: str) -> None:
        value, ttl = self._dice.choice([0, 1, "x", None, [1]]), self._ttl()
        self.model.wrote(key, value, self._number(await kv.set(key, value, ttl=ttl)), ttl)

    async def _create(self, kv: KV, key: str) -> None:
        ttl = self._ttl()
        if self.model.live(key):
            with pytest.raises(KeyExists):
                await kv.create(key, 7, ttl=ttl)
        else:
            self.model.wrote(key, 7, self._number(await kv.create(key, 7, ttl=ttl)), ttl)

    async def _update(self, kv: KV, key: str) -> None:
        ttl = self._ttl()
        right = self.model.revision(key)
        revision = self._dice.choice([right or 1, right or 1, max(1, right - 1)])
        if right and revision == right:
            self.model.wrote(key, 8, self._number(await kv.update(key, 8, revision=revision, ttl=ttl)), ttl)
        else:
            with pytest.raises(RevisionMismatch):
                await kv.update(key, 8, revision=revision, ttl=ttl)

    async def _delete(self, kv: KV, key: str) -> None:
        was = self.model.live(key)
        assert await kv.delete(key) is was
        if was:
            self.model.deleted(key)

    async def _increment(self, kv: KV, key: str) -> None:
        ttl = self._ttl()
        value = self.model.value(key) if self.model.live(key) else 0
        if not isinstance(value, int):
            with pytest.raises(StorageError) as caught:
                await kv.increment(key, ttl=ttl)
            assert caught.value.code == "type_mismatch"
            return
        until = self.model.slots[key].until if self.model.live(key) else None
        assert await kv.increment(key, ttl=ttl) == value + 1
        entry = await kv.entry(key)
        assert entry is not None
        self.model.wrote(key, value + 1, self._number(entry.revision), ttl, until)

    async def _set_many(self, kv: KV, key: str) -> None:
        keys, ttl = self._dice.sample(KEYS, 3), self._ttl()
        revisions = await kv.set_many(dict.fromkeys(keys, 9), ttl=ttl)
        assert list(revisions) == keys
        for one in keys:
            self.model.wrote(one, 9, self._number(revisions[one]), ttl)

    async def _delete_many(self, kv: KV, key: str) -> None:
        prefix = self._dice.choice(["a", "a.", "user:", "k"])
        gone = self.model.keys(prefix)
        assert await kv.delete_many(prefix=prefix) == len(gone)
        for one in gone:
            self.model.deleted(one)

    async def _read(self, kv: KV, key: str) -> None:
        assert await kv.get(key) == self.model.value(key)
        entry = await kv.entry(key)
        assert (entry is not None) is self.model.live(key)
        if entry is not None:
            assert entry.revision == self.model.revision(key)
            assert (entry.expires is not None) is (self.model.slots[key].until is not None)
        history = await kv.history(key)
        kept = [(change.operation, change.value) for change in history if change.operation != "expire"]
        slot = self.model.slots.get(key, Slot())
        expected = [(operation, value) for operation, value, _ in slot.changes]
        # An older value whose TTL was ended by a newer write leaves the history when that TTL is over.
        assert kept in (expected, expected[-len(kept) :] if kept else [])
        assert kept[-1:] == expected[-1:]

    async def _list(self, kv: KV, key: str) -> None:
        prefix = self._dice.choice(["", "a", "a.", "a_", "user:", "zz"])
        expected = self.model.keys(prefix)
        assert (await kv.list(prefix=prefix)).keys == expected
        assert [item async for item in kv.items(prefix=prefix)] == [
            (one, self.model.value(one)) for one in expected
        ]
        assert await kv.get_many(KEYS) == {one: self.model.value(one) for one in KEYS if self.model.live(one)}


@pytest.mark.parametrize(("seed", "calls"), [(0, 120), pytest.param(1, 1000, marks=pytest.mark.slow)])
@pytest.mark.timeout(300)
async def test_random_calls(place: Place, seed: int, calls: int) -> None:
    """Random calls through two clients, every answer as the model says, every change told once."""
    place.limits = BucketLimits(history=HISTORY)
    clients = [await place.kv(), await place.kv()]
    player = Player(clients, random.Random(seed))
    async with clients[0].watch() as changes:
        for _ in range(calls):
            await player.play()
        await asyncio.sleep(3)
        player.model.settle()
        for key in KEYS:
            await player._read(clients[1], key)
        await clients[1].set("end", "end")
        told: list[tuple[str, str, Any]] = []
        async with asyncio.timeout(20):
            while not told or told[-1][1] != "end":
                change = await anext(changes)
                told.append((change.operation, change.key, change.value))
    expected = [*player.model.told, ("set", "end", "end")]
    # Two expiries of the same moment may change places: what is told of each key is exact.
    for key in [*KEYS, "end"]:
        assert [one for one in told if one[1] == key] == [one for one in expected if one[1] == key]
    assert len(told) == len(expected)
