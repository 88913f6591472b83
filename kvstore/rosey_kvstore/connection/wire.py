"""The parser of what the server sends: one pass over what has come, and no coroutine per message.

nats-py's own tries a regular expression per kind of line and moves the rest of its buffer for each
message; with thousands of small messages that is most of the time of a listing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from nats.errors import ProtocolError
from nats.protocol.parser import Parser

if TYPE_CHECKING:
    from nats.aio.client import Client

    from rosey_kvstore.connection.bulk import BulkReader

__all__ = ["FastParser", "Take"]

# sid, subject, reply, payload, header block.
Take = Callable[[int, bytes, bytes, bytes, bytes | None], None]

_LONGEST_LINE = 1 << 20  # an INFO of a large cluster has some kilobytes
_MUCH = 1 << 15  # a read of so many bytes is not copied
_BIT = 1 << 9


class FastParser(Parser):
    """Takes the place of nats-py's parser, with the same calls into the client for what is no message."""

    def __init__(self, client: Client, take: Take) -> None:
        self._take = take
        self.bulk: dict[int, BulkReader] = {}  # by the number of the subscription
        self._connection = 0
        super().__init__(client)

    def reset(self) -> None:
        """Forget what came of the connection before."""
        super().reset()
        # An error of the server ends the connection in the middle of parse(): what is left is not kept.
        self._connection += 1
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 0

    async def parse(self, data: bytes = b"") -> None:
        """Take what came; what is not whole yet waits for the rest."""
        connection = self._connection
        rest = self.feed(data)
        while rest is not None:
            end = rest.index(b"\r\n")
            await self._control(rest[:end])
            if connection != self._connection:
                return
            rest = self.feed(rest[end + 2 :])

    def feed(self, data: bytes) -> bytes | None:
        """Hand out the messages that are whole, up to a control line; return what begins with it, if any.

        What is not whole yet is kept for the next time.
        """
        start = 0
        if self._have:
            if self._have + len(data) < self._need:
                self._parts.append(data)
                self._have += len(data)
                return None  # a large message: join its parts once, not at each of them
            if len(data) > _MUCH:
                start = self._complete(data)
            if not start:
                data = b"".join((*self._parts, data))
            self._parts.clear()
        self._have = self._need = 0
        at = self._messages(data, start)
        if at < 0:
            return data[-at - 1 :]
        if at < len(data):
            self._parts.append(data[at:])
            self._have = len(data) - at
        return None

    def _complete(self, data: bytes) -> int:
        """Hand out the message that was cut, with a bit of `data`; return where the rest of `data` begins.

        Joined to all of `data` it would cost a copy, in memory that the system has to hand out anew each
        time. Returned is 0 when a bit is not enough; nothing was handed out then.
        """
        at = self._messages(b"".join((*self._parts, data[:_BIT])), 0)
        # What was kept is not whole, so what was handed out ends behind it.
        return max((at if at >= 0 else -at - 1) - self._have, 0)

    def _messages(self, data: bytes, at: int) -> int:
        """Return where the part begins that is not whole; of a control line, -1 less its place."""
        size, bulk = len(data), self.bulk
        while at < size:
            end = data.find(b"\r\n", at)
            if end < 0:
                if size - at > _LONGEST_LINE:
                    raise ProtocolError("nats: a line without an end")
                return at
            kind = data[at]
            if kind != 72 and kind != 77:  # noqa: PLR1714 - HMSG, MSG; twice as fast as a tuple
                return -at - 1
            words = data[at:end].split(b" ")
            try:
                total = int(words[-1])
                header = int(words[-2]) if kind == 72 else 0
                subject, sid = words[1], int(words[2])
                reply = words[3] if len(words) == (6 if kind == 72 else 5) else b""
            except (ValueError, IndexError) as error:
                raise ProtocolError("nats: malformed MSG") from error
            if bulk and sid in bulk and (taken := bulk[sid].take(data, at)) > at:
                at = taken
                continue
            start = end + 2
            stop = start + total
            if stop + 2 > size:
                self._need = stop + 2 - at
                return at
            at = stop + 2
            body = start + header
            self._take(sid, subject, reply, data[body:stop], data[start:body] if header else None)
        return at

    async def _control(self, line: bytes) -> None:
        word = line[:4].upper()
        if word == b"PING":
            await self.nc._process_ping()  # noqa: SLF001 - as nats-py
        elif word == b"PONG":
            await self.nc._process_pong()  # noqa: SLF001 - as nats-py
        elif word == b"INFO":
            await self.nc._process_info(json.loads(line[5:]))  # noqa: SLF001 - as nats-py
        elif word == b"-ERR":
            await self.nc._process_err(line[5:].decode("utf-8", "replace"))  # noqa: SLF001 - as nats-py
        elif word != b"+OK":
            raise ProtocolError("nats: unknown protocol")
