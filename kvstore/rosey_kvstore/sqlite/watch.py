"""Watches of one backend: a pump reads what was written, by whatever process, and hands it round.

Writes of this process wake the pump at once; those of others it finds by asking for the newest records ten
times a second, which costs some microseconds on the reader's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from functools import partial

from rosey_kvstore.backend import Record
from rosey_kvstore.errors import Overloaded, StorageError, StorageTimeout, Unavailable
from rosey_kvstore.sqlite.bucket import SECOND, Bucket, Changes
from rosey_kvstore.sqlite.lane import Lane

__all__ = ["SqliteFeed", "Watches"]

POLL = 0.1
PAGE = 256
BUFFERED_RECORDS = 65_536
BUFFERED_BYTES = 64 * 1024 * 1024


class Watches:
    """The watches of one backend, and the pump that feeds them while there are any."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._lanes: tuple[Lane, Lane] | None = None
        self._feeds: set[SqliteFeed] = set()
        self._pump: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def open(self, reader: Lane, writer: Lane) -> None:
        """Begin to serve feeds."""
        self._lanes = (reader, writer)

    async def close(self) -> None:
        """End every feed."""
        self._lanes = None
        for feed in [*self._feeds]:
            await feed.close()

    def wake(self) -> None:
        """Look for changes now."""
        self._wake.set()

    async def add(self, feed: SqliteFeed, *, current: bool) -> tuple[int, list[Record]]:
        """Feed it from now on; return the revision it begins after, and what is live there."""
        if self._lanes is None:
            raise Unavailable("The storage is closed.", hint="Open it, with `async with`, before calling it.")
        # Known to the pump before its start is read: what is written in between waits, and is sorted out.
        self._feeds.add(feed)
        _, writer = self._lanes
        try:
            start = await writer.run(partial(Bucket.start_watch, prefix=feed.prefix, current=current))
        except BaseException:
            self.remove(feed)
            raise
        if self._pump is None and feed in self._feeds:
            self._pump = asyncio.create_task(self._run(*self._lanes, start[0]), name="kv watch")
        return start

    def remove(self, feed: SqliteFeed) -> None:
        """Feed it no more; the last one to leave stops the pump."""
        self._feeds.discard(feed)
        if not self._feeds and self._pump is not None:
            self._pump.cancel()
            self._pump = None

    async def _run(self, reader: Lane, writer: Lane, seen: int) -> None:
        try:
            while True:
                self._wake.clear()
                changes = await reader.run(partial(Bucket.changes, after=seen, limit=PAGE))
                if changes.forgotten > seen:
                    raise _too_slow("changes were removed before this process read them")
                for record in changes.records:
                    seen = record.revision
                    for feed in self._feeds:
                        feed.push(record)
                if len(changes.records) < PAGE:
                    await self._rest(writer, changes)
        except StorageError as error:
            self._pump = None
            for feed in self._feeds:
                feed.end(error)

    async def _rest(self, writer: Lane, changes: Changes) -> None:
        """Wait until there may be something new; mark what has expired."""
        pause = POLL
        if changes.next_expiry is not None:
            left = (changes.next_expiry - self._clock()) / SECOND
            if left <= 0 and await self._sweep(writer):
                return
            pause = min(pause, left) if left > 0 else pause
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), pause)

    async def _sweep(self, writer: Lane) -> bool:
        try:
            await writer.run(Bucket.sweep)
        except StorageTimeout:
            return False  # another process holds the lock: whoever writes next marks the expiry
        return True


class SqliteFeed:
    """One watch: what its reader has still to be told.

    Args:
        watches: Of the backend.
        prefix: The beginning of the keys to tell of.
        current: Whether to tell first what is live, in order of revision.
    """

    def __init__(self, watches: Watches, prefix: str, *, current: bool) -> None:
        self.prefix = prefix
        self._watches = watches
        self._current = current
        self._waiting: deque[Record] = deque()
        self._bytes = 0
        self._after: int | None = None
        self._starting = asyncio.Lock()
        self._ended = False
        self._error: StorageError | None = None
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Return once every change made after this moment will be told."""
        async with self._starting:
            if self._after is not None or self._ended:
                return
            after, live = await self._watches.add(self, current=self._current)
            newer = [record for record in self._waiting if record.revision > after]
            self._after = after
            self._waiting = deque([*live, *newer])
            self._bytes = sum(_size(record) for record in self._waiting)

    async def next(self) -> Record | None:
        """Return the next change; None once the feed or its backend is closed."""
        await self.start()
        while not self._waiting:
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        record = self._waiting.popleft()
        self._bytes -= _size(record)
        return record

    async def close(self) -> None:
        """End it at once; what waits is not told any more."""
        self._waiting.clear()
        self._error = None
        self.end()
        self._watches.remove(self)

    def push(self, record: Record) -> None:
        """Take a change; a reader that is too slow gets what was kept, then an error."""
        if self._ended or not record.key.startswith(self.prefix):
            return
        if self._after is not None and record.revision <= self._after:
            return
        self._bytes += _size(record)
        if len(self._waiting) >= BUFFERED_RECORDS or self._bytes > BUFFERED_BYTES:
            self.end(_too_slow(f"{len(self._waiting)} changes wait to be read"))
            return
        self._waiting.append(record)
        self._changed.set()

    def end(self, error: StorageError | None = None) -> None:
        """End after what waits, with an error if one is given."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._changed.set()


def _size(record: Record) -> int:
    return len(record.key) + len(record.data or b"")


def _too_slow(what: str) -> Overloaded:
    return Overloaded(
        f"The watch is too slow and has ended: {what}.",
        hint="Do less for each change, or hand changes to a task; then watch again with current=True.",
    )
