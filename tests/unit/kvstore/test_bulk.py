"""Messages taken in bulk: the same as one by one, whatever they hold and however the bytes were cut."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rosey_kvstore.connection.bulk import Batch, BulkReader
from rosey_kvstore.connection.wire import FastParser

NAME = b"KV_b.rosey-54b3e903d1e47621"
PREFIX = b"$KV.b."
SID = 738_194_065_127


class Client:
    """Stands where nats-py's client stands, and counts what is no message."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def _process_ping(self) -> None:
        self.lines.append("PING")


def frame(tail: bytes, payload: bytes, block: bytes = b"", *, number: int = 1, sid: int = SID) -> bytes:
    reply = b"$JS.ACK.%b.1.%d.%d.1795501620479219967.0" % (NAME, number, number)
    sizes = b"%d %d" % (len(block), len(block) + len(payload)) if block else b"%d" % len(payload)
    verb = b"HMSG" if block else b"MSG"
    return b"%b %b%b %d %b %b\r\n%b%b\r\n" % (verb, PREFIX, tail, sid, reply, sizes, block, payload)


def block(*lines: bytes) -> bytes:
    return b"NATS/1.0\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


class Reader:
    """A parser with one subscription in bulk, and what both ways brought."""

    def __init__(self) -> None:
        self.bulk: list[tuple[bytes, bytes, bytes | None]] = []
        self.batches: list[Batch] = []
        self.others: list[Any] = []
        self.client = Client()
        self.parser = FastParser(self.client, lambda *message: self.others.append(message))  # type: ignore[arg-type]
        self.parser.bulk[SID] = BulkReader(SID, PREFIX, self._receive)

    def _receive(self, batch: Batch) -> None:
        assert len(batch) > 0
        self.batches.append(batch)
        self.bulk.extend(batch)


# What a writer may have put to deceive: frames, ends of frames, and the beginning of one.
DECEITS = [
    b"",
    b"\r\n",
    b"\r\n\r\n\r\n",
    b"MSG $KV.b.",
    b"HMSG $KV.b.",
    b"\r\nMSG $KV.b.fake 738194065128 $JS.ACK.KV_b.rosey-0000000000000000.1.1.1.1.0 5\r\nhello\r\n",
    b"\r\nHMSG $KV.b.fake 738194065128 $JS.ACK.KV_b.rosey-0.1.1.1.1.0 12 12\r\nNATS/1.0\r\n\r\n\r\n",
    b"\r\nPING\r\n",
    b"KV-Operation: DEL",
    b"\x00\xff\xfe",
]
# Even one that knows the subscription's number, which nobody does.
KNOWING = frame(b"fake", b"hello")

messages = st.lists(
    st.one_of(
        st.builds(
            lambda tail, payload, lines: ("bulk", tail, payload, block(*lines) if lines else b""),
            st.sampled_from([b"a", b"a.b", b"room.1.user=3A2", b"\xc3\xa4", b"x" * 300, b"\xff"]),
            st.sampled_from([*DECEITS, b'{"n":1}', b"x" * 5000]),
            st.lists(st.sampled_from([b"X: " + deceit for deceit in DECEITS]), max_size=3),
        ),
        st.tuples(st.just("other"), st.sampled_from([b"_INBOX.x.1", b"$KV.b.a"]), st.binary(max_size=40)),
        st.tuples(st.just("status")),
        st.tuples(st.just("ping")),
    ),
    max_size=40,
)


def written(wanted: list[Any]) -> tuple[bytes, list[Any], list[Any], int]:
    """The bytes of messages, and what is to come out: in bulk, the ordinary way, and as pings."""
    stream: list[bytes] = []
    bulk: list[Any] = []
    others: list[Any] = []
    pings = 0
    for number, message in enumerate(wanted, 1):
        match message:
            case "bulk", tail, payload, head:
                stream.append(frame(tail, payload, head, number=number))
                bulk.append((tail, payload, head or None))
            case "other", subject, payload:
                stream.append(b"MSG %b 3 %d\r\n%b\r\n" % (subject, len(payload), payload))
                others.append((3, subject, b"", payload, None))
            case ("status",):
                head = b"NATS/1.0 100 Idle Heartbeat\r\n\r\n"
                stream.append(b"HMSG _INBOX.deliver %d %d %d\r\n%b\r\n" % (SID, len(head), len(head), head))
                others.append((SID, b"_INBOX.deliver", b"", b"", head))
            case ("ping",):
                stream.append(b"PING\r\n")
                pings += 1
    return b"".join(stream), bulk, others, pings


