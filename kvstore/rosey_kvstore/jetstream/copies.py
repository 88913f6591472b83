"""Copies of all that a bucket stores, published by the server at once: they fill what a consumer is late for.

A consumer reads the stream. A key that changes more often than its history is deep, before the server comes
to it, has lost messages by then: of 500 writes sent together a consumer saw a fifth. The server publishes a
copy while it stores (the stream's `republish`), so no copy is late; but copies pass a client that is away,
and those of a leader that dies may never go out. A watch goes by its consumer and takes from the copies what
the consumer left out.
"""

from __future__ import annotations

import datetime as dt
import heapq
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from attrs import frozen

from rosey_kvstore.connection import Subscription
from rosey_kvstore.errors import StorageError
from rosey_kvstore.jetstream.api import Api
from rosey_kvstore.jetstream.messages import field, moment, sequence_of

__all__ = ["Copies", "Copy", "copies_config", "copies_prefix"]

_ROOT: Final = "kv_changes"


def copies_config(bucket: str) -> dict[str, str]:
    """Return the member `republish` of the bucket's stream."""
    return {"src": f"$KV.{bucket}.>", "dest": f"{_ROOT}.{bucket}.>"}


def copies_prefix(config: Mapping[str, Any], bucket: str) -> str | None:
    """Return what stands before a key's subject in its copies; None where the bucket sends none of use."""
    found = config.get("republish") or {}
    wanted = copies_config(bucket)
    if found.get("src") != wanted["src"] or found.get("headers_only"):
        return None
    dest = str(found.get("dest") or "")
    return dest.removesuffix(">") if dest.endswith(".>") else None


@frozen(order=True)
class Copy:
    """One stored message: its revision, the tail of its subject, its data and header block."""

    revision: int
    tail: str
    data: bytes
    block: bytes

    @property
    def created(self) -> dt.datetime:
        """When it was stored."""
        return moment((field(self.block, b"Nats-Time-Stamp") or b"").decode())


class Copies:
    """The copies that no consumer has passed yet.

    Args:
        api: The bucket.
        prefix: What stands before the tails.
        tail: The filter, behind the prefix.
        most: So many may wait; one more calls `full`.
        full: Called then; `close` is what is left to do.
    """

    def __init__(self, api: Api, prefix: str, tail: str, *, most: int, full: Callable[[], None]) -> None:
        self._waiting: list[Copy] = []
        self._most = most
        self._full = full
        self._skip = len(prefix)
        # Without the permission (credentials from before there were copies) there are none: no error.
        self._subscription: Subscription | None = api.connection.subscribe_raw(
            prefix + tail, self._take, self._denied
        )
        self._passed = 0

    def before(self, revision: int) -> Iterator[Copy]:
        """Give, in order, those that are older; they and that of `revision` itself are then gone."""
        self._passed = max(self._passed, revision)
        while self._waiting and self._waiting[0].revision <= revision:
            copy = heapq.heappop(self._waiting)
            if copy.revision < revision:
                yield copy

    def clear(self) -> None:
        """Forget all: the bucket is another one, and its revisions begin anew."""
        self._waiting.clear()
        self._passed = 0

    def close(self) -> None:
        """End it; closing twice is no error."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.close()
        self._waiting.clear()

    def _take(self, subject: bytes, _: bytes, data: bytes, block: bytes | None) -> None:
        revision = sequence_of(block or b"")
        # Those of two leaders may cross: the smallest is always on top.
        if revision > self._passed:
            if len(self._waiting) >= self._most:
                self._full()
                return
            tail = subject.decode("utf-8", "replace")[self._skip :]
            heapq.heappush(self._waiting, Copy(revision, tail, data, block or b""))

    def _denied(self, _: StorageError) -> None:
        self._subscription = None
