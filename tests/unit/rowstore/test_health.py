"""Probes: what a process says of itself, and the small HTTP server that says it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from http import HTTPStatus

import pytest

from rosey_rowstore.protocol import Fault
from rosey_rowstore.service import http as small_http
from rosey_rowstore.service.health import Health, answer_probes
from rosey_rowstore.service.http import HttpServer, Response


class Fake:
    """A database or a bus in one state or the other."""

    def __init__(self, trouble: str | None = None) -> None:
        self.told = trouble

    def trouble(self) -> str | None:
        return self.told


Address = tuple[str, int]


@pytest.fixture
async def address() -> AsyncIterator[Address]:
    def broken() -> Response:
        raise RuntimeError("a secret")

    def hello() -> Response:
        return Response(status=HTTPStatus.OK, body=b"hello\n", content_type="text/plain")

    server = HttpServer({"/hello": hello, "/broken": broken})
    yield await server.start("127.0.0.1", 0)
    await server.stop()


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def send(address: Address, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes and return status, headers and body of the answer."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(request)
    async with asyncio.timeout(30):
        answer = await reader.read()
    await close(writer)
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split(" ")[1]), dict(line.split(": ", 1) for line in lines), body


async def test_a_path_is_answered(address: Address) -> None:
    """One request a connection, whole, never kept by anything in between."""
    status, headers, body = await send(address, b"GET /hello?x=1 HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (status, body) == (200, b"hello\n")
    assert headers == {
        "Content-Type": "text/plain",
        "Content-Length": "6",
        "Cache-Control": "no-store",
        "Connection": "close",
    }


async def test_head_has_no_body(address: Address) -> None:
    """HEAD tells the length alone."""
    status, headers, body = await send(address, b"HEAD /hello HTTP/1.0\r\n\r\n")
    assert (status, headers["Content-Length"], body) == (200, "6", b"")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"POST /hello HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405),
        (b"hello\r\n\r\n", 400),
        (b"GET /hello\r\n\r\n", 400),
        (b"\x16\x03\x01\xff\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /broken HTTP/1.1\r\n\r\n", 500),
    ],
)
async def test_what_is_not_served_is_told(address: Address, request_: bytes, status: int) -> None:
    """Whatever is sent, a status comes back, and nothing of the inside."""
    found, _, body = await send(address, request_)
    assert found == status
    assert body
    assert b"secret" not in body


async def test_one_connection_too_many_is_closed(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens connections in crowds costs a bounded number of them; those that stand go on."""
    monkeypatch.setattr(small_http, "_MOST_CONNECTIONS", 3)
    standing = [await asyncio.open_connection(*address) for _ in range(3)]
    standing[0][1].write(b"GET /hello")
    reader, writer = await asyncio.open_connection(*address)
    async with asyncio.timeout(4):  # before the others' time is over
        assert await reader.read() == b""
    await close(writer)
    standing[0][1].write(b" HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(30):
        assert (await standing[0][0].read()).endswith(b"hello\n")
    for _, writer in standing:
        await close(writer)


async def test_the_slow_are_ended(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that says nothing, or never ends its request, stands for a bounded time."""
    monkeypatch.setattr(small_http, "_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"GET /hello HTTP/1.1\r\n")
    async with asyncio.timeout(30):
        assert await reader.read() == b""
    await close(writer)


async def test_stopping_ends_what_stands() -> None:
    """The server leaves no connection and no task behind."""
    server = HttpServer({})
    address = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*address)
    await asyncio.sleep(0.05)
    async with asyncio.timeout(30):
        await server.stop()
        assert await reader.read() == b""
    await close(writer)
    with pytest.raises(OSError):
        await asyncio.open_connection(*address)


async def test_an_address_that_is_taken_is_told(address: Address) -> None:
    """The setting is named, and what to look for."""
    with pytest.raises(Fault) as caught:
        async with answer_probes(address, Health(Fake())):
            pass
    fault = caught.value
    assert (fault.code, fault.path) == ("invalid_request", "ROSEY_STORAGE_HEALTH")
    assert f"{address[0]}:{address[1]}" in fault.message


def test_ready_means_every_part_is_there() -> None:
    """Each part that is missing is named with its reason; with all of them nothing is."""
    database, bus = Fake("The database was not reached yet."), Fake("NATS does not answer.")
    health = Health(database)
    assert health.missing() == {
        "database": "The database was not reached yet.",
        "nats": "The service has not turned to NATS yet.",
    }
    database.told = None
    health.bus = bus
    assert health.missing() == {"nats": "NATS does not answer."}
    bus.told = None
    assert health.missing() == {"nats": "The service is not subscribed yet."}
    health.stage = "serving"
    assert health.missing() == {}
    database.told = "The database does not answer."
    assert health.missing() == {"database": "The database does not answer."}
    database.told = None
    health.stage = "draining"
    assert list(health.missing()) == ["service"]


def test_the_two_paths() -> None:
    """`/healthz` says that the process lives, `/readyz` whether it may be given work."""
    health = Health(Fake("Gone."))
    alive, ready = health.routes()["/healthz"](), health.routes()["/readyz"]()
    assert (alive.status, json.loads(alive.body)) == (200, {"status": "alive"})
    assert ready.status == 503
    assert json.loads(ready.body)["missing"]["database"] == "Gone."
    health = Health(Fake(), Fake(), stage="serving")
    ready = health.routes()["/readyz"]()
    assert (ready.status, json.loads(ready.body)) == (200, {"status": "ready"})
