"""A socket that closed a moment ago, which nats-py has not noticed yet: uvloop refuses to write to it."""

from __future__ import annotations

import asyncio
import contextlib
import json

import nats
import uvloop

from rosey_deploy.stack.nats import NatsServer
from rosey_kvstore.connection import Connection
from rosey_kvstore.errors import Unavailable
from rosey_rowstore.service.connection import ServiceConnection


def closed_under(client: object) -> None:
    """Close the socket below nats-py, as a reset does; until the next turn nobody knows."""
    transport = client._transport._io_writer.transport
    transport.abort()


def test_an_answer_waits_for_the_next_connection(nats_server: NatsServer, plugin: str) -> None:
    """Whoever gives an answer learns nothing of it, and the caller gets it when the service is back."""

    async def run() -> None:
        service = ServiceConnection()
        await service.open([nats_server.url], credentials=None, name="rowstore")
        caller = await nats.connect(nats_server.url)
        inbox = await caller.subscribe(f"{plugin}.answers")
        await caller.flush()
        closed_under(service)
        given = 0
        while service._status == service.CONNECTED and given < 1000:
            service.answer(f"{plugin}.answers".encode(), b'{"result":%d}' % given, None, at_once=True)
            given += 1
            await asyncio.sleep(0)
        assert given > 0
        kept = json.loads((await inbox.next_msg(timeout=10)).data)
        assert kept["result"] < given
        await service.part()
        await caller.close()

    uvloop.run(run())


def test_a_request_ends_with_its_code(nats_server: NatsServer) -> None:
    """A call in that moment ends as one does whose connection broke, and the next one works."""

    async def run() -> None:
        connection = await Connection.open([nats_server.url])
        echo = await nats.connect(nats_server.url)

        async def answer(message: object) -> None:
            await message.respond(b"ok")

        await echo.subscribe("closed.echo", cb=answer)
        await echo.flush()
        for _ in range(5):
            closed_under(connection._client)
            with contextlib.suppress(Unavailable):  # anything else is no answer to a plugin
                await connection.request("closed.echo", timeout=5)
            assert (await connection.request("closed.echo", timeout=5)).data == b"ok"
        await connection.close()
        await echo.close()

    uvloop.run(run())
