"""The parser: the same messages, however the bytes were cut."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ProtocolError

from rosey_kvstore.connection.wire import FastParser


class Heard:
    """Stands where nats-py's client stands."""

    def __init__(self) -> None:
        self.lines: list[Any] = []
        self.parser: FastParser | None = None

    async def _process_ping(self) -> None:
        self.lines.append("PING")

    async def _process_pong(self) -> None:
        self.lines.append("PONG")

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.lines.append(info)

    async def _process_err(self, text: str) -> None:
        self.lines.append(text)
        if "gone" in text and self.parser is not None:
            self.parser.reset()


def parser_of() -> tuple[FastParser, list[Any], Heard]:
    messages: list[Any] = []
    heard = Heard()
    parser = FastParser(heard, lambda *message: messages.append(message))  # type: ignore[arg-type]
    heard.parser = parser
    return parser, messages, heard


STREAM = (
    b'INFO {"max_payload":1048576}\r\n'
    b"MSG a.b 1 5\r\nhello\r\n"
    b"PING\r\n"
    b"HMSG a.c 22 _INBOX.x 12 17\r\nNATS/1.0\r\n\r\nMSG 1\r\n"
    b"+OK\r\n"
    b"MSG a.d 3 reply.to 0\r\n\r\n"
    b"-ERR 'Permissions Violation for Publish to \"$KV.Other\"'\r\n"
    b"HMSG a.e 4 16 16\r\nNATS/1.0 404\r\n\r\n\r\n"
    b"PONG\r\n"
)
MESSAGES = [
    (1, b"a.b", b"", b"hello", None),
    (22, b"a.c", b"_INBOX.x", b"MSG 1", b"NATS/1.0\r\n\r\n"),
    (3, b"a.d", b"reply.to", b"", None),
    (4, b"a.e", b"", b"", b"NATS/1.0 404\r\n\r\n"),
]
LINES = [
    {"max_payload": 1048576},
    "PING",
    "'Permissions Violation for Publish to \"$KV.Other\"'",
    "PONG",
]


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12))
async def test_cuts_do_not_matter(cuts: list[int]) -> None:
    """Any split of the stream gives the same messages and the same control lines."""
    parser, messages, heard = parser_of()
    places = [0, *sorted(cuts), len(STREAM)]
    for start, stop in itertools.pairwise(places):
        await parser.parse(STREAM[start:stop])
    assert messages == MESSAGES
    assert heard.lines == LINES


async def test_single_bytes() -> None:
    """Byte by byte works as well."""
    parser, messages, heard = parser_of()
    for byte in STREAM:
        await parser.parse(bytes([byte]))
    assert messages == MESSAGES
    assert heard.lines == LINES


async def test_payloads_may_look_like_the_protocol() -> None:
    """A payload with line ends and verbs in it is taken by its length."""
    payload = b"\r\nMSG x 1 0\r\n\r\n-ERR 'no'\r\n"
    parser, messages, heard = parser_of()
    await parser.parse(b"MSG k 1 %d\r\n%b\r\nPING\r\n" % (len(payload), payload))
    assert messages == [(1, b"k", b"", payload, None)]
    assert heard.lines == ["PING"]


async def test_large_messages_in_many_parts() -> None:
    """A message of a megabyte in small parts arrives whole."""
    payload = bytes(range(256)) * 4096
    parser, messages, _ = parser_of()
    stream = b"MSG k 1 %d\r\n%b\r\nMSG l 1 0\r\n\r\n" % (len(payload), payload)
    for start in range(0, len(stream), 1000):
        await parser.parse(stream[start : start + 1000])
    assert [message[3] for message in messages] == [payload, b""]


@given(
    sizes=st.lists(st.sampled_from([0, 1, 30, 400, 600, 5000, 40_000]), min_size=1, max_size=12),
    cuts=st.lists(st.integers(0, 600), max_size=4),
    lines=st.sets(st.integers(0, 12)),
)
async def test_large_reads_continue_what_was_cut(sizes: list[int], cuts: list[int], lines: set[int]) -> None:
    """A large read completes a cut message or line, whatever begins and ends in its first bytes."""
    stream, expected = b"", []
    for number, size in enumerate([*sizes, 70_000, *sizes]):
        payload = (b"\r\nMSG k 1 0\r\n" * (size // 12 + 1))[:size]
        stream += b"MSG k%d 1 %d\r\n%b\r\n" % (number, size, payload)
        expected.append((1, b"k%d" % number, b"", payload, None))
        stream += b"PING\r\n" if number % 13 in lines else b""
    # Cuts that lie close together, and large reads between them.
    places = sorted(
        {at + cut for at in range(0, len(stream), 50_000) for cut in cuts if at + cut < len(stream)}
    )
    parser, messages, heard = parser_of()
    for start, stop in itertools.pairwise([0, *places, len(stream)]):
        await parser.parse(stream[start:stop])
    assert messages == expected
    assert heard.lines == ["PING"] * stream.count(b"\r\nPING\r\n")


@pytest.mark.parametrize("line", [b"MSG a\r\n", b"MSG a b c\r\n", b"HMSG a 1 x 3\r\n", b"HELLO\r\n"])
async def test_what_is_no_protocol_ends_the_connection(line: bytes) -> None:
    """Lines that cannot be read raise what makes nats-py reconnect."""
    parser, _, _ = parser_of()
    with pytest.raises(ProtocolError):
        await parser.parse(line)


async def test_a_reset_in_the_middle_leaves_nothing() -> None:
    """What stands behind an error that ended the connection is not taken for the next one's first bytes."""
    parser, messages, heard = parser_of()
    await parser.parse(b"-ERR 'gone'\r\nMSG a 1 5\r\nhel")
    await parser.parse(b"PING\r\nMSG b 1 1\r\nx\r\n")
    assert heard.lines == ["'gone'", "PING"]
    assert messages == [(1, b"b", b"", b"x", None)]
