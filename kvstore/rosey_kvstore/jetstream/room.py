"""Room in a full bucket: a delete marker alone frees nothing while history is kept."""

from __future__ import annotations

import asyncio
from typing import Final

from rosey_kvstore.jetstream.api import Api
from rosey_kvstore.jetstream.listing import Listing
from rosey_kvstore.jetstream.messages import field, is_dead, sequence_of
from rosey_kvstore.jetstream.reading import last_of

__all__ = ["Room"]

_AT_ONCE: Final = 64


class Room:
    """What a bucket holds of deleted keys, given back when there is no room left."""

    def __init__(self, api: Api, listing: Listing) -> None:
        self._api = api
        self._listing = listing
        self._lock = asyncio.Lock()
        self._made = 0
        self._nothing_at = -1

    @property
    def turn(self) -> int:
        """Rises whenever room was made: who met a full bucket before that need not make it again."""
        return self._made

    async def make(self, turn: int) -> bool:
        """Purge what deleted keys keep; return whether room was made since `turn`.

        First their older revisions go. Only when that gives nothing do the markers themselves: a bucket
        full of them would take no key any more.
        """
        async with self._lock:
            if self._made > turn:
                return True
            last = int((await self._api.info())["state"]["last_seq"])
            if last == self._nothing_at:
                return False  # nothing was deleted since it was looked through
            markers = await self._markers()
            freed = await self._purge([(tail, revision) for tail, revision in markers])
            if not freed:
                freed = await self._purge([(tail, revision + 1) for tail, revision in markers])
            if freed:
                self._made += 1
                self._listing.forget()
            else:
                self._nothing_at = last
            return freed > 0

    async def purge_before(self, tail: str, revision: int) -> int:
        """Remove the messages of a key below `revision`; return how many there were."""
        answer = await self._api.call(
            f"STREAM.PURGE.{self._api.stream}", {"filter": self._api.prefix + tail, "seq": revision}
        )
        return int(answer.get("purged") or 0)

    async def _markers(self) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []

        def take(tail: str, _: bytes, block: bytes) -> None:
            # Expiry markers leave by themselves within a second.
            if is_dead(block) and field(block, b"Nats-Marker-Reason") is None:
                found.append((tail, sequence_of(block)))

        await last_of(self._api, await self._listing.dead(), take)
        return found

    async def _purge(self, below: list[tuple[str, int]]) -> int:
        """Purge by revision, not by `keep`: a key that is written meanwhile loses nothing new."""
        freed = 0
        for start in range(0, len(below), _AT_ONCE):
            part = below[start : start + _AT_ONCE]
            freed += sum(
                await asyncio.gather(*(self.purge_before(tail, revision) for tail, revision in part))
            )
        return freed
