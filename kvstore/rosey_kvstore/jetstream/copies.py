"""Copies of all that a bucket stores, published by the server at once: they fill what a consumer is late for.

A consumer reads the stream. A key that changes more often than its history is deep, before the server comes
to it, has lost messages by then: of 500 writes sent together a consumer saw a fifth. The server publishes a
copy while it stores (the stream's `republish`), so no copy is late; but copies pass a client that is away,
and those of a leader that dies may never go out. A watch therefore needs both; see `merge`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from rosey_kvstore.connection import Subscription
from rosey_kvstore.errors import StorageError
from rosey_kvstore.jetstream.api import Api
from rosey_kvstore.jetstream.merge import Message
from rosey_kvstore.jetstream.messages import sequence_of

__all__ = ["copies_config", "copies_prefix", "subscribe_to_copies"]

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


def subscribe_to_copies(
    api: Api,
    prefix: str,
    tail: str,
    *,
    receive: Callable[[Message], None],
    denied: Callable[[StorageError], None],
) -> Subscription:
    """Subscribe to the copies of keys below `tail`.

    Args:
        api: The bucket.
        prefix: What `copies_prefix` said.
        tail: The filter, behind the prefix.
        receive: Called for each copy.
        denied: Called when the credentials do not allow it: they are from before there were copies.
    """
    skip = len(prefix)

    def take(subject: bytes, _: bytes, data: bytes, block: bytes | None) -> None:
        revision = sequence_of(block or b"")
        if revision:
            receive(Message(revision, subject.decode("utf-8", "replace")[skip:], data, block))

    return api.connection.subscribe_raw(prefix + tail, take, denied)
