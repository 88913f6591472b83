"""The copies of changes that fill what a watch's consumer came too late for."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from rosey_kvstore.backend import BucketLimits
from rosey_kvstore.errors import PermissionDenied
from rosey_kvstore.jetstream import stream_config
from rosey_kvstore.jetstream.copies import Copies, copies_prefix


class Server:
    """Stands where the connection would: what it is told to say arrives at once."""

    def __init__(self) -> None:
        self.subscribed: list[str] = []
        self.closed = 0
        self.full = 0
        self.connection = self

    def subscribe_raw(self, subject: str, receive: Callable[..., None], denied: Callable[..., None]) -> Any:
        self.subscribed.append(subject)
        self._receive, self.deny = receive, denied
        return SimpleNamespace(close=self._close)

    def _close(self) -> None:
        self.closed += 1

    def copies(self, *, most: int = 100) -> Copies:
        def full() -> None:
            self.full += 1

        return Copies(self, "kv_changes.plugin_q.", "a.>", most=most, full=full)  # type: ignore[arg-type]

    def say(self, *revisions: int) -> None:
        for revision in revisions:
            lines = b"Nats-Sequence: %d\r\nNats-Time-Stamp: 2026-11-24T10:00:00Z" % revision
            block = b"NATS/1.0\r\n%b\r\n\r\n" % lines
            self._receive(b"kv_changes.plugin_q.a.b", b"", b"%d" % revision, block)


def revisions(copies: Copies, before: int) -> list[int]:
    return [copy.revision for copy in copies.before(before)]


def test_what_the_consumer_skipped_comes_in_order():
    """Those before the consumer's message, each once; the message itself comes from the consumer."""
    server = Server()
    copies = server.copies()
    assert server.subscribed == ["kv_changes.plugin_q.a.>"]
    server.say(1, 2, 3, 4, 5, 6)
    found = list(copies.before(4))
    assert [(copy.revision, copy.tail, copy.data) for copy in found] == [
        (1, "a.b", b"1"),
        (2, "a.b", b"2"),
        (3, "a.b", b"3"),
    ]
    assert found[0].created.isoformat() == "2026-11-24T10:00:00+00:00"
    assert revisions(copies, 4) == []
    assert revisions(copies, 9) == [5, 6]


def test_a_copy_behind_the_consumer_is_dropped():
    """Where the consumer's message came first its copy tells nothing new."""
    server = Server()
    copies = server.copies()
    assert revisions(copies, 5) == []
    server.say(4, 5, 6)
    assert revisions(copies, 7) == [6]


def test_copies_of_two_leaders_may_cross():
    """The order is that of the revisions, whatever order they arrive in."""
    server = Server()
    copies = server.copies()
    server.say(7, 5, 8, 6)
    assert revisions(copies, 9) == [5, 6, 7, 8]


def test_the_buffer_is_bounded():
    """One more than may wait is told, and not kept."""
    server = Server()
    copies = server.copies(most=3)
    server.say(1, 2, 3)
    assert server.full == 0
    server.say(4)
    assert server.full == 1
    assert revisions(copies, 9) == [1, 2, 3]


def test_another_bucket_begins_anew():
    """After the bucket was made again its small revisions count."""
    server = Server()
    copies = server.copies()
    server.say(100)
    assert revisions(copies, 200) == [100]
    copies.clear()
    server.say(1)
    assert revisions(copies, 2) == [1]


def test_closing_and_refusal():
    """It is unsubscribed once; credentials without the permission are no error."""
    server = Server()
    copies = server.copies()
    copies.close()
    copies.close()
    assert server.closed == 1
    denied = server.copies()
    server.deny(PermissionDenied("no"))
    assert revisions(denied, 5) == []
    denied.close()
    assert server.closed == 1


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
