"""The seam between the KV API and where keys are kept: JetStream, or SQLite in local mode.

A backend takes text keys that were checked, bytes that are compact JSON within the value limit, and
whole seconds of TTL; it knows nothing of JSON or of types. What it raises is of the one error tree.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Literal, Protocol

from attrs import frozen

__all__ = ["Backend", "BucketLimits", "Feed", "Operation", "Record", "Stored"]

Operation = Literal["set", "delete", "expire"]


@frozen(kw_only=True)
class BucketLimits:
    """What a bucket holds; sizes in bytes, the figures are the contract's defaults."""

    value_size: int = 64 * 1024
    bucket_size: int = 16 * 1024 * 1024
    history: int = 10
    replicas: int = 1


@frozen(kw_only=True)
class Stored:
    """A live value; `expires` is None without a TTL, both times are aware."""

    key: str
    data: bytes
    revision: int
    created: dt.datetime
    expires: dt.datetime | None = None


@frozen(kw_only=True)
class Record:
    """One change of a key, as history and watch tell it; `data` is None unless the operation is `set`."""

    key: str
    data: bytes | None
    revision: int
    operation: Operation
    created: dt.datetime


class Feed(Protocol):
    """A watch as the backend runs it: `start`, `next` until it gives None, `close`."""

    async def start(self) -> None:
        """Return once every change made after this moment will be told. Starting twice is no error."""

    async def next(self) -> Record | None:
        """Return the next change, waiting for it; None once the feed or the backend is closed.

        Raises:
            Overloaded: The reader was so slow that the bounded buffer is full; nothing was skipped
                before this, and the feed has ended.
            Unavailable: The server has been away for longer than the feed waits.
        """

    async def close(self) -> None:
        """End it, and remove what it keeps on a server. Closing twice is no error."""


class Backend(Protocol):
    """One plugin's keys. Every method raises `Unavailable` when closed or when its server is away."""

    @property
    def limits(self) -> BucketLimits:
        """The limits of the bucket as it stands; known once `open` has returned."""

    async def open(self) -> None:
        """Reach the bucket; `NotProvisioned` when there is none and it may not be made."""

    async def close(self) -> None:
        """End every watch, remove its consumer, and let go of what `open` took."""

    async def get(self, key: str) -> Stored | None:
        """Return the live value, or None when missing, deleted or expired."""

    async def data(self, key: str) -> bytes | None:
        """Return what `get` would, the bytes alone: the short way of the commonest call."""

    async def put(self, key: str, data: bytes, ttl: int | None) -> int:
        """Write whatever was there before; return the revision."""

    async def create(self, key: str, data: bytes, ttl: int | None) -> int:
        """Write unless a live value is there, then `KeyExists`."""

    async def update(
        self, key: str, data: bytes, ttl: int | None, revision: int, *, expires: dt.datetime | None = None
    ) -> int:
        """Write if the live value has this revision, else `RevisionMismatch`.

        `expires`, in place of a TTL, keeps the moment at which the value already expires: `increment`
        neither prolongs nor shortens a TTL, however often it is called. A moment that is past counts as
        expired: `RevisionMismatch`.
        """

    async def delete(self, key: str) -> bool:
        """Delete; return whether a live value was there."""

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, Stored]:
        """Return the live ones of `keys`."""

    async def put_many(self, items: Sequence[tuple[str, bytes]], ttl: int | None) -> Mapping[str, int]:
        """Write all or none; at most 1,000, with different keys."""

    async def keys(self, prefix: str, limit: int, after: str | None) -> list[str]:
        """Return up to `limit` live keys that begin with `prefix` and sort after `after`, by code point."""

    def items(self, prefix: str) -> AsyncIterator[tuple[str, bytes]]:
        """Yield the live keys that begin with `prefix` with their bytes, sorted by key."""

    async def delete_many(self, keys: Sequence[str]) -> int:
        """Delete; return how many were live."""

    async def history(self, key: str) -> list[Record]:
        """Return what is kept of a key, newest last."""

    def watch(self, prefix: str, *, current: bool) -> Feed:
        """Tell changes from `start` on, in order, each once; with `current` what is live first, as `set`."""
