"""The socket's bytes on their way to nats-py: messages are taken out and handed over at once.

nats-py reads through a stream, a task and a coroutine per message. Here the transport's own callback
takes the messages out of what has come, and leaves PING, PONG, INFO and -ERR to nats-py, in their order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from nats.errors import ProtocolError

__all__ = ["Take", "Tap"]

Take = Callable[[int, bytes, bytes, bytes, "bytes | None"], None]
"""Takes subscription, subject, reply subject, payload and header block."""

_LONGEST_LINE: Final = 1 << 20  # an INFO of a large cluster has some kilobytes
_HMSG: Final = ord("H")
_MSG: Final = ord("M")


class _Stream(Protocol):
    """What nats-py's own stream protocol does for writing and for the end of the connection."""

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...


class Tap(asyncio.Protocol):
    """Takes the place of the protocol of nats-py's stream on one connection.

    Args:
        stream: That protocol; it goes on to serve the writing side.
        take: Called for each message, in order; it returns at once and does not raise.

    Attributes:
        lines: The control lines that came, for nats-py.
        woken: Set when there are lines, or the end.
        ended: Whether nothing more will come.
        error: Why, where it was an error.
    """

    def __init__(self, stream: _Stream, take: Take) -> None:
        self._stream = stream
        self._take = take
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 0
        self.lines: deque[bytes] = deque()
        self.woken = asyncio.Event()
        self.ended = False
        self.error: Exception | None = None

    def close(self) -> None:
        """Hand nothing over any more."""
        self.ended = True
        self._parts.clear()

    # what the transport calls

    def data_received(self, data: bytes) -> None:
        """Take what came; a message that is not whole yet waits for the rest."""
        if self.ended:
            return
        if self._have:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return  # a large message: join its parts once, not at each of them
            data = b"".join(self._parts)
            self._parts.clear()
        self._have = self._need = 0
        try:
            rest = self._consume(data)
        except ProtocolError as error:
            self._end(error)
            return
        if rest < len(data):
            self._parts.append(data[rest:])
            self._have = len(data) - rest

    def eof_received(self) -> bool:
        """Note the end; the transport closes."""
        self._end(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        self._end(exc)
        self._stream.connection_lost(exc)

    def pause_writing(self) -> None:
        """Let writers wait."""
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        """Let writers go on."""
        self._stream.resume_writing()

    # what came

    def _end(self, error: Exception | None) -> None:
        if not self.ended:
            self.ended, self.error = True, error
            self.woken.set()

    def _consume(self, data: bytes) -> int:
        """Hand out what is whole, and return where the rest begins."""
        at, size, take = 0, len(data), self._take
        while at < size:
            end = data.find(b"\r\n", at)
            if end < 0:
                if size - at > _LONGEST_LINE:
                    raise ProtocolError("nats: a line without an end")
                return at
            kind = data[at]
            if kind != _HMSG and kind != _MSG:  # noqa: PLR1714 - twice as fast as a tuple
                self.lines.append(data[at:end])
                self.woken.set()
                at = end + 2
                continue
            # [H]MSG subject sid [reply] [header size] total size
            words = data[at:end].split()
            try:
                stop = end + 2 + int(words[-1])
                body = end + 2 + (int(words[-2]) if kind == _HMSG else 0)
                subject, sid = words[1], int(words[2])
                reply = words[3] if len(words) == (6 if kind == _HMSG else 5) else b""
            except (ValueError, IndexError) as error:
                raise ProtocolError("nats: malformed MSG") from error
            if stop + 2 > size:
                self._need = stop + 2 - at
                return at
            at = stop + 2
            take(sid, subject, reply, data[body:stop], data[end + 2 : body] if kind == _HMSG else None)
        return at
