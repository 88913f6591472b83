"""What the fast connection leans on inside nats-py: an upgrade that changes it fails here, loudly."""

from __future__ import annotations

import ast
import asyncio
import inspect
import textwrap

import pytest
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.protocol.parser import Parser

from rosey_kvstore.connection.client import FastClient
from rosey_kvstore.connection.wire import FastParser


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_process_op_err", ["self", "e"]),
        ("_process_err", ["self", "err_msg"]),
        ("_process_connect_init", ["self"]),
        ("_process_ping", ["self"]),
        ("_process_pong", ["self"]),
        ("_connect_command", ["self"]),
        ("close", ["self"]),
        ("new_inbox", ["self"]),
    ],
)
def test_methods_that_are_replaced_or_called_have_their_parameters(name: str, parameters: list[str]) -> None:
    """Every overridden or called method of nats-py's client takes what we give."""
    assert list(inspect.signature(getattr(Client, name)).parameters) == parameters


def test_info_of_the_server_can_be_handed_on() -> None:
    """The parser hands an INFO line to `_process_info`, whose second parameter has a default."""
    found = inspect.signature(Client._process_info).parameters
    assert list(found)[:2] == ["self", "info"]
    assert all(parameter.default is not parameter.empty for parameter in list(found.values())[2:])


async def test_fields_that_are_used_exist() -> None:
    """The state that we read or set is where nats-py keeps it."""
    client = Client()
    for name in (
        "_status", "_subs", "_sid", "_transport", "_ps", "_max_payload", "_server_info", "_current_server",
        "_reading_task", "_ping_interval_task", "_flusher_task", "_flush_queue", "options",
    ):  # fmt: skip
        assert hasattr(client, name), name
    assert isinstance(client._subs, dict)
    assert client._status == Client.DISCONNECTED
    assert len({Client.CONNECTED, Client.CLOSED, Client.RECONNECTING, Client.CONNECTING}) == 4


async def test_subscriptions_are_replayed_from_what_we_keep() -> None:
    """The reconnect reads these of a subscription, and `_close` the others."""
    sub = Subscription(Client(), 7, "a.b")
    assert (sub._subject, sub._queue, sub._max_msgs, sub._received) == ("a.b", "", 0, 0)
    assert (sub._wait_for_msgs_task, sub._message_iterator) == (None, None)
    source = inspect.getsource(Client._attempt_reconnect)
    assert "self._subs.items()" in source
    assert "self._disconnected_cb()" in source
    assert "self._reconnected_cb()" in source


def test_connected_is_set_and_subscriptions_replayed_without_a_turn_between() -> None:
    """A request that sees CONNECTED finds the inbox subscribed: nats-py awaits nothing in between."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(Client._process_connect_init)))
    lines = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node) == "self._status = Client.CONNECTED"
    ]
    waits = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Await)]
    assert lines
    assert max(waits) < min(lines)


def test_our_reader_takes_the_place_of_theirs() -> None:
    """nats-py starts `_read_loop` as a task once it is connected, and cancels it before it reconnects."""
    source = inspect.getsource(Client._process_connect_init)
    assert "self._reading_task = " in source
    assert "self._read_loop()" in source
    assert "self._reading_task.cancel()" in inspect.getsource(Client._attempt_reconnect)
    assert list(inspect.signature(Client._read_loop).parameters) == ["self"]
    assert list(inspect.signature(Parser.parse).parameters) == ["self", "data"]
    assert list(inspect.signature(Parser.reset).parameters) == ["self"]


def test_the_transport_has_a_stream_reader_and_writer() -> None:
    """The socket is taken over from them; the writer is used on."""
    transport = TcpTransport()
    assert (transport._io_reader, transport._io_writer) == (None, None)
    assert "self._io_writer" in inspect.getsource(TcpTransport.write)


def test_the_transport_writes_bytes_at_once() -> None:
    """`write` takes bytes and is no coroutine."""
    assert list(inspect.signature(TcpTransport.write).parameters) == ["self", "payload"]
    assert not inspect.iscoroutinefunction(TcpTransport.write)


class Nobody:
    """Observes a client, and does nothing about it."""

    def lost(self, error: Exception | None) -> None: ...
    def connected(self) -> None: ...
    def refused(self, reason: str) -> None: ...
    def failed(self, error: Exception) -> None: ...


async def test_our_parser_is_in_place() -> None:
    """The client made by us has our parser from the start, through `reset` as well."""
    client = FastClient(Nobody())
    assert isinstance(client._ps, FastParser)


async def test_requests_of_one_turn_leave_in_order_sixteen_at_a_time() -> None:
    """The server begins with the first requests of a crowd while the others are being made; none is lost."""
    client = FastClient(Nobody())
    writes: list[bytes] = []
    client._write = writes.append  # type: ignore[method-assign]
    for number in range(40):
        client.send(b"%02d" % number)
    assert [len(write) // 2 for write in writes] == [16, 16]
    await asyncio.sleep(0)
    assert [len(write) // 2 for write in writes] == [16, 16, 8]
    assert b"".join(writes) == b"".join(b"%02d" % number for number in range(40))
