"""A consumer that the server pushes to, made and removed by hand: nats-py never removes those it makes."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from typing import Any, Final

from rosey_kvstore.connection import Subscription
from rosey_kvstore.errors import StorageError
from rosey_kvstore.jetstream.api import Api
from rosey_kvstore.jetstream.messages import field

__all__ = ["HEARTBEAT", "Place", "PushConsumer"]

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
            block, and its place.
        idle: Called for each heartbeat with the number of the last message that was sent.
        denied: Called when the credentials do not allow the subscription.
    """

    def __init__(
        self,
        api: Api,
        receive: Callable[[str, bytes, bytes | None, Place], None],
        idle: Callable[[int], None],
        denied: Callable[[StorageError], None],
    ) -> None:
        self._api = api
        self._receive = receive
        self._idle = idle
        self._denied = denied
        self._name = f"rosey-{secrets.token_hex(8)}"
        self._subscription: Subscription | None = None
        self._skip = len(api.prefix)

    async def open(self, tails: list[str], **policy: Any) -> dict[str, Any]:
        """Make it for these subject tails, and return what the server says of it."""
        inbox = self._api.connection.new_inbox()
        self._subscription = self._api.connection.subscribe_raw(inbox, self._take, self._denied)
        config = {
            "name": self._name,
            "deliver_subject": inbox,
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "filter_subjects": [self._api.prefix + tail for tail in tails],
            "mem_storage": True,
            "num_replicas": 1,
            "flow_control": True,
            "idle_heartbeat": int(HEARTBEAT * _SECOND),
            "inactive_threshold": _INACTIVE,
            **policy,
        }
        try:
            return await self._api.call(
                f"CONSUMER.CREATE.{self._api.stream}.{self._name}",
                {"stream_name": self._api.stream, "config": config, "action": "create"},
            )
        except BaseException:
            await self.close()  # it may have been made all the same
            raise

    async def close(self) -> None:
        """Remove it; where the server is away it removes itself. Closing twice is no error."""
        subscription, self._subscription = self._subscription, None
        if subscription is None:
            return
        subscription.close()
        removing = asyncio.ensure_future(self._remove())
        # A caller that is cancelled here leaves no consumer behind.
        await asyncio.shield(removing)

    async def _remove(self) -> None:
        with contextlib.suppress(StorageError):
            await self._api.connection.request(
                f"$JS.API.CONSUMER.DELETE.{self._api.stream}.{self._name}",
                timeout=min(self._api.timeout, 2.0),
            )

    def _take(self, subject: bytes, reply: bytes, data: bytes, block: bytes | None) -> None:
        if block is not None and block.startswith(b"NATS/1.0 100"):
            self._control(reply, block)
            return
        words = reply.split(b".")
        # $JS.ACK.<stream>.<consumer>.<times>.<revision>.<number>.<time>.<waiting>, longer with a domain.
        at = 4 if len(words) < 11 else 6
        self._receive(
            subject.decode()[self._skip :],
            data,
            block,
            (int(words[at + 1]), int(words[at + 2]), int(words[at + 4]), int(words[at + 3])),
        )

    def _control(self, reply: bytes, block: bytes) -> None:
        # Flow control is answered at once: what waits here is bounded by its reader, and said aloud.
        stalled = reply or field(block, b"Nats-Consumer-Stalled") or b""
        if stalled:
            with contextlib.suppress(StorageError):
                self._api.connection.publish(stalled.decode())
        if (number := field(block, b"Nats-Last-Consumer")) is not None:
            self._idle(int(number))
