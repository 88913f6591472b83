"""Writes to one bucket: made room for, compared and set, and recognised when their answer was lost."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Final

from rosey_kvstore.connection import Interrupted
from rosey_kvstore.errors import QuotaExceeded
from rosey_kvstore.jetstream.api import Api, revision_of
from rosey_kvstore.jetstream.faults import WrongRevisionError
from rosey_kvstore.jetstream.leader import last_at_leader
from rosey_kvstore.jetstream.listing import Listing
from rosey_kvstore.jetstream.messages import TOKEN, block_of, field, sequence_of
from rosey_kvstore.jetstream.reading import messages_of
from rosey_kvstore.jetstream.room import Room

__all__ = ["Writer"]

_MARKER: Final = b"KV-Operation: DEL\r\n"


class Writer:
    """Writes single messages.

    Args:
        api: The bucket.
        listing: Told when something goes without leaving a message.
        room: Asked where the bucket is full.
        reach: Awaited when nobody answers; it makes the bucket, or raises where there is none.
        history: Returns how many messages of a key the bucket keeps.
    """

    def __init__(
        self,
        api: Api,
        listing: Listing,
        room: Room,
        *,
        reach: Callable[[], Any],
        history: Callable[[], int],
    ) -> None:
        self._api = api
        self._listing = listing
        self._room = room
        self._reach = reach
        self._history = history
        # A write carries a number of its own, by which it is known again.
        self._token = secrets.token_hex(6)
        self._tokens = 0

    async def write(self, tail: str, data: bytes, block: bytes | None, *, make_room: bool = True) -> int:
        """Write whatever is there, and return the revision.

        Raises:
            QuotaExceeded: The bucket is full, and no room could be made or was to be.
        """
        turn = self._room.turn
        try:
            return revision_of(await self._api.send(self._api.prefix + tail, data, block, self._reach))
        except QuotaExceeded:
            if not make_room or not await self._room.make(turn):
                raise
        return revision_of(await self._api.send(self._api.prefix + tail, data, block, self._reach))

    async def swap(
        self, tail: str, data: bytes, lines: bytes, expected: int, *, make_room: bool = True
    ) -> int:
        """Write if the key's last message has the revision `expected`, 0 for none.

        Raises:
            WrongRevisionError: It has another.
        """
        self._tokens += 1
        token = f"{self._token}-{self._tokens}".encode()
        block = block_of(
            b"%bNats-Expected-Last-Subject-Sequence: %d\r\n%b: %b\r\n"
            % (lines, expected, TOKEN.encode(), token)
        )
        for last_try in (False, False, True):
            try:
                return await self.write(tail, data, block, make_room=make_room)
            except Interrupted:
                if last_try:
                    raise
                written = await self._find_own(tail, token, expected)
                if written is not None:
                    return written
        raise AssertionError("unreachable")

    async def _find_own(self, tail: str, token: bytes, expected: int) -> int | None:
        """Look whether a write whose answer was lost is there; None: it is not, and may be sent again.

        Raises:
            WrongRevisionError: Someone else has written the key.
            Interrupted: It cannot be told any more.
        """
        if self._api.replicated:
            last = await last_at_leader(self._api, tail)
            if last is not None and field(last[1], TOKEN.encode()) == token:
                return sequence_of(last[1])
            if (0 if last is None else sequence_of(last[1])) == expected:
                return None
        found: list[tuple[int, bytes]] = []

        def take(_: str, __: bytes, block: bytes) -> None:
            found.append((sequence_of(block), block))

        await messages_of(self._api, tail, take)
        for revision, block in found:
            if field(block, TOKEN.encode()) == token:
                return revision
        if (found[-1][0] if found else 0) == expected and not self._api.replicated:
            return None
        if len(found) >= self._history() or any(field(block, b"Nats-Rollup") for _, block in found):
            raise Interrupted(
                "The connection broke before the answer came, and others have written the key since;"
                " it may have been written."
            )
        raise WrongRevisionError

    async def mark_deleted(self, tail: str, revision: int) -> None:
        """Delete the value of that revision, in a full bucket too; newer ones stay.

        Raises:
            WrongRevisionError: The key was written meanwhile.
        """
        if await self._marked(tail, revision):
            return
        if await self._room.purge_before(tail, revision) and await self._marked(tail, revision):
            return
        # No marker fits: the value itself makes the room. What is written meanwhile stays.
        self._listing.forget()
        await self._room.purge_before(tail, revision + 1)
        try:
            await self.swap(tail, b"", _MARKER, 0)
        except (WrongRevisionError, QuotaExceeded):
            return  # it is gone; full to the brim, the bucket cannot even say so to watchers

    async def _marked(self, tail: str, revision: int) -> bool:
        """Write a delete marker over that revision; False where there is no room for it."""
        try:
            await self.swap(tail, b"", _MARKER, revision, make_room=False)
        except QuotaExceeded:
            return False
        return True
