"""Every outage has its code, within the call's time, and passes by itself."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from rosey_deploy.stack.nats import NatsServer
from rosey_kvstore import KV
from rosey_kvstore.connection import Connection, Interrupted, NoResponders
from rosey_kvstore.errors import (
    NotProvisioned,
    PermissionDenied,
    RequestTooLarge,
    StorageError,
    StorageTimeout,
    Unavailable,
)
from rosey_kvstore.jetstream import JetStreamBackend


async def test_a_server_that_goes_and_comes(own_nats_server: NatsServer, plugin: str, open_kv) -> None:
    """Calls end with `unavailable` in time, and work again when the server is back."""
    kv = await open_kv(own_nats_server, plugin, timeout=3)
    await kv.set("a", 1)
    own_nats_server.kill()
    for call in (kv.get("a"), kv.set("a", 2), kv.list(), kv.increment("n"), kv.history("a")):
        start = time.monotonic()
        with pytest.raises(StorageError) as caught:
            await call
        assert caught.value.code in ("unavailable", "timeout")
        assert caught.value.plugin == plugin
        assert time.monotonic() - start < 4
    start = time.monotonic()
    with pytest.raises(Unavailable, match="away"):
        await kv.get("a")
    assert time.monotonic() - start < 0.5, "known to be away: no waiting"
    await asyncio.to_thread(own_nats_server.start)
    async with asyncio.timeout(5):
        while True:
            try:
                assert await kv.get("a") in (1, 2)
                break
            except Unavailable:
                await asyncio.sleep(0.02)


async def test_a_restart_is_ridden_out(own_nats_server: NatsServer, plugin: str, open_kv) -> None:
    """A call in the first second of an outage waits for the server instead of failing."""
    kv = await open_kv(own_nats_server, plugin)
    await kv.set("a", 1)
    own_nats_server.stop()
    own_nats_server.launch()
    values = await asyncio.gather(*(kv.get("a") for _ in range(20)))
    assert values == [1] * 20


async def test_no_server_at_all() -> None:
    """Opening gives up in time and names the server, without its password."""
    start = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        await Connection.open(["nats://bob:secret@127.0.0.1:1"], timeout=0.5)
    assert time.monotonic() - start < 3
    assert "127.0.0.1:1" in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_a_silent_server_times_out() -> None:
    """Something that listens and never greets is no NATS server."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(Unavailable):
        await Connection.open([f"nats://127.0.0.1:{port}"], timeout=0.5)
    server.close()
    await server.wait_closed()


async def test_requests_in_flight_say_what_may_have_happened(own_nats_server: NatsServer) -> None:
    """A broken connection is told at once, and that the request was sent."""
    connection = await Connection.open([own_nats_server.url])
    connection.subscribe("deaf", lambda _: None)
    waiting = asyncio.create_task(connection.request("deaf", timeout=30))
    await asyncio.sleep(0.1)
    own_nats_server.kill()
    with pytest.raises(Interrupted, match="may have been done"):
        async with asyncio.timeout(5):
            await waiting
    await connection.close()


async def test_states_of_a_request(nats_server: NatsServer) -> None:
    """Nobody there, nobody answering, too large, closed: each its own error, the last two before sending."""
    connection = await Connection.open([nats_server.url])
    with pytest.raises(NoResponders):
        await connection.request("nobody")
    connection.subscribe("deaf", lambda _: None)
    for timeout in (0.2, 0.05):  # the shorter one is not held up by the longer
        start = time.monotonic()
        with pytest.raises(StorageTimeout, match="may have been done"):
            await connection.request("deaf", timeout=timeout)
        assert timeout - 0.01 <= time.monotonic() - start < timeout + 2
    with pytest.raises(RequestTooLarge):
        await connection.request("x", b"x" * connection.max_payload, headers={"A": "b"})
    for subject in ("", "a b", "a\r\nPUB x 0"):
        with pytest.raises(StorageError) as caught:
            await connection.request(subject)
        assert caught.value.code == "invalid_request"
    waiting = asyncio.create_task(connection.request("deaf", timeout=30))
    await asyncio.sleep(0.05)
    await connection.close()
    with pytest.raises(Unavailable, match="closed"):
        await waiting
    with pytest.raises(Unavailable, match="closed"):
        await connection.request("nobody")
    await connection.close()


