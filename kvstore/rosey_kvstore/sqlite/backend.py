"""The `Backend` over a file: asyncio on this side, a writer's and a reader's thread on the other."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from rosey_kvstore.backend import BucketLimits, Feed, Record, Stored
from rosey_kvstore.errors import Unavailable
from rosey_kvstore.sqlite.bucket import Bucket
from rosey_kvstore.sqlite.lane import Lane
from rosey_kvstore.sqlite.schema import MEMORY, connect
from rosey_kvstore.sqlite.watch import SqliteFeed, Watches

__all__ = ["SqliteBackend"]

T = TypeVar("T")
PAGE = 256


class SqliteBackend:
    """One plugin's keys in a SQLite file, shared with the plugin's rows and with other processes.

    Args:
        path: The file, or `:memory:` for a bucket of this object's own that goes with it.
        limits: What the bucket holds; another process should give the same.
        timeout: Seconds to wait for a lock that another process holds, then `StorageTimeout`; a call that
            waits behind such a one can take twice that.
        clock: Nanoseconds since 1970; a test may give its own.

    Every method raises `Unavailable` when the file cannot be used, naming it, and when the backend is not
    open.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        limits: BucketLimits | None = None,
        *,
        timeout: float = 5.0,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._file = os.fspath(path)
        self._limits = limits or BucketLimits()
        self._timeout = timeout
        self._clock = clock
        self._writer: Lane | None = None
        self._reader: Lane | None = None
        self._watches = Watches(clock)

    @property
    def limits(self) -> BucketLimits:
        """The limits that were given."""
        return self._limits

    async def open(self) -> None:
        """Open the file; it and its folder are made where they are missing. Open already: nothing."""
        if self._writer is not None:
            return
        writer = self._lane(writes=True)
        await writer.start()
        # A database in memory belongs to one connection, so its reads take their turn with its writes.
        reader = writer if self._file == MEMORY else self._lane(writes=False)
        if reader is not writer:
            try:
                await reader.start()
            except BaseException:
                await writer.stop()
                raise
        self._writer, self._reader = writer, reader
        self._watches.open(reader, writer)

    async def close(self) -> None:
        """End every watch, finish what waits, and close the file."""
        writer, reader = self._writer, self._reader
        self._writer = self._reader = None
        await self._watches.close()
        for lane in (reader, writer):
            if lane is not None:
                await lane.stop()

    async def get(self, key: str) -> Stored | None:
        """Return the live value, or None."""
        return await self._read(lambda bucket: bucket.get(key))

    async def data(self, key: str) -> bytes | None:
        """Return the live value's bytes, or None."""
        return await self._read(lambda bucket: bucket.data(key))

    async def put(self, key: str, data: bytes, ttl: int | None) -> int:
        """Write whatever was there before; return the revision."""
        return await self._write(lambda bucket: bucket.put(key, data, ttl))

    async def create(self, key: str, data: bytes, ttl: int | None) -> int:
        """Write unless a live value is there, then `KeyExists`."""
        return await self._write(lambda bucket: bucket.create(key, data, ttl))

    async def update(
        self, key: str, data: bytes, ttl: int | None, revision: int, *, expires: dt.datetime | None = None
    ) -> int:
        """Write if the live value has this revision, else `RevisionMismatch`; `expires` keeps its moment."""
        return await self._write(lambda bucket: bucket.update(key, data, ttl, revision, expires))

    async def delete(self, key: str) -> bool:
        """Delete; return whether a live value was there."""
        return await self._write(lambda bucket: bucket.delete(key))

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, Stored]:
        """Return the live ones of `keys`, all of one moment."""
        return await self._read(lambda bucket: bucket.get_many(keys))

    async def put_many(self, items: Sequence[tuple[str, bytes]], ttl: int | None) -> Mapping[str, int]:
        """Write all or none."""
        return await self._write(lambda bucket: bucket.put_many(items, ttl))

    async def keys(self, prefix: str, limit: int, after: str | None) -> list[str]:
        """Return up to `limit` live keys that begin with `prefix` and sort after `after`."""
        return await self._read(lambda bucket: bucket.keys(prefix, limit, after))

    async def items(self, prefix: str) -> AsyncIterator[tuple[str, bytes]]:
        """Yield the live values of a prefix, sorted by key, a page at a time."""
        after = None
        while True:
            page = await self._read(partial(Bucket.page, prefix=prefix, limit=PAGE, after=after))
            for stored in page:
                yield stored.key, stored.data
            if len(page) < PAGE:
                return
            after = page[-1].key

    async def delete_many(self, keys: Sequence[str]) -> int:
        """Delete; return how many were live."""
        return await self._write(lambda bucket: bucket.delete_many(keys))

    async def history(self, key: str) -> list[Record]:
        """Return what is kept of a key, newest last."""
        return await self._write(lambda bucket: bucket.history(key))

    def watch(self, prefix: str, *, current: bool) -> Feed:
        """Tell changes from `start` on, each once and in order; with `current` what is live first."""
        return SqliteFeed(self._watches, prefix, current=current)

    def _lane(self, *, writes: bool) -> Lane:
        def opens() -> Bucket:
            connection = connect(self._file, timeout=self._timeout)
            return Bucket(connection, self._limits, self._clock, writes=writes)

        return Lane(opens, self._file)

    async def _read(self, work: Callable[[Bucket], T]) -> T:
        if self._reader is None:
            raise _closed()
        return await self._reader.run(work)

    async def _write(self, work: Callable[[Bucket], T]) -> T:
        if self._writer is None:
            raise _closed()
        result = await self._writer.run(work)
        self._watches.wake()
        return result


def _closed() -> Unavailable:
    return Unavailable("The storage is closed.", hint="Open it, with `async with`, before calling it.")
