"""The tap takes messages out of the stream, whatever the pieces in which they come."""

from __future__ import annotations

from typing import Any

import pytest
from nats.errors import ProtocolError

from rosey_rowstore.service.tap import Tap

Taken = tuple[int, bytes, bytes, bytes, bytes | None]

BLOCK = b"NATS/1.0\r\nStorage-Timeout: 4900\r\n\r\n"
LOOKALIKE = b"\r\nPING"
STREAM = b"".join(
    [
        b'INFO {"server_id":"x"}\r\n',
        b"PING\r\n",
        b"MSG s.v1.q.rows.select 7 _INBOX.a.1 2\r\n{}\r\n",
        b"HMSG s.v1.q.rows.insert 8 _INBOX.a.2 %d %d\r\n" % (len(BLOCK), len(BLOCK) + len(LOOKALIKE)),
        BLOCK + LOOKALIKE + b"\r\n",
        b"MSG s.v1.q.rows.select 7 0\r\n\r\n",
        b"PONG\r\n",
    ]
)
TAKEN: list[Taken] = [
    (7, b"s.v1.q.rows.select", b"_INBOX.a.1", b"{}", None),
    (8, b"s.v1.q.rows.insert", b"_INBOX.a.2", LOOKALIKE, BLOCK),
    (7, b"s.v1.q.rows.select", b"", b"", None),
]
LINES = [b'INFO {"server_id":"x"}', b"PING", b"PONG"]


class Stream:
    """Where nats-py's own stream protocol stands."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append(exc)


def tap() -> tuple[Tap, list[Taken], Stream]:
    taken: list[Taken] = []
    stream = Stream()
    return Tap(stream, lambda *message: taken.append(message)), taken, stream


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 64, 10_000])
async def test_messages_and_lines_come_whole_in_pieces_of_any_size(size: int) -> None:
    """A message that is cut anywhere is handed over once and whole; control lines keep their order."""
    found, taken, _ = tap()
    for start in range(0, len(STREAM), size):
        found.data_received(STREAM[start : start + size])
    assert taken == TAKEN
    assert list(found.lines) == LINES
    assert found.woken.is_set()
    assert not found.ended


async def test_cut_in_two_at_every_byte() -> None:
    """There is no place where a cut loses or repeats anything."""
    for cut in range(1, len(STREAM)):
        found, taken, _ = tap()
        found.data_received(STREAM[:cut])
        found.data_received(STREAM[cut:])
        assert taken == TAKEN, cut
        assert list(found.lines) == LINES, cut


@pytest.mark.parametrize(
    "wrong", [b"MSG a\r\n", b"MSG a b 1\r\nx\r\n", b"HMSG a 1 x y\r\n", b"x" * (2 << 20)]
)
async def test_what_is_no_protocol_ends_the_connection(wrong: bytes) -> None:
    """A stream that cannot be read is ended with its reason, for a new connection to heal."""
    found, taken, _ = tap()
    found.data_received(wrong)
    assert found.ended
    assert isinstance(found.error, ProtocolError)
    found.data_received(STREAM)
    assert taken == []


async def test_the_end_reaches_both_sides() -> None:
    """The reader wakes with the reason, and nats-py's writer learns of the end and of a full socket."""
    found, _, stream = tap()
    error = ConnectionResetError("gone")
    found.pause_writing()
    found.resume_writing()
    found.connection_lost(error)
    assert found.woken.is_set()
    assert found.error is error
    assert stream.calls == ["pause", "resume", error]
