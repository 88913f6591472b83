"""A watch on JetStream: a consumer of its own, rebuilt where it stopped: nothing is missed or told twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from rosey_kvstore.backend import Record
from rosey_kvstore.connection import Subscription
from rosey_kvstore.errors import NotProvisioned, Overloaded, PermissionDenied, QuotaExceeded, StorageError
from rosey_kvstore.jetstream.copies import subscribe_to_copies
from rosey_kvstore.jetstream.merge import Merge, Message
from rosey_kvstore.jetstream.messages import operation_of
from rosey_kvstore.jetstream.push import HEARTBEAT, Place, PushConsumer
from rosey_kvstore.keys import decode_key

if TYPE_CHECKING:
    from rosey_kvstore.jetstream.backend import JetStreamBackend

__all__ = ["JetStreamFeed"]

_PART: Final = 500
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5
# So long a bucket may be missing after a reconnect (a cluster that is still starting) before the watch ends.
_MISSING_FOR: Final = 10.0


class JetStreamFeed:
    """Changes of the keys below a prefix; see `backend.Feed`."""

    def __init__(
        self,
        backend: JetStreamBackend,
        prefix: str,
        tail: str,
        *,
        current: bool,
        buffer: int,
        ended: Callable[[JetStreamFeed], None],
    ) -> None:
        self._backend = backend
        self._api = backend.api
        self._prefix = prefix
        self._tail = tail
        self._buffer = buffer
        self._ended = ended
        self._waiting: deque[Record] = deque()
        self._news: asyncio.Future[None] | None = None
        self._consumer: PushConsumer | None = None
        self._copies: Subscription | None = None
        self._merge = Merge(self._tell, most=buffer, full=self._overflow)
        self._received = 0  # the revision up to which the consumer told everything
        self._last = 0  # the revision up to which everything waits for the reader, or was read
        self._bucket_made = ""
        self._number = 0  # of the last message in this consumer
        self._seen = 0.0  # when the consumer was last heard of
        self._error: StorageError | None = None
        self._closed = False
        self._started = False
        self._rebuilding: asyncio.Task[None] | None = None
        self._watchdog: asyncio.Task[None] | None = None
        self._forget: Callable[[], None] | None = None
        # With current=True: keys still to be told, and what was told of those that changed meanwhile.
        self._current: deque[Record] | None = deque() if current else None
        self._after: str | None = None
        self._told: dict[str, int] = {}

    async def start(self) -> None:
        """Return once the consumer stands."""
        if self._started or self._closed:
            return
        try:
            await self._begin()
        except BaseException:
            await self.close()
            raise
        self._started = True
        self._forget = self._api.connection.on_reconnected(self._rebuild)
        self._watchdog = asyncio.get_running_loop().create_task(self._watch_heartbeats())

    async def _begin(self) -> None:
        if self._api.copies is not None:
            self._copies = subscribe_to_copies(
                self._api,
                self._api.copies,
                self._tail,
                receive=self._merge.take_copy,
                denied=lambda _: self._without_copies(),
            )
        info = await self._api.info()
        self._bucket_made = info["created"]
        self._last = self._received = self._stored(info)
        await self._open_consumer()

    def _stored(self, info: Mapping[str, Any]) -> int:
        """Return the bucket's last revision; what is stored from now on has a copy."""
        last = int(info["state"]["last_seq"])
        if self._copies is not None:
            self._merge.expect_copies(after=last)
        return last

    def _without_copies(self) -> None:
        copies, self._copies = self._copies, None
        if copies is not None:
            copies.close()
        self._merge.expect_none()

    async def next(self) -> Record | None:
        """Return the next change."""
        if self._current is not None and not self._closed:
            record = await self._next_current()
            if record is not None:
                return record
        while True:
            if self._waiting:
                record = self._waiting.popleft()
                if record.revision > self._told.get(record.key, 0):
                    return record
                continue
            if self._closed:
                return None
            if self._error is not None:
                raise self._error
            self._news = asyncio.get_running_loop().create_future()
            await self._news

    async def close(self) -> None:
        """End it and remove the consumer."""
        if self._closed:
            return
        self._closed = True
        self._waiting.clear()
        self._wake()
        await self._stop()
        self._ended(self)

    # ── What is there first ──────────────────────────────────────────────────────────────────────

    async def _next_current(self) -> Record | None:
        while self._current is not None:
            if self._current:
                return self._current.popleft()
            # Everything is fetched before anything is noted: a caller that is cancelled loses nothing.
            keys = await self._backend.keys(self._prefix, _PART, self._after)
            found = await self._backend.get_many(keys)
            for key in keys:
                if (stored := found.get(key)) is not None:
                    self._told[key] = stored.revision
                    self._current.append(
                        Record(
                            key=key,
                            data=stored.data,
                            revision=stored.revision,
                            operation="set",
                            created=stored.created,
                        )
                    )
            if keys:
                self._after = keys[-1]
            elif not self._current:
                self._current = None
                start = self._last if not self._waiting else self._waiting[0].revision
                self._told = {key: told for key, told in self._told.items() if told >= start}
        return None

    # ── What comes ───────────────────────────────────────────────────────────────────────────────

    async def _open_consumer(self) -> None:
        """Make one that begins behind what was told."""
        consumer: PushConsumer | None = None

        def receive(tail: str, data: bytes, block: bytes | None, place: Place) -> None:
            if consumer is self._consumer:
                self._take(tail, data, block, place)

        def idle(number: int) -> None:
            if consumer is self._consumer:
                self._seen = asyncio.get_running_loop().time()
                if number > self._number:
                    self._rebuild()  # a message was lost on the way

        consumer = PushConsumer(self._api, receive=receive, idle=idle, denied=self._fail)
        self._consumer, self._number = consumer, 0
        self._seen = asyncio.get_running_loop().time()
        await consumer.open(
            [self._tail], deliver_policy="by_start_sequence", opt_start_seq=self._received + 1
        )

    def _take(self, tail: str, data: bytes, block: bytes | None, place: Place) -> None:
        revision, number, _, when = place
        if self._closed or self._error is not None:
            return
        self._seen = asyncio.get_running_loop().time()
        if number != self._number + 1:
            self._rebuild()
            return
        self._number = number
        if revision > self._received:
            self._received = revision
            self._merge.take(Message(revision, tail, data, block, when))

    def _tell(self, message: Message) -> None:
        """Put a change behind those that wait for the reader."""
        if self._closed or self._error is not None or message.revision <= self._last:
            return
        self._last = message.revision
        key = decode_key(message.tail)
        if key is None or not key.startswith(self._prefix):
            return
        if len(self._waiting) >= self._buffer:
            self._overflow()
            return
        operation = operation_of(message.block)
        self._waiting.append(
            Record(
                key=key,
                data=message.data if operation == "set" else None,
                revision=message.revision,
                operation=operation,
                created=message.created,
            )
        )
        self._wake()

    def _overflow(self) -> None:
        self._fail(
            Overloaded(
                f"The watch fell behind: {self._buffer} changes wait; it ends here, none was skipped.",
                hint="Read it faster, or watch a narrower prefix; watch(current=True) starts afresh.",
            )
        )

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _fail(self, error: StorageError) -> None:
        """End with an error that the reader meets behind what is still waiting."""
        if self._error is None and not self._closed:
            self._error = error
            self._wake()
            self._backend.in_background(self._stop())

    async def _stop(self) -> None:
        if self._forget is not None:
            self._forget()
        current = asyncio.current_task()
        for task in (self._watchdog, self._rebuilding):
            if task is not None and task is not current and not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self._copies is not None:
            self._copies.close()
        self._merge.clear()
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.close()

    # ── Going on after a break ───────────────────────────────────────────────────────────────────

    def _rebuild(self) -> None:
        if self._closed or self._error is not None:
            return
        if self._rebuilding is not None and not self._rebuilding.done():
            return
        self._rebuilding = asyncio.get_running_loop().create_task(self._go_on())

    async def _go_on(self) -> None:
        """Make another consumer that begins behind what was told; try until it stands."""
        old, self._consumer = self._consumer, None
        loop, pause = asyncio.get_running_loop(), _FIRST_PAUSE
        missing_until = loop.time() + _MISSING_FOR
        if old is not None:
            self._backend.in_background(old.close())
        while not self._closed:
            try:
                await self._resume()
            except (PermissionDenied, QuotaExceeded) as error:
                self._fail(error)
                return
            except NotProvisioned as error:
                if loop.time() > missing_until:
                    self._fail(error)
                    return
            except StorageError:
                pass  # away again; the next reconnect, or the next turn, tries anew
            else:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _resume(self) -> None:
        info = await self._api.info()
        if info["created"] != self._bucket_made:
            self._bucket_made = info["created"]
            self._last = self._received = 0  # another bucket of the same name: its numbers begin anew
            self._told.clear()
            self._merge.clear()
        self._stored(info)
        await self._open_consumer()

    async def _watch_heartbeats(self) -> None:
        """A consumer that fell silent is gone: the server removed it, or lost it in a restart."""
        while not self._closed and self._error is None:
            await asyncio.sleep(HEARTBEAT)
            silent = asyncio.get_running_loop().time() - self._seen
            if silent > 3 * HEARTBEAT and self._api.connection.is_connected:
                self._rebuild()
