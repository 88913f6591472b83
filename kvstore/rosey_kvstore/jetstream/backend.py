"""The KV seam over JetStream: one request per call wherever the promise allows it."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import Any, Final

from rosey_kvstore.backend import BucketLimits, Record, Stored
from rosey_kvstore.connection import Connection, Interrupted, NoResponders
from rosey_kvstore.errors import (
    InternalError,
    KeyExists,
    NotProvisioned,
    PermissionDenied,
    QuotaExceeded,
    RevisionMismatch,
    Unavailable,
)
from rosey_kvstore.jetstream.api import Api, revision_of
from rosey_kvstore.jetstream.batch import BatchWriter
from rosey_kvstore.jetstream.bucket import check_stream, limits_of, stream_config
from rosey_kvstore.jetstream.copies import copies_prefix
from rosey_kvstore.jetstream.faults import WrongRevisionError
from rosey_kvstore.jetstream.feed import JetStreamFeed
from rosey_kvstore.jetstream.items import items_of, values_of
from rosey_kvstore.jetstream.leader import OwnWrites, last_at_leader
from rosey_kvstore.jetstream.listing import EDGE_DOTS, Listing
from rosey_kvstore.jetstream.messages import (
    EXPIRES,
    block_of,
    is_dead,
    moment,
    record_of_reply,
    sequence_of,
    stored_of,
    ttl_lines,
)
from rosey_kvstore.jetstream.reading import messages_of
from rosey_kvstore.jetstream.room import Room
from rosey_kvstore.jetstream.writer import Writer
from rosey_kvstore.keys import EDGE_DOT, encode_key, filter_tokens

__all__ = ["JetStreamBackend"]

_REMEMBERED: Final = 2048
_AT_ONCE: Final = 128


class JetStreamBackend:
    """One plugin's bucket; see `backend.Backend`.

    Args:
        connection: Stays the caller's: `close` does not close it.
        bucket: As `plugin_quotes`.
        create: The limits with which the bucket is made on first use; None where an operator makes it.
        description: What operators read beside the bucket's name.
        metadata: Further facts for operators.
        timeout: Seconds that one request may take.
        watch_buffer: Changes that wait for a slow reader of a watch before it ends with an error.
    """

    def __init__(
        self,
        connection: Connection,
        bucket: str,
        *,
        create: BucketLimits | None = None,
        description: str = "",
        metadata: Mapping[str, str] | None = None,
        timeout: float = 5.0,
        watch_buffer: int = 16_384,
    ) -> None:
        self.api = Api(connection, bucket, timeout)
        self.api.missing = self._reach
        self._connection = connection
        self._timeout = timeout
        self._create = create
        self._description = description
        self._metadata = dict(metadata or {})
        self._watch_buffer = watch_buffer
        self._limits = create or BucketLimits()
        self._listing = Listing(self.api)
        self._room = Room(self.api, self._listing)
        self._writer = Writer(
            self.api, self._listing, self._room, reach=self._reach, history=lambda: self._limits.history
        )
        self._batches = BatchWriter(self.api)
        self._own = OwnWrites(self.api)
        self._feeds: set[JetStreamFeed] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._clock_ahead = dt.timedelta()
        self._edge_dots_noted = False
        # Revisions that were handed out for live values: an update of one needs no look before.
        self._live: dict[int, None] = {}
        self._direct = f"{self.api.direct}.{self.api.prefix}"
        self._prefix = self.api.prefix

    @property
    def limits(self) -> BucketLimits:
        """The limits of the bucket as it stands."""
        return self._limits

    # ── The bucket itself ────────────────────────────────────────────────────────────────────────

    async def open(self) -> None:
        """Reach the bucket, or make it where that was asked for."""
        self._check_open()
        await self._reach()

    async def _reach(self) -> None:
        try:
            info = await self.api.info()
        except PermissionDenied as error:
            raise PermissionDenied(
                f"The credentials do not reach the bucket {self.api.bucket}: {error.message}",
                hint="They are another plugin's, or the plugin has no keys (kv = false in plugins.toml).",
            ) from error
        except NotProvisioned:
            if self._create is None:
                raise self._no_bucket() from None
            info = await self._make(self._create)
        check_stream(info["config"])
        self._listing.begin_with(info)
        self._limits = limits_of(info["config"])
        self.api.replicated = self._limits.replicas > 1
        self.api.copies = copies_prefix(info["config"], self.api.bucket)
        if "ts" in info:
            self._clock_ahead = dt.datetime.now(dt.UTC) - moment(info["ts"])

    def _no_bucket(self) -> NotProvisioned:
        return NotProvisioned(
            f"There is no bucket {self.api.bucket}.", hint="An operator makes it: rosey-storage apply."
        )

    async def _make(self, limits: BucketLimits) -> dict[str, Any]:
        config = stream_config(
            self.api.bucket, limits, description=self._description, metadata=self._metadata
        )
        try:
            return await self.api.call(f"STREAM.CREATE.{self.api.stream}", config)
        except PermissionDenied:
            # With credentials of its own a plugin makes nothing: its bucket is the provisioner's.
            raise self._no_bucket() from None
        except InternalError:
            # Another process made it first, with other limits: those stand.
            return await self.api.info()

    async def close(self) -> None:
        """End every watch; the connection stays."""
        self._closed = True
        for feed in list(self._feeds):
            await feed.close()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what needs no waiting for; `close` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("The storage is closed.")

    # ── Reading one key ──────────────────────────────────────────────────────────────────────────

    async def data(self, key: str) -> bytes | None:
        """Return the bytes of the live value."""
        if self._closed:
            self._check_open()
        tail = encode_key(key)
        subject = self._direct + tail
        try:
            reply = await self._connection.request_raw(subject, b"", None, self._timeout)
        except (NoResponders, Interrupted):
            reply = await self.api.read(subject)
        block = reply.block
        missing = _missing(block)
        if self.api.replicated and self._own.is_older(tail, 0 if missing else sequence_of(block or b"")):
            found = await self._own.newer(tail)
            return None if found is None or is_dead(found[1]) else found[0]
        return None if missing or is_dead(block) else reply.data

    async def get(self, key: str) -> Stored | None:
        """Return the live value."""
        self._check_open()
        found = await self._last(encode_key(key))
        if found is None or is_dead(found[1]):
            return None
        stored = stored_of(key, *found)
        self._remember(stored.revision)
        return stored

    async def _last(self, tail: str) -> tuple[bytes, bytes] | None:
        """Return data and header block of a key's last message, a marker included."""
        reply = await self.api.read(self._direct + tail)
        found = None if _missing(reply.block) else (reply.data, reply.block or b"")
        if self.api.replicated and self._own.is_older(tail, 0 if found is None else sequence_of(found[1])):
            return await self._own.newer(tail)
        return found

    async def _surely_last(self, tail: str) -> tuple[bytes, bytes] | None:
        """Do what `_last` does, with the leader's word: for what is compared and set."""
        return await (last_at_leader(self.api, tail) if self.api.replicated else self._last(tail))

    def _wrote(self, tail: str, revision: int) -> None:
        """Note a live value of our own."""
        self._remember(revision)
        if self.api.replicated:
            self._own.note(tail, revision)

    def _remember(self, revision: int) -> None:
        live = self._live
        live[revision] = None
        if len(live) > _REMEMBERED:
            del live[next(iter(live))]

    # ── Writing one key ──────────────────────────────────────────────────────────────────────────

    async def put(self, key: str, data: bytes, ttl: int | None) -> int:
        """Write whatever was there before."""
        tail = encode_key(key)
        if self._closed or EDGE_DOT in tail:
            tail = await self._tail(key)
        block = None if ttl is None else block_of(ttl_lines(ttl))
        # The commonest write goes the shortest way.
        try:
            reply = await self._connection.request_raw(self._prefix + tail, data, block, self._timeout)
            revision = revision_of(reply)
        except (NoResponders, QuotaExceeded):
            revision = await self._writer.write(tail, data, block)
        self._wrote(tail, revision)
        return revision

    async def create(self, key: str, data: bytes, ttl: int | None) -> int:
        """Write unless a live value is there."""
        tail = await self._tail(key)
        lines, expected = ttl_lines(ttl), 0
        while True:
            try:
                revision = await self._writer.swap(tail, data, lines, expected)
            except WrongRevisionError:
                last = await self._surely_last(tail)
                if last is not None and not is_dead(last[1]):
                    raise KeyExists(f"{key!r} has a value already.") from None
                expected = 0 if last is None else sequence_of(last[1])
            else:
                self._wrote(tail, revision)
                return revision

    async def update(
        self, key: str, data: bytes, ttl: int | None, revision: int, *, expires: dt.datetime | None = None
    ) -> int:
        """Write if the live value has this revision."""
        tail = await self._tail(key)
        if revision not in self._live:
            # A marker's revision, known from a history, would pass the server's comparison.
            last = await self._surely_last(tail)
            if last is None or is_dead(last[1]) or sequence_of(last[1]) != revision:
                raise _mismatch(key, revision)
        try:
            written = await self._writer.swap(tail, data, self._lines(key, ttl, revision, expires), revision)
        except WrongRevisionError:
            raise _mismatch(key, revision) from None
        self._wrote(tail, written)
        return written

    def _lines(self, key: str, ttl: int | None, revision: int, expires: dt.datetime | None) -> bytes:
        if expires is None:
            return ttl_lines(ttl)
        left = (expires - dt.datetime.now(dt.UTC) + self._clock_ahead).total_seconds()
        if left <= 0:
            raise _mismatch(key, revision)
        # The server counts whole seconds; the exact moment goes along, so that nothing adds up.
        return ttl_lines(max(1, math.ceil(left))) + f"{EXPIRES}: {expires.isoformat()}\r\n".encode()

    async def delete(self, key: str) -> bool:
        """Delete; return whether a live value was there."""
        tail = await self._tail(key)
        while True:
            last = await self._surely_last(tail)
            if last is None or is_dead(last[1]):
                return False
            try:
                await self._mark_deleted(tail, sequence_of(last[1]))
            except WrongRevisionError:
                continue  # written meanwhile: that value is the one to delete
            return True

    async def _mark_deleted(self, tail: str, revision: int) -> None:
        await self._writer.mark_deleted(tail, revision)
        self._own.note(tail, revision + 1)

    async def _tail(self, key: str) -> str:
        if self._closed:
            self._check_open()
        tail = encode_key(key)
        if EDGE_DOT in tail and not self._edge_dots_noted:
            await self._note_edge_dots()
        return tail

    async def _note_edge_dots(self) -> None:
        """Tell every lister that `room.` is more than what stands below `room.>`; once per bucket."""
        if await self._last(EDGE_DOTS) is None:
            await self._writer.write(EDGE_DOTS, b'"Some keys here have doubled or outer dots."', None)
        self._edge_dots_noted = True
        self._listing.found_edge_dots()

    # ── Many keys ────────────────────────────────────────────────────────────────────────────────

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, Stored]:
        """Return the live ones of `keys`."""
        self._check_open()
        found = dict(await values_of(self.api, keys))
        if self.api.replicated:
            for key in keys:
                if self._own.is_older(encode_key(key), found[key].revision if key in found else 0):
                    found.pop(key, None)
                    if (stored := await self.get(key)) is not None:
                        found[key] = stored
        return found

    async def put_many(self, items: Sequence[tuple[str, bytes]], ttl: int | None) -> Mapping[str, int]:
        """Write all or none."""
        if len(items) == 1:
            key, data = items[0]
            return {key: await self.put(key, data, ttl)}
        tails = [(await self._tail(key), data) for key, data in items]
        turn = self._room.turn
        try:
            first = await self._put_batch(tails, ttl)
        except QuotaExceeded:
            if not await self._room.make(turn):
                raise
            first = await self._put_batch(tails, ttl)
        for number, (tail, _) in enumerate(tails):
            self._own.note(tail, first + number)
        return {key: first + number for number, (key, _) in enumerate(items)}

    async def _put_batch(self, tails: Sequence[tuple[str, bytes]], ttl: int | None) -> int:
        try:
            return await self._batches.write(tails, ttl)
        except NoResponders:
            await self._reach()
            return await self._batches.write(tails, ttl)

    async def keys(self, prefix: str, limit: int, after: str | None) -> list[str]:
        """Return live keys."""
        self._check_open()
        return await self._listing.keys(prefix, limit, after)

    def items(self, prefix: str) -> AsyncIterator[tuple[str, bytes]]:
        """Yield live values, sorted by key; of a large bucket each as it is when its turn comes."""
        self._check_open()
        return items_of(self.api, self._listing, prefix)

    async def delete_many(self, keys: Sequence[str]) -> int:
        """Delete; return how many were live."""
        found = await self.get_many(keys)
        turns = asyncio.Semaphore(_AT_ONCE)

        async def delete(stored: Stored) -> bool:
            async with turns:
                try:
                    await self._mark_deleted(encode_key(stored.key), stored.revision)
                except WrongRevisionError:
                    return await self.delete(stored.key)
                return True

        return sum(await asyncio.gather(*(delete(stored) for stored in found.values())))

    # ── What happened, what happens ──────────────────────────────────────────────────────────────

    async def history(self, key: str) -> list[Record]:
        """Return what is kept of a key, newest last."""
        self._check_open()
        found: list[Record] = []

        def take(_: str, data: bytes, block: bytes) -> None:
            found.append(record_of_reply(key, data, block))

        await messages_of(self.api, encode_key(key), take)
        return found

    def watch(self, prefix: str, *, current: bool) -> JetStreamFeed:
        """Tell changes."""
        self._check_open()
        tokens, certain = filter_tokens(prefix)
        if not certain:
            # Keys with doubled dots may come at any time: they stand beside these tokens.
            tokens = tokens.rpartition(".")[0]
        feed = JetStreamFeed(
            self,
            prefix,
            f"{tokens}.>" if tokens else ">",
            current=current,
            buffer=self._watch_buffer,
            ended=self._feeds.discard,
        )
        self._feeds.add(feed)
        return feed


def _missing(block: bytes | None) -> bool:
    if block is None or not block.startswith(b"NATS/1.0 "):
        return False
    if block.startswith(b"NATS/1.0 404"):
        return True
    raise InternalError(f"JetStream refuses the read: {block[9:60].decode('ascii', 'replace').strip()}.")


def _mismatch(key: str, revision: int) -> RevisionMismatch:
    return RevisionMismatch(
        f"{key!r} is not live at the revision {revision} any more.", hint="Read the entry again."
    )
