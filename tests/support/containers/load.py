"""A plugin at work on KV and rows, counted call by call: what was acknowledged must be there at the end."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Self

from attrs import define, field

from rosey_storage import Column, KeyExists, Storage, StorageError

__all__ = ["Load"]

# No two loads of a process have a number in common: one bucket and one table may see several.
_NUMBERS = itertools.count(1)
_KINDS = ("insert", "select", "set", "get", "increment", "create")
_PAUSE = 0.005


@define
class Load:
    """Callers that go on whatever happens.

    Rows carry an idempotency key: what became of one is unknown after some errors, so it is sent again
    with its key until it is acknowledged, as a plugin would.

    Attributes:
        storage: The plugin's, open.
        errors: With the second in which they came, from the start.
        done_at: When each kind of call succeeded, in seconds from the start.
        slowest: The longest call, in seconds.
    """

    storage: Storage
    errors: list[tuple[float, str, StorageError]] = field(factory=list)
    done_at: dict[str, list[float]] = field(factory=lambda: {kind: [] for kind in _KINDS})
    slowest: float = 0.0
    rows: set[int] = field(factory=set)
    doubtful_rows: set[int] = field(factory=set)
    keys: dict[str, int] = field(factory=dict)
    counts: list[int] = field(factory=list)
    doubtful_counts: int = 0
    created: set[str] = field(factory=set)
    _began: float = 0.0
    _running: bool = True
    _first: int = field(factory=lambda: next(_NUMBERS))
    _hits: int = 0
    _work: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.storage.table("log").define([Column("n", "integer", required=True)], timeout=20)
        self._hits = await self.storage.kv.get("hits", default=0)
        self._began = time.monotonic()
        self._work = asyncio.create_task(self._all())
        await self.progress()
        assert not self.errors, self.errors
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._running = False
        assert self._work is not None
        await self._work
        if kind is None:
            await self.check()

    async def progress(self, *, more: int = 10, seconds: float = 60.0) -> None:
        """Return when every kind of call has succeeded `more` times from now on."""
        before = {kind: len(times) for kind, times in self.done_at.items()}
        async with asyncio.timeout(seconds):
            while any(len(times) < before[kind] + more for kind, times in self.done_at.items()):
                if self._work is not None and self._work.done():
                    self._work.result()
                await asyncio.sleep(0.02)

    def gap(self, *kinds: str) -> float:
        """Return the longest time, in seconds, in which no call of one of these kinds succeeded."""
        return max(b - a for kind in kinds for a, b in itertools.pairwise(sorted(self.done_at[kind])))

    @property
    def gaps(self) -> str:
        """The gaps as one line."""
        return (
            f"longest gap of KV's writes {self.gap('set', 'increment', 'create'):.2f} s,"
            f" of its reads {self.gap('get'):.2f} s, of rows {self.gap('insert', 'select'):.2f} s;"
            f" {self.calls} calls, {len(self.errors)} errors"
            f" {dict(Counter(error.code for *_, error in self.errors))}, slowest {self.slowest:.2f} s"
        )

    @property
    def calls(self) -> int:
        """How many calls succeeded."""
        return sum(map(len, self.done_at.values()))

    async def check(self) -> None:
        """Compare what was acknowledged with what is there; every call had its code in its time."""
        timeout = self.storage.settings.timeout
        assert self.slowest < timeout + 3.0, self.slowest  # what two noisy cores may take to notice
        for _, kind, error in self.errors:
            assert error.code in ("unavailable", "timeout"), (kind, error)
            assert error.plugin == self.storage.plugin, (kind, error)
            assert error.operation, (kind, error)
        table = self.storage.table("log")
        own = {"n": {"$gte": self._first}}
        found = Counter([row["n"] async for row in table.rows(own, columns=["n"], page_size=1000)])
        assert set(found.values()) <= {1}, "a row with an idempotency key was written twice"
        assert self.rows <= set(found), "an acknowledged row is lost"
        assert set(found) <= self.rows | self.doubtful_rows, "a row that nobody wrote"
        kept = await self.storage.kv.get_many(self.keys)
        lost = {key for key, value in self.keys.items() if kept.get(key) != value}
        assert not lost, f"acknowledged keys are lost: {sorted(lost)[:5]}"
        hits = await self.storage.kv.get("hits", default=0)
        assert len(set(self.counts)) == len(self.counts), "a number was given twice"
        assert len(self.counts) <= hits - self._hits <= len(self.counts) + self.doubtful_counts
        assert max(self.counts) <= hits
        assert set(await self.storage.kv.get_many(self.created)) == self.created
        listed = [key async for key, _ in self.storage.kv.items(prefix="k")]
        assert set(self.keys) <= set(listed)

    async def _all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for kind in (*_KINDS, "insert", "set", "increment"):
                group.create_task(self._repeat(kind, getattr(self, f"_{kind}")))

    async def _repeat(self, kind: str, call: Callable[[int], Awaitable[None]]) -> None:
        while self._running:
            await self._once(kind, call, next(_NUMBERS))
            await asyncio.sleep(_PAUSE)

    async def _once(self, kind: str, call: Callable[[int], Awaitable[None]], number: int) -> bool:
        began = time.monotonic()
        try:
            await call(number)
        except StorageError as error:
            self.errors.append((began - self._began, kind, error))
            return False
        finally:
            if kind != "insert":  # which repeats itself, and measures each call
                self.slowest = max(self.slowest, time.monotonic() - began)
        self.done_at[kind].append(time.monotonic() - self._began)
        return True

    async def _insert(self, number: int) -> None:
        self.doubtful_rows.add(number)
        while True:
            try:
                await self._insert_once(number)
            except StorageError as error:
                if not self._running:
                    raise
                self.errors.append((time.monotonic() - self._began, "insert", error))
                await asyncio.sleep(_PAUSE)
            else:
                self.rows.add(number)
                return

    async def _insert_once(self, number: int) -> None:
        began = time.monotonic()
        try:
            await self.storage.table("log").insert({"n": number}, idempotency_key=f"row-{number}")
        finally:
            self.slowest = max(self.slowest, time.monotonic() - began)

    async def _select(self, number: int) -> None:
        await self.storage.table("log").select(order_by=["-n"], limit=5)

    async def _set(self, number: int) -> None:
        await self.storage.kv.set(f"k{number}", number)
        self.keys[f"k{number}"] = number

    async def _get(self, number: int) -> None:
        key: Any = next(reversed(self.keys), "k0")
        value = await self.storage.kv.get(key)
        assert value == self.keys.get(key), (key, value)

    async def _increment(self, number: int) -> None:
        try:
            self.counts.append(await self.storage.kv.increment("hits"))
        except StorageError:
            self.doubtful_counts += 1
            raise

    async def _create(self, number: int) -> None:
        try:
            await self.storage.kv.create(f"c{number}", number)
        except KeyExists as error:
            raise AssertionError(f"c{number} was created by nobody else") from error
        self.created.add(f"c{number}")
