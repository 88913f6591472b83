"""Thousands of small messages of one subscription, taken from the reader's buffer in one go.

A message that goes its ordinary way costs three microseconds of Python. Here one regular expression
splits all that stands in the buffer, for a tenth of it. An expression knows no lengths, and a header or a
value may hold anything; so what it found counts only when the lengths agree, and otherwise the frames are
walked one by one.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from typing import Final

from attrs import define

__all__ = ["Batch", "BulkReader", "secret_sid"]

# Below this many bytes walking is as fast.
_WORTH: Final = 2000
# Freed once, it lets glibc keep twice as much; it is never touched.
_LARGE_BLOCK: Final = 2 << 20
# MSG <subject> <sid> <reply> <size>; no other line of the server has that many words and our number.
_WORDS: Final = 5


@define(slots=True)
class Batch:
    """Whole messages, in the order they came; message `n` is the n-th of each list.

    Attributes:
        tails: The subjects, behind the prefix.
        sizes: As on the wire: the bytes of all, before that and a blank those of the header block if any.
        bodies: Header block and payload, and a few bytes of what came behind them.
        reply: The reply subject of the last message, where it was looked at; else empty.
        joined: The bodies in one piece; empty where no message has a header block.
    """

    tails: list[bytes]
    sizes: list[bytes]
    bodies: list[bytes]
    reply: bytes = b""
    joined: bytes = b""

    def __len__(self) -> int:
        return len(self.tails)

    def __iter__(self) -> Iterator[tuple[bytes, bytes, bytes | None]]:
        """Yield tail, payload and header block."""
        for tail, sizes, body in zip(self.tails, self.sizes, self.bodies, strict=True):
            head, blank, size = sizes.rpartition(b" ")
            if blank:
                yield tail, body[int(head) : int(size)], body[: int(head)]
            else:
                yield tail, body[: int(size)], None

    def mention(self, *texts: bytes) -> bool:
        """Say whether one of `texts` may stand in a header; False is certain for each."""
        return any(text in self.joined for text in texts)


class BulkReader:
    """Takes the messages of one subscription out of the parser's buffer.

    Args:
        sid: The number of the subscription, from `secret_sid`.
        prefix: What the subjects begin with; what does not goes the ordinary way, a heartbeat for one.
        receive: Called with what stood in the buffer; it does not raise.
    """

    def __init__(self, sid: int, prefix: bytes, receive: Callable[[Batch], None]) -> None:
        self._sid = b"%d" % sid
        self._prefix = prefix
        self._receive = receive
        self._mark = b"MSG " + prefix

    @cached_property
    def _frame(self) -> re.Pattern[bytes]:
        """The first line of a message; no message holds one, since nobody knows the number."""
        return re.compile(rb"%b([^ ]++) %b [^ ]++ ([^\r]++)\r\n" % (re.escape(self._mark), self._sid))

    def prepare(self) -> None:
        """Do what can be done before anything comes; to be called while there is nothing else to do."""
        _ = self._frame
        _keep_freed_memory()

    def take(self, data: bytes, at: int) -> int:
        """Take the whole messages at `data[at:]` up to one that is not of this reader; return its place.

        What is returned is `at` when there is none: not whole yet, or not of this reader.
        """
        if len(data) - at > _WORTH:
            # The last one may be cut; those before it are whole.
            at = self._split(data, at, data.rfind(self._mark, at))
        return self._walk(data, at)

    def _split(self, data: bytes, start: int, stop: int) -> int:
        if data[stop - 1 : stop] == b"H":
            stop -= 1
        if stop <= start:
            return start
        pieces = self._frame.split(memoryview(data)[start:stop])
        first, tails, sizes, bodies = pieces[0], pieces[1::3], pieces[2::3], pieces[3::3]
        if not tails or first not in (b"", b"H"):
            return start
        # A frame of someone else in between makes the bodies longer than the sizes say. A header or value
        # that looks like a frame does not know the number, and one that looks like the beginning of a
        # frame cuts the last message, which is too short then.
        if len(bodies[-1]) != _size(sizes[-1]) + 2:
            return start
        # The H of a frame with headers stands at the end of the body before it.
        found = Counter(sizes)
        expected = sum(times * (_size(each) + 2 + each.count(b" ")) for each, times in found.items())
        joined = b"".join(bodies)
        if len(joined) != expected - len(first):
            return start
        headed = any(b" " in each for each in found)
        self._receive(Batch(tails, sizes, bodies, joined=joined if headed else b""))
        return stop

    def _walk(self, data: bytes, at: int) -> int:
        """Take frames by their lengths, whatever they hold."""
        batch = Batch([], [], [])
        size, skip = len(data), len(self._prefix)
        while at < size:
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            words = data[at:end].split(b" ")
            if len(words) < _WORDS or words[2] != self._sid or not words[1].startswith(self._prefix):
                break
            stop = end + 2 + int(words[-1])
            if stop + 2 > size:
                break
            batch.tails.append(words[1][skip:])
            batch.sizes.append(b" ".join(words[4:]))
            batch.bodies.append(data[end + 2 : stop])
            batch.reply = words[3]
            at = stop + 2
        if batch.tails:
            if any(b" " in each for each in batch.sizes):
                batch.joined = b"".join(batch.bodies)
            self._receive(batch)
        return at


def _size(sizes: bytes) -> int:
    return int(sizes.rpartition(b" ")[2])


def secret_sid() -> int:
    """Return a number for a subscription that no message can hold: the server tells it to no other client."""
    return 10**11 + secrets.randbelow(9 * 10**11)


@cache
def _keep_freed_memory() -> None:
    """Have the allocator keep what large reads free, once for the process.

    glibc gives the free end of its heap back to the system at once, and has every page of it handed out
    anew for the next read: a millisecond of a list. How much it keeps follows the largest block that was
    freed (mallopt(3), M_TRIM_THRESHOLD); elsewhere this does nothing.
    """
    bytes(_LARGE_BLOCK)
