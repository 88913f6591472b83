"""What the socket brings reaches the parser in order, whoever took it first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from nats.aio.transport import TcpTransport
from nats.errors import ProtocolError

from rosey_kvstore.connection.intake import Intake
from rosey_kvstore.connection.wire import FastParser


class Client:
    """Answers a PING slowly, as nats-py may."""

    def __init__(self, heard: list[Any]) -> None:
        self._heard = heard

    async def _process_ping(self) -> None:
        self._heard.append("PING begins")
        await asyncio.sleep(0.05)
        self._heard.append("PING ends")


@asynccontextmanager
async def connected(first: bytes = b"") -> AsyncIterator[tuple[TcpTransport, asyncio.StreamWriter]]:
    """A transport of nats-py's, and the server's end of it; `first` is sent before anybody reads."""
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        accepted.put_nowait(writer)

    server = await asyncio.start_server(accept, "127.0.0.1")
    host, port = server.sockets[0].getsockname()
    transport = TcpTransport()
    reader, writer = await asyncio.open_connection(host, port, limit=1024)
    transport._io_reader = transport._bare_io_reader = reader
    transport._io_writer = transport._bare_io_writer = writer
    their_end = await accepted.get()
    try:
        yield transport, their_end
    finally:
        writer.transport.abort()
        their_end.transport.abort()
        server.close()
        await asyncio.sleep(0.01)


def parser_of(heard: list[Any]) -> FastParser:
    return FastParser(Client(heard), lambda *message: heard.append(message[3]))  # type: ignore[arg-type]


async def read_all(intake: Intake, parser: FastParser) -> None:
    while data := await intake.next():
        await parser.parse(data)


async def test_what_came_before_is_first_and_lines_hold_up_what_follows() -> None:
    """What came before the take-over, behind a slow control line or in its midst keeps its order."""
    heard: list[Any] = []
    parser = parser_of(heard)
    before = b"".join(b"MSG a 1 4\r\n%04d\r\n" % number for number in range(1000))  # past the reader's limit
    async with connected(before) as (transport, server):
        await asyncio.sleep(0.05)
        intake = await Intake.begin(transport, parser, lambda: True)
        assert intake is not None
        reading = asyncio.create_task(read_all(intake, parser))
        server.write(b"MSG a 1 1\r\nx\r\nPING\r\nMSG a 1 1\r\ny\r\n")
        await asyncio.sleep(0.02)
        server.write(b"MSG a 1 1\r\nz\r\nMSG a 1")
        await asyncio.sleep(0.1)
        server.write(b" 1\r\nw\r\n")
        server.close()
        async with asyncio.timeout(5):
            await reading
    assert heard == [
        *(b"%04d" % number for number in range(1000)),
        *(b"x", "PING begins", "PING ends", b"y", b"z", b"w"),
    ]


async def test_a_broken_line_and_a_broken_connection_are_told() -> None:
    """What the parser refuses is raised to the reading task; the end of the stream is empty bytes."""
    heard: list[Any] = []
    parser = parser_of(heard)
    async with connected() as (transport, server):
        intake = await Intake.begin(transport, parser, lambda: True)
        assert intake is not None
        reading = asyncio.create_task(intake.next())
        await asyncio.sleep(0.02)
        server.write(b"MSG broken\r\n")
        with pytest.raises(ProtocolError):
            async with asyncio.timeout(5):
                await reading
    async with connected() as (transport, server):
        intake = await Intake.begin(transport, parser, lambda: True)
        assert intake is not None
        server.close()
        async with asyncio.timeout(5):
            assert await intake.next() == b""


async def test_nothing_is_taken_once_stopped_or_unwanted() -> None:
    """Bytes of a connection that is being replaced do not reach the parser of the next."""
    heard: list[Any] = []
    parser = parser_of(heard)
    wanted = True
    async with connected() as (transport, server):
        intake = await Intake.begin(transport, parser, lambda: wanted)
        assert intake is not None
        reading = asyncio.create_task(read_all(intake, parser))
        server.write(b"MSG a 1 1\r\na\r\n")
        await asyncio.sleep(0.05)
        wanted = False
        server.write(b"MSG a 1 1\r\nb\r\n")
        await asyncio.sleep(0.05)
        wanted = True
        intake.stop()
        server.write(b"MSG a 1 1\r\nc\r\n")
        await asyncio.sleep(0.05)
        reading.cancel()
    assert heard == [b"a"]


async def test_the_writer_still_feels_a_full_socket() -> None:
    """`drain` waits while the other side does not read, and goes on when it does."""
    parser = parser_of([])
    async with connected() as (transport, _):
        assert await Intake.begin(transport, parser, lambda: True) is not None
        transport._io_writer.transport.set_write_buffer_limits(high=1024)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                while True:
                    transport.write(b"x" * 1_000_000)
                    await transport.drain()
