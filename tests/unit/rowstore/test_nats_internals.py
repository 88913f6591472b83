"""What the service's connection leans on inside nats-py: an upgrade that moves it fails here, by name."""

from __future__ import annotations

import asyncio
import inspect
from urllib.parse import urlparse

import pytest
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.protocol import command

PARAMETERS = {
    "_read_loop": ["self"],
    "_process_ping": ["self"],
    "_process_pong": ["self"],
    "_process_info": ["self", "info", "initial_connection"],
    "_process_err": ["self", "err_msg"],
    "_process_connect_init": ["self"],
    "_process_op_err": ["self", "e"],
}


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_methods_that_are_replaced_are_called_as_before(name: str) -> None:
    """Each replaced method is still a coroutine of nats-py with the same parameters."""
    method = getattr(Client, name)
    assert inspect.iscoroutinefunction(method)
    assert list(inspect.signature(method).parameters) == PARAMETERS[name]


async def test_the_state_that_is_read_is_there() -> None:
    """The attributes that the connection reads or writes exist on a new client."""
    client = Client()
    for name in (
        "_sid",
        "_subs",
        "_transport",
        "_status",
        "_reading_task",
        "_ping_interval_task",
        "_flusher_task",
    ):
        assert hasattr(client, name), name
    assert isinstance(client._subs, dict)
    assert hasattr(client, "_current_server")


async def test_subscriptions_are_made_as_before() -> None:
    """A subscription takes the client, its number, the subject and the queue group, in this order."""
    assert list(inspect.signature(Subscription.__init__).parameters)[1:5] == [
        "conn",
        "id",
        "subject",
        "queue",
    ]
    assert command.sub_cmd("a.b", "group", 7) == b"SUB a.b group 7\r\n"
    assert command.unsub_cmd(7, 0) == b"UNSUB 7 \r\n"


async def test_the_stream_that_the_tap_takes_over_is_there() -> None:
    """The transport has the stream's two ends, and the reader its buffer; their protocol can be replaced."""
    ready = asyncio.Event()
    server = await asyncio.start_server(lambda _, writer: (writer.close(), ready.set())[0], "127.0.0.1", 0)
    transport = TcpTransport()
    port = server.sockets[0].getsockname()[1]
    await transport.connect(urlparse(f"nats://127.0.0.1:{port}"), 1 << 15, 5)
    assert isinstance(transport._io_reader._buffer, bytearray)
    protocol = transport._io_writer.transport.get_protocol()
    for name in ("pause_writing", "resume_writing", "connection_lost"):
        assert callable(getattr(protocol, name))
    transport._io_writer.transport.set_protocol(protocol)
    await ready.wait()
    transport.close()
    await transport.wait_closed()
    server.close()
    await server.wait_closed()
