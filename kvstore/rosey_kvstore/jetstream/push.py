"""A consumer that the server pushes to, made and removed by hand: nats-py never removes those it makes."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final

from rosey_kvstore.connection import Batch, Subscription
from rosey_kvstore.errors import StorageError
from rosey_kvstore.jetstream.api import Api
from rosey_kvstore.jetstream.messages import field

__all__ = ["HEARTBEAT", "Place", "PushConsumer", "place_of_reply"]

# Revision, number within the consumer, how many wait behind it, nanoseconds since 1970.
Place = tuple[int, int, int, int]

HEARTBEAT: Final = 2.0
_SECOND: Final = 1_000_000_000
# A consumer whose plugin died is gone after this; one in use is kept alive by its subscription.
_INACTIVE: Final = 10 * _SECOND


class PushConsumer:
    """An ephemeral consumer in memory, without acknowledgements.

    Args:
        api: The bucket.
        receive: Called for each message, in order, with the tail of its subject, its data and header
            block, and its place. None where `receive_many` takes them.
        receive_many: Called with what has come, many messages at once; for thousands of small ones.
        idle: Called for each heartbeat with the number of the last message that was sent.
        denied: Called when the credentials do not allow the subscription.
    """

    def __init__(
        self,
        api: Api,
        *,
        receive: Callable[[str, bytes, bytes | None, Place], None] | None = None,
        receive_many: Callable[[Batch], None] | None = None,
        idle: Callable[[int], None] = lambda _: None,
        denied: Callable[[StorageError], None],
    ) -> None:
        self._api = api
        self._receive = receive
        self._receive_many = receive_many
        self._idle = idle
        self._denied = denied
        # It rides along with every message that the server pushes.
        self.name = f"r-{secrets.token_urlsafe(6)}"
        self._subscription: Subscription | None = None
        self._skip = len(api.prefix)

    async def open(self, tails: Sequence[str], *, paced: bool = True, **policy: Any) -> dict[str, Any]:
        """Make it, and return what the server says of it.

        Args:
            tails: The filters, behind the bucket's prefix; none for everything in the bucket.
            paced: The server waits for us every now and then, and tells that it is there when nothing
                comes. What is short needs neither, and is faster without.
            policy: Further members of the configuration.
        """
        config = {
            "name": self.name,
            "deliver_subject": self._subscribe(),
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _INACTIVE,
            **policy,
        }
        if tails:
            config["filter_subjects"] = [self._api.prefix + tail for tail in tails]
        if paced:
            config |= {"flow_control": True, "idle_heartbeat": int(HEARTBEAT * _SECOND)}
        try:
            return await self._api.call(
                f"CONSUMER.CREATE.{self._api.stream}.{self.name}",
                {"stream_name": self._api.stream, "config": config, "action": "create"},
            )
        except BaseException:
            await self.close()  # it may have been made all the same
            raise

    def _subscribe(self) -> str:
        connection = self._api.connection
        inbox = connection.new_inbox()
        if self._receive_many is None:
            self._subscription = connection.subscribe_raw(inbox, self._take, self._denied)
        else:
            self._subscription = connection.subscribe_bulk(
                inbox,
                prefix=self._api.prefix,
                receive=self._receive_many,
                others=self._take,
                denied=self._denied,
            )
        return inbox

    async def progress(self) -> tuple[int, int]:
        """Return how many messages were sent, and how many still wait at the server."""
        info = await self._api.call(f"CONSUMER.INFO.{self._api.stream}.{self.name}")
        return int(info["delivered"]["consumer_seq"]), int(info["num_pending"])

    async def close(self) -> None:
        """Remove it; where the server is away it removes itself. Closing twice is no error."""
        if (removing := self.begin_close()) is not None:
            # A caller that is cancelled here leaves no consumer behind.
            await asyncio.shield(removing)

    def begin_close(self) -> asyncio.Task[None] | None:
        """Do what `close` does without waiting; the task is None where it is closed."""
        subscription, self._subscription = self._subscription, None
        if subscription is None:
            return None
        subscription.close()
        return asyncio.get_running_loop().create_task(self._remove())

    async def _remove(self) -> None:
        with contextlib.suppress(StorageError):
            await self._api.connection.request(
                f"$JS.API.CONSUMER.DELETE.{self._api.stream}.{self.name}",
                timeout=min(self._api.timeout, 2.0),
            )

    def _take(self, subject: bytes, reply: bytes, data: bytes, block: bytes | None) -> None:
        if block is not None and block.startswith(b"NATS/1.0 100"):
            self._control(reply, block)
            return
        if self._receive is None:
            return
        # A subject that is no UTF-8 was put by hand; it is no key, and no reason to stop.
        self._receive(subject.decode("utf-8", "replace")[self._skip :], data, block, place_of_reply(reply))

    def _control(self, reply: bytes, block: bytes) -> None:
        # Flow control is answered at once: what waits here is bounded by its reader, and said aloud.
        stalled = reply or field(block, b"Nats-Consumer-Stalled") or b""
        if stalled:
            with contextlib.suppress(StorageError):
                self._api.connection.publish(stalled.decode())
        if (number := field(block, b"Nats-Last-Consumer")) is not None:
            self._idle(int(number))


def place_of_reply(reply: bytes) -> Place:
    """Return what a consumer tells of a message in its reply subject."""
    words = reply.split(b".")
    # $JS.ACK.<stream>.<consumer>.<times>.<revision>.<number>.<time>.<waiting>, longer with a domain.
    at = 4 if len(words) < 11 else 6
    return int(words[at + 1]), int(words[at + 2]), int(words[at + 4]), int(words[at + 3])