async def test_many_timeouts_at_once(nats_server: NatsServer) -> None:
    """Requests of different patience end each in its own time, and answers are not disturbed."""
    connection = await Connection.open([nats_server.url])
    connection.subscribe("deaf", lambda _: None)
    connection.subscribe("echo", lambda message: connection.publish(message.reply.decode(), message.data))

    async def deaf(timeout: float) -> float:
        start = time.monotonic()
        with pytest.raises(StorageTimeout):
            await connection.request("deaf", timeout=timeout)
        return time.monotonic() - start - timeout

    async def echo(number: int) -> bool:
        await asyncio.sleep(number / 500)
        return (await connection.request("echo", b"%d" % number, timeout=5)).data == b"%d" % number

    over, answered = await asyncio.gather(
        asyncio.gather(*(deaf(0.1 + (number * 37 % 10) / 20) for number in range(50))),
        asyncio.gather(*(echo(number) for number in range(200))),
    )
    assert min(over) > -0.01
    assert max(over) < 1
    assert all(answered)
    await connection.close()


async def test_draining_answers_what_was_sent(nats_server: NatsServer) -> None:
    """Drain refuses new requests and waits for those in flight."""
    connection, other = await Connection.open([nats_server.url]), await Connection.open([nats_server.url])
    loop = asyncio.get_running_loop()
    other.subscribe(
        "slow", lambda message: loop.call_later(0.3, other.publish, message.reply.decode(), b"late")
    )
    await other.request("$JS.API.INFO")  # the subscription stands
    waiting = asyncio.create_task(connection.request("slow"))
    await asyncio.sleep(0.05)
    draining = asyncio.create_task(connection.drain(timeout=5))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await connection.request("slow")
    assert (await waiting).data == b"late"
    await draining
    assert connection.is_closed
    await other.close()


async def test_an_unprovisioned_bucket(nats_server: NatsServer, plugin: str) -> None:
    """Where an operator makes buckets, a missing one is `not_provisioned`, and says what to do."""
    connection = await Connection.open([nats_server.url])
    kv = KV(JetStreamBackend(connection, f"plugin_{plugin}"), plugin=plugin)
    with pytest.raises(NotProvisioned) as caught:
        await kv.set("a", 1)
    assert caught.value.hint
    await kv.close()
    await connection.close()


async def test_a_foreign_bucket_is_refused(nats_server: NatsServer, plugin: str) -> None:
    """A bucket that another program made without TTLs and direct reads is not used half."""
    connection = await Connection.open([nats_server.url])
    backend = JetStreamBackend(connection, f"plugin_{plugin}")
    await backend.api.call(
        f"STREAM.CREATE.{backend.api.stream}",
        {"name": backend.api.stream, "subjects": [f"{backend.api.prefix}>"]},
    )
    with pytest.raises(NotProvisioned, match="allow_direct"):
        await KV(backend, plugin=plugin).get("a")
    await connection.close()