@given(wanted=messages, cuts=st.lists(st.floats(0, 1), max_size=5))
@example(wanted=[("bulk", b"a", b"x" * 3000, b""), ("bulk", b"b", KNOWING, b"")] * 3, cuts=[])
@example(
    # The last message begins like a frame inside, and someone else's is as long as what that cuts off.
    wanted=[
        ("bulk", b"a", b"y" * 3000, b""),
        ("other", b"_INBOX.x.1", b"z" * 10),
        ("bulk", b"b", b"MSG $KV.b." + b"z" * 19, b""),
    ],
    cuts=[],
)
def test_bulk_is_the_same_as_one_by_one(wanted: list[Any], cuts: list[float]) -> None:
    """Headers, values and messages of others that look like frames change nothing, nor does any cut."""
    stream, bulk, others, pings = written(wanted)
    reader = Reader()
    places = [0, *sorted(int(cut * len(stream)) for cut in cuts), len(stream)]
    for start, stop in itertools.pairwise(places):
        rest = reader.parser.feed(stream[start:stop])
        while rest is not None:
            line, _, rest_after = rest.partition(b"\r\n")
            assert line == b"PING"
            pings -= 1
            rest = reader.parser.feed(rest_after)
    assert reader.bulk == bulk
    assert reader.others == others
    assert pings == 0


@pytest.mark.parametrize("deceit", DECEITS)
def test_cut_at_every_byte(deceit: bytes) -> None:
    """Two reads that meet at any byte give what one read gives."""
    ordinary = [("bulk", b"k%d" % number, b'{"n":%d}' % number, b"") for number in range(14)]
    head = block(b"Nats-Batch-Id: eb7cb80b0a153e26", b"X: " + deceit)
    stream, bulk, others, _ = written(
        [*ordinary, ("bulk", b"h", deceit, head), ("status",), ("other", b"_INBOX.x", deceit), *ordinary]
    )
    for cut in range(len(stream)):
        reader = Reader()
        assert reader.parser.feed(stream[:cut]) is None
        assert reader.parser.feed(stream[cut:]) is None
        assert reader.bulk == bulk, cut
        assert reader.others == others, cut


def test_thousands_are_taken_in_one_go() -> None:
    """The ordinary case is split by the expression, which is what makes it fast: few batches, no others."""
    random.seed(4)
    wanted = [
        ("bulk", b"key%d" % number, b"v" * random.randrange(60), random.choice([b"", block(b"A: b")]))
        for number in range(5000)
    ]
    stream, bulk, _, _ = written(wanted)
    reader = Reader()
    for start in range(0, len(stream), 256 * 1024):
        reader.parser.feed(stream[start : start + 256 * 1024])
    assert reader.bulk == bulk
    assert reader.others == []
    assert len(reader.batches) <= 3 * (len(stream) // (256 * 1024) + 1)


def test_a_subscription_with_another_number_is_left_alone() -> None:
    """Two consumers of one bucket at once do not get each other's messages."""
    reader = Reader()
    reader.parser.feed(b"".join(frame(b"a%d" % each, b"x" * 50, sid=SID + each % 2) for each in range(200)))
    assert [tail for tail, _, __ in reader.bulk] == [b"a%d" % each for each in range(0, 200, 2)]
    assert [message[0] for message in reader.others] == [SID + 1] * 100


def test_a_domain_before_the_stream_is_read_too() -> None:
    """A server with a JetStream domain names it, and the account, in the reply subject."""
    reader = Reader()
    stream = b"".join(frame(b"k%d" % number, b"v" * 80) for number in range(100))
    reader.parser.feed(stream.replace(b"$JS.ACK.KV_b", b"$JS.ACK.hub.ACCHASH.KV_b"))
    assert [tail for tail, _, __ in reader.bulk] == [b"k%d" % number for number in range(100)]
    assert len(reader.batches) <= 2


def test_mention_is_certain_when_it_says_no() -> None:
    """A text in a header or a value is found, wherever it stands."""
    reader = Reader()
    stream = [frame(b"k%d" % number, b"v" * 80) for number in range(100)]
    stream[60] = frame(b"k60", b"", block(b"KV-Operation: DEL"))
    reader.parser.feed(b"".join(stream))
    assert any(batch.mention(b"\r\nKV-Operation:") for batch in reader.batches)
    assert not any(batch.mention(b"\r\nNats-Marker-Reason:") for batch in reader.batches)
