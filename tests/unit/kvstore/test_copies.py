"""The copies of its changes that a bucket publishes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from rosey_kvstore.backend import BucketLimits
from rosey_kvstore.jetstream import stream_config
from rosey_kvstore.jetstream.copies import copies_prefix, subscribe_to_copies
from rosey_kvstore.jetstream.merge import Message


@pytest.mark.parametrize(
    "republish",
    [
        None,
        {},
        {"src": "$KV.plugin_q.a.>", "dest": "x.>"},
        {"src": "$KV.plugin_q.>", "dest": "x.>", "headers_only": True},
        {"src": "$KV.plugin_q.>", "dest": "x.y"},
    ],
)
def test_other_copies_are_none(republish: dict[str, Any] | None):
    """A bucket of an older version, or one that an operator made otherwise: a watch goes without."""
    assert copies_prefix({"republish": republish}, "plugin_q") is None


def test_our_own_configuration_is_understood():
    """What `stream_config` asks for, and the same under an operator's own subject."""
    config = stream_config("plugin_q", BucketLimits(), description="", metadata={})
    assert copies_prefix(config, "plugin_q") == "kv_changes.plugin_q."
    moved = {"republish": {"src": "$KV.plugin_q.>", "dest": "mine.>"}}
    assert copies_prefix(moved, "plugin_q") == "mine."


def test_a_copy_is_read():
    """Revision and time are the server's headers; what carries none of them is no copy."""
    subscribed: dict[str, Callable[..., None]] = {}

    def subscribe_raw(subject: str, receive: Callable[..., None], denied: Any) -> None:
        subscribed[subject] = receive

    api = SimpleNamespace(connection=SimpleNamespace(subscribe_raw=subscribe_raw))
    found: list[Message] = []
    subscribe_to_copies(api, "kv_changes.plugin_q.", "a.>", receive=found.append, denied=print)  # type: ignore[arg-type, func-returns-value]
    (take,) = subscribed.values()
    block = b"NATS/1.0\r\nNats-Sequence: 7\r\nNats-Time-Stamp: 2026-11-24T10:00:00Z\r\n\r\n"
    take(b"kv_changes.plugin_q.a.b", b"", b"data", block)
    take(b"kv_changes.plugin_q.a.b", b"", b"by hand", None)
    assert list(subscribed) == ["kv_changes.plugin_q.a.>"]
    (copy,) = found
    assert copy[:3] == (7, "a.b", b"data")
    assert copy.created.isoformat() == "2026-11-24T10:00:00+00:00"