@pytest.fixture
def narrow_server(tmp_path: Path):
    """A server with a user who may reach one bucket only."""
    server = NatsServer(
        tmp_path / "nats",
        settings={
            "authorization": {
                "users": [
                    {"user": "admin", "password": "a"},
                    {
                        "user": "quotes",
                        "password": "q",
                        "permissions": {
                            "publish": {
                                "allow": [
                                    "$KV.plugin_quotes.>",
                                    "$JS.API.STREAM.INFO.KV_plugin_quotes",
                                    "$JS.API.STREAM.PURGE.KV_plugin_quotes",
                                    "$JS.API.DIRECT.GET.KV_plugin_quotes",
                                    "$JS.API.DIRECT.GET.KV_plugin_quotes.$KV.plugin_quotes.>",
                                    "$JS.API.CONSUMER.CREATE.KV_plugin_quotes.>",
                                    "$JS.API.CONSUMER.DELETE.KV_plugin_quotes.*",
                                    "$JS.FC.KV_plugin_quotes.>",
                                ]
                            },
                            "subscribe": {"allow": ["_INBOX.>"]},
                        },
                    },
                ]
            }
        },
    )
    server.start()
    yield server
    server.stop()


async def test_a_line_crossed_is_told_at_once(narrow_server: NatsServer) -> None:
    """The narrow list is enough for the whole API; beyond it `permission_denied` comes in milliseconds."""
    address = narrow_server.url.removeprefix("nats://")
    admin = await Connection.open([f"nats://admin:a@{address}"])
    from rosey_kvstore import BucketLimits

    maker = JetStreamBackend(admin, "plugin_quotes", create=BucketLimits())
    await maker.open()
    connection = await Connection.open([f"nats://quotes:q@{address}"])
    kv = KV(JetStreamBackend(connection, "plugin_quotes"), plugin="quotes")
    async with kv.watch() as watch:
        await kv.set("Ab.c", 1)
        assert (await anext(watch)).key == "Ab.c"
    await kv.set_many({"a": 1, "b": 2})
    assert (await kv.list()).keys == ["Ab.c", "a", "b"]
    assert [pair async for pair in kv.items(prefix="a")] == [("a", 1)]
    assert await kv.get_many(["a", "b"]) == {"a": 1, "b": 2}
    assert len(await kv.history("a")) == 1
    await kv._backend._room.purge_before("a", 1)
    # Its own bucket under another's name, in capitals: the server tells subjects as they are.
    other = KV(JetStreamBackend(connection, "plugin_Other"), plugin="other")
    start = time.monotonic()
    with pytest.raises(PermissionDenied) as caught:
        await other.get("a")
    assert time.monotonic() - start < 1
    assert "plugin_Other" in str(caught.value)
    with pytest.raises(PermissionDenied):
        await connection.request("$KV.plugin_other.a", b"1")
    assert await kv.get("a") == 1, "a refused call does not disturb the others"
    for closing in (kv, other):
        await closing.close()
    await connection.close()
    await admin.close()


async def test_wrong_credentials_are_told_at_once(narrow_server: NatsServer) -> None:
    """A refused password is `permission_denied`, not a wait."""
    start = time.monotonic()
    with pytest.raises(PermissionDenied) as caught:
        await Connection.open([narrow_server.url.replace("//", "//quotes:wrong@")], timeout=30)
    assert time.monotonic() - start < 10
    assert "wrong" not in str(caught.value)


async def test_credentials_that_are_taken_away(narrow_server: NatsServer) -> None:
    """A user who is refused after a restart gets `permission_denied`, and works again when let in."""
    connection = await Connection.open([narrow_server.url.replace("//", "//quotes:q@")])
    users = narrow_server._settings["authorization"]["users"]
    users[1]["password"] = "changed"
    await asyncio.to_thread(narrow_server.restart)
    async with asyncio.timeout(20):
        while True:
            with pytest.raises(StorageError) as caught:
                await connection.request("$JS.API.STREAM.INFO.KV_plugin_quotes", timeout=1)
            if caught.value.code == "permission_denied" and "refuses the connection" in str(caught.value):
                break
            await asyncio.sleep(0.05)
    users[1]["password"] = "q"
    await asyncio.to_thread(narrow_server.restart)
    async with asyncio.timeout(20):
        while not connection.is_connected:
            await asyncio.sleep(0.05)
    await connection.request("$JS.API.STREAM.INFO.KV_plugin_quotes", timeout=2)
    await connection.close()
