"""Replies to reads, kept for as long as nothing in the database has changed.

What a read sees in Postgres is settled by its snapshot: which transactions were over when it began. A kept
reply is therefore true as long as the snapshot is the same, whoever writes: this process, another one, a
migration or an operator. A batch of reads asks for the snapshot first; replies kept under the same one are
given again, the others are asked for in the same pipeline and kept under it. Nothing is told by a clock, and
nobody has to announce what was written.

A snapshot is of the whole server: any write makes every kept reply worthless. Where writes never cease,
asking is given up for a while.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

__all__ = ["Key", "ReadCache", "Reads", "Terms"]

_ENTRY: Final = 250
"""Bytes that an entry takes beside its key and its reply: two objects, and its place in a dict."""
_PART: Final = 8
"""A reply of more than this part of the cache is not kept: one page would put all others out."""
_CHANGES: Final = 3
"""So many changes of the snapshot, one after the other, say that something is always being written."""
_SHORTEST_REST: Final = 0.02
_LONGEST_REST: Final = 1.0

Key = tuple[str, bytes]
"""What was asked: the operation and the body as it came."""

Terms = tuple[object, object]
"""The limits and the tables with which it was planned; others, even if they are equal, are other terms."""


class ReadCache:
    """What the plugins of one process keep, in so many bytes altogether.

    Args:
        size: Bytes; 0 keeps nothing.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0
        self._plugins: list[Reads] = []

    def reads(self, clock: Callable[[], float] = time.monotonic) -> Reads:
        """Return the share of one plugin."""
        made = Reads(self, clock)
        self._plugins.append(made)
        return made

    def make_room(self, size: int) -> bool:
        """Make room for so many bytes by emptying the largest shares; False for what is too large to keep."""
        if size > self.size // _PART:
            return False
        while self.used + size > self.size:
            max(self._plugins, key=lambda reads: reads.used).clear()
        return True


class Reads:
    """The kept replies of one plugin: all of one snapshot, read on connections that still stand.

    Attributes:
        era: Changes whenever what is kept is dropped: a reply that was found in another era has to be
            read again.
        used: Bytes that the replies take.
        hits: Replies that were given again.
    """

    __slots__ = (
        *("_cache", "_changes", "_clock", "_kept", "_rest", "_resting_until", "_snapshot", "_terms"),
        *("_stopped", "era", "hits", "used"),
    )

    def __init__(self, cache: ReadCache, clock: Callable[[], float]) -> None:
        self._cache = cache
        self._clock = clock
        self._kept: dict[Key, bytes] = {}
        self._terms: Terms = (None, None)
        self._snapshot: str | None = None
        self._changes = 0
        self._rest = _SHORTEST_REST
        self._resting_until = float("-inf")
        self._stopped = False
        self.era = object()
        self.used = 0
        self.hits = 0

    def get(self, key: Key, terms: Terms) -> bytes | None:
        """Return a reply that was read on these very terms.

        It is true if the era is still the same after the snapshot was confirmed.
        """
        if not _same(terms, self._terms):
            self.clear()
            self._terms = terms
        return self._kept.get(key)

    def worthwhile(self) -> bool:
        """Whether to ask for the snapshot, so that what is read now can be kept."""
        if self._stopped or self._cache.size == 0:
            return False
        return self._changes < _CHANGES or self._clock() >= self._resting_until

    def confirm(self, snapshot: str) -> None:
        """Take note of the server's snapshot; what was kept under another one is dropped."""
        if snapshot == self._snapshot:
            self._changes = 0
            self._rest = _SHORTEST_REST
            return
        self.clear()
        self._snapshot = snapshot
        self._changes += 1
        if self._changes >= _CHANGES:
            self._resting_until = self._clock() + self._rest
            self._rest = min(self._rest * 2, _LONGEST_REST)

    def keep(self, key: Key, body: bytes, snapshot: str, terms: Terms) -> None:
        """Keep a reply that was read after `snapshot` was taken, in the same session, on these terms.

        Left aside is what was planned on other terms than those of the last `get`: it comes late. And while
        something is always being written whatever was kept would be asked for twice.
        """
        if self._stopped or snapshot != self._snapshot or self._changes >= _CHANGES:
            return
        if key in self._kept or not _same(terms, self._terms):
            return
        size = len(key[1]) + len(body) + _ENTRY
        if self._cache.make_room(size):  # it may have emptied this very share
            self._kept[key] = body
            self.used += size
            self._cache.used += size

    def clear(self) -> None:
        """Drop what is kept."""
        self._cache.used -= self.used
        self.used = 0
        self._kept = {}
        self.era = object()

    def stop(self) -> None:
        """Keep nothing any more: the server does not tell its snapshot."""
        self._stopped = True
        self.clear()

    def forget(self) -> None:
        """Drop what is kept, because a connection of the plugin is opened.

        It may lead to another server, or to one that was restored, where transactions are counted anew.
        """
        self.clear()
        self._snapshot = None


def _same(terms: Terms, others: Terms) -> bool:
    return terms[0] is others[0] and terms[1] is others[1]
