"""What the service's connection leans on inside nats-py: an upgrade that moves it fails here, by name."""

from __future__ import annotations

import inspect

import pytest
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.protocol import command

PARAMETERS = {
    "_process_msg": ["self", "sid", "subject", "reply", "data", "headers"],
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
