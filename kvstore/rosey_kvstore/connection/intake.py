"""What the socket brings, straight into the parser.

A stream reader copies every byte twice and wakes a task for it, a turn of the loop later; for a request
alone that is a fifth of its time. Messages need neither. A control line does, because what answers it
awaits: it, and what came behind it, waits for the reading task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self, cast

from nats.aio.transport import TcpTransport, Transport

from rosey_kvstore.connection.wire import FastParser

__all__ = ["Intake"]


class Intake(asyncio.Protocol):
    """Takes the place of the protocol behind nats-py's stream reader, which keeps what concerns writing.

    Args:
        parser: Takes messages as they come.
        wanted: Whether what comes is still of use; a connection that is being replaced is not.
        former: The protocol that stood here.
    """

    def __init__(self, parser: FastParser, wanted: Callable[[], bool], former: asyncio.Protocol) -> None:
        self._parser = parser
        self._wanted = wanted
        self._former = former
        # Until `begin` is done what comes is only kept: something may have come before.
        self._held: list[bytes] = []
        self._holding = True
        self._stopped = False
        self._ended = False
        self._error: Exception | None = None
        self._news: asyncio.Future[None] | None = None
        self._over_tls = False

    @classmethod
    async def begin(
        cls, transport: Transport | None, parser: FastParser, wanted: Callable[[], bool]
    ) -> Self | None:
        """Take over the socket of a transport; None where it is none that can be taken over."""
        if not isinstance(transport, TcpTransport):
            return None  # a web socket has a reader of its own
        reader, writer = transport._io_reader, transport._io_writer  # noqa: SLF001 - held by a test
        if reader is None or writer is None or writer.is_closing():
            return None
        socket = cast(asyncio.Transport, writer.transport)  # uvloop's are none by name
        former = socket.get_protocol()
        if not isinstance(former, asyncio.Protocol):
            return None
        intake = cls(parser, wanted, former)
        intake._over_tls = socket.get_extra_info("sslcontext") is not None
        socket.set_protocol(intake)
        # Nothing more comes to the reader; its end makes it hand out what it still has.
        reader.feed_eof()
        before = await reader.read()
        if not socket.is_reading() and not socket.is_closing():
            socket.resume_reading()
        if before:
            intake._held.insert(0, before)
        return intake

    async def next(self) -> bytes:
        """Wait for bytes that begin with a control line, and return them; empty at the end.

        What comes while the caller is busy with them waits until this is called again.

        Raises:
            Exception: What broke the connection, or what the parser met.
        """
        while True:
            if self._error is not None:
                raise self._error
            if self._held:
                data = b"".join(self._held)
                self._held.clear()
                return data
            if self._ended:
                return b""
            self._holding = False
            self._news = asyncio.get_running_loop().create_future()
            await self._news

    def stop(self) -> None:
        """Take nothing more."""
        self._stopped = True
        self._held.clear()

    def data_received(self, data: bytes) -> None:
        """Hand messages out, and keep what is to be awaited."""
        if self._stopped or not self._wanted():
            return
        if self._holding:
            self._held.append(data)
            return
        try:
            rest = self._parser.feed(data)
        except Exception as error:  # noqa: BLE001 - it is the reading task's, which ends the connection
            self._error = error
        else:
            if rest is None:
                return
            self._held.append(rest)
        self._holding = True
        self._wake()

    def eof_received(self) -> bool | None:
        """Note that nothing more comes."""
        self._ended = True
        self._wake()
        kept_open = self._former.eof_received()
        # The former protocol saw no TLS begin, and would keep open what TLS cannot keep open.
        return None if self._over_tls else kept_open

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is gone."""
        self._ended = True
        self._error = self._error or exc
        self._wake()
        self._former.connection_lost(exc)

    def pause_writing(self) -> None:
        """Tell who writes."""
        self._former.pause_writing()

    def resume_writing(self) -> None:
        """Tell who writes."""
        self._former.resume_writing()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
