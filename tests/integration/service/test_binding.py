"""The service on a real NATS server, with an application that does as it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import nats
import pytest
from attrs import evolve
from nats.aio.client import Client

from rosey_deploy.stack.nats import NatsServer
from rosey_rowstore.engine.model import Limits
from rosey_rowstore.plugins import Plugins
from rosey_rowstore.service.binding import Binding
from rosey_rowstore.service.connection import ServiceConnection

Answer = tuple[bytes, dict[str, str] | None]
OK: Answer = (b'{"result":{}}', None)


class Application:
    """Answers as `answer` says, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes, Mapping[str, str] | None]] = []
        self.answer: Callable[[str], Awaitable[Answer]] = self._ok

    async def _ok(self, _: str) -> Answer:
        return OK

    def begin(
        self,
        plugin: str,
        tail: str,
        payload: bytes,
        headers: Mapping[str, str] | None,
        reply: Callable[[bytes, dict[str, str] | None], None],
    ) -> asyncio.Task[None] | None:
        self.asked.append((plugin, tail, payload, headers))

        async def answer() -> None:
            reply(*await self.answer(plugin))

        return asyncio.get_running_loop().create_task(answer())


class Service:
    def __init__(self, connection: ServiceConnection, application: Application, binding: Binding) -> None:
        self.connection = connection
        self.application = application
        self.binding = binding


async def start(server: NatsServer, subject: str, limits: Limits | None = None) -> Service:
    application = Application()
    connection = ServiceConnection()
    await connection.open([server.url], credentials=None, name="rowstore")
    plugins = Plugins(default_limits=limits or Limits())
    binding = Binding(connection, application, plugins, subject=subject, timeout=5)
    binding.start()
    await asyncio.sleep(0)
    await connection.flush()
    return Service(connection, application, binding)


@pytest.fixture
async def service(nats_server: NatsServer, plugin: str) -> AsyncIterator[Service]:
    """A service whose subjects begin with the test's own name."""
    running = await start(nats_server, plugin)
    yield running
    await running.binding.drain(1)
    await running.connection.part()


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    connected = await nats.connect(nats_server.url)
    yield connected
    await connected.close()


async def ask(
    client: Client, subject: str, payload: bytes = b"{}", headers: dict[str, str] | None = None
) -> dict[str, Any]:
    reply = await client.request(subject, payload, timeout=30, headers=headers)
    body: dict[str, Any] = json.loads(reply.data)
    if "error" in body:
        assert reply.headers is not None
        assert reply.headers["Nats-Service-Error"]
        assert reply.headers["Nats-Service-Error-Code"].isdigit()
    return body


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come to that within 30 s")


async def test_a_request_reaches_the_application_as_it_was_sent(
    service: Service, client: Client, plugin: str
) -> None:
    """Plugin and operation come from the subject, payload and headers stay as they are."""
    headers = {"Storage-Timeout": "3000", "Nats-Msg-Id": "ä1"}
    body = await ask(client, f"{plugin}.v1.quotes.rows.insert", b"\x00 any", headers)
    assert body == {"result": {}}
    assert service.application.asked == [("quotes", "rows.insert", b"\x00 any", headers)]


@pytest.mark.parametrize(
    ("tail", "code", "words"),
    [
        ("quotes.rows.inser", "invalid_request", "did you mean 'rows.insert'"),
        ("quotes.rows.select.more", "invalid_request", "no operation"),
        ("quotes.tables.x", "invalid_request", "tables.define"),
        ("Quotes.rows.insert", "invalid_name", "no plugin name"),
        ("-quotes.rows.insert", "invalid_name", "no plugin name"),
        ("q" * 49 + ".rows.insert", "invalid_name", "1 to 48"),
        ("quötes.rows.insert", "invalid_name", "no plugin name"),
    ],
)
async def test_what_is_no_operation_of_a_plugin_is_named(  # noqa: PLR0917 - the fixtures, and a case
    service: Service, client: Client, plugin: str, tail: str, code: str, words: str
) -> None:
    """A wrong subject gets a coded answer that names the nearest right one."""
    body = await ask(client, f"{plugin}.v1.{tail}")
    assert body["error"]["code"] == code
    assert words in body["error"]["message"] + body["error"].get("hint", "")
    assert service.application.asked == []


async def test_bytes_that_are_no_text_in_a_subject(
    service: Service, nats_server: NatsServer, plugin: str
) -> None:
    """A subject of raw bytes is answered too, and the service goes on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", nats_server.port)
    await reader.readline()
    writer.write(b'CONNECT {"verbose":false,"headers":true}\r\nSUB answers 1\r\n')
    writer.write(b"PUB %b.v1.\xff\xfe.rows.insert answers 2\r\n{}\r\nPING\r\n" % plugin.encode())
    seen = b""
    while b"invalid_name" not in seen:
        seen += await asyncio.wait_for(reader.read(4096), 10)
    writer.close()


@pytest.mark.parametrize("value", ["soon", "-1", "0", "1.5", "9" * 30, ""])
async def test_a_bad_timeout_header_is_an_invalid_request(
    service: Service, client: Client, plugin: str, value: str
) -> None:
    """The header is checked before anything runs."""
    body = await ask(client, f"{plugin}.v1.quotes.rows.select", headers={"Storage-Timeout": value})
    assert body["error"]["code"] == "invalid_request"
    assert "Storage-Timeout" in body["error"]["message"]


async def test_a_fault_of_the_application_is_internal_and_says_nothing_of_the_inside(
    service: Service, client: Client, plugin: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller gets a reference, the log gets the traceback, the service goes on."""

    async def fail(_: str) -> Answer:
        raise RuntimeError("secret inside")

    service.application.answer = fail
    error = (await ask(client, f"{plugin}.v1.quotes.rows.select"))["error"]
    assert error["code"] == "internal"
    assert "secret" not in json.dumps(error)
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.__dict__["reference"] in error["message"]
    assert "secret inside" in str(record.exc_info)
    assert service.binding.pending == 0


@pytest.mark.parametrize(("tail", "done"), [("rows.select", False), ("rows.insert", True)])
async def test_a_reply_that_nats_does_not_carry_is_a_coded_error(
    service: Service, client: Client, plugin: str, tail: str, *, done: bool
) -> None:
    """The connection survives, and a write says that it was done."""

    async def large(_: str) -> Answer:
        return b"x" * (service.connection.max_payload + 1), None

    service.application.answer = large
    error = (await ask(client, f"{plugin}.v1.quotes.{tail}"))["error"]
    assert error["code"] == "reply_too_large"
    assert ("was done" in error["message"]) is done
    service.application.answer = service.application._ok
    assert "result" in await ask(client, f"{plugin}.v1.quotes.{tail}")


async def test_a_reply_of_exactly_what_nats_carries_passes(
    service: Service, client: Client, plugin: str
) -> None:
    """Headers count; the last byte does too."""
    size = service.connection.max_payload

    async def large(_: str) -> Answer:
        return b"x" * size, None

    service.application.answer = large
    reply = await client.request(f"{plugin}.v1.quotes.rows.select", b"{}", timeout=30)
    assert len(reply.data) == size


async def test_one_slow_request_stops_nobody(service: Service, client: Client, plugin: str) -> None:
    """Requests run side by side, each in a task of its own."""
    release = asyncio.Event()

    async def answer(name: str) -> Answer:
        if name == "slow":
            await release.wait()
        return OK

    service.application.answer = answer
    slow = asyncio.create_task(ask(client, f"{plugin}.v1.slow.rows.select"))
    for _ in range(50):
        assert "result" in await ask(client, f"{plugin}.v1.quick.rows.select")
    assert not slow.done()
    release.set()
    assert "result" in await slow


async def test_a_noisy_plugin_is_refused_and_a_quiet_one_is_served(
    nats_server: NatsServer, client: Client, plugin: str
) -> None:
    """Past its bounds a plugin hears `overloaded` at once; its neighbour notices nothing."""
    limits = evolve(Limits(), requests_in_flight=4, requests_waiting=8)
    service = await start(nats_server, plugin, limits)
    release = asyncio.Event()

    async def answer(name: str) -> Answer:
        if name == "noisy":
            await release.wait()
        return OK

    service.application.answer = answer
    noisy = [asyncio.create_task(ask(client, f"{plugin}.v1.noisy.rows.select")) for _ in range(40)]
    quiet = await ask(client, f"{plugin}.v1.quiet.rows.select")
    assert "result" in quiet
    await until(lambda: sum(task.done() for task in noisy) >= 28)
    refused = [task.result()["error"] for task in noisy if task.done()]
    assert {error["code"] for error in refused} == {"overloaded"}
    assert all(error["retry_after"] > 0 for error in refused)
    release.set()
    answers = await asyncio.gather(*noisy)
    assert sum("result" in answer for answer in answers) == 12
    await service.binding.drain(1)
    await service.connection.part()


async def test_time_spent_waiting_is_taken_off_the_deadline(
    nats_server: NatsServer, client: Client, plugin: str
) -> None:
    """The application learns what is left, and who waits past it hears that nothing was done."""
    service = await start(nats_server, plugin, evolve(Limits(), requests_in_flight=1))
    release = asyncio.Event()

    async def answer(_: str) -> Answer:
        await release.wait()
        return OK

    service.application.answer = answer
    subject = f"{plugin}.v1.quotes.rows.insert"
    first = asyncio.create_task(ask(client, subject, headers={"Storage-Timeout": "60000"}))
    await asyncio.sleep(0.05)
    patient = asyncio.create_task(ask(client, subject, headers={"Storage-Timeout": "60000"}))
    hasty = await ask(client, subject, headers={"Storage-Timeout": "200"})
    assert hasty["error"]["code"] == "timeout"
    assert "nothing of it was done" in hasty["error"]["message"]
    release.set()
    assert "result" in await first
    assert "result" in await patient
    given = [int((asked[3] or {})["Storage-Timeout"]) for asked in service.application.asked]
    assert given[0] == 60_000
    assert given[1] <= 59_800
    assert len(given) == 2
    await service.binding.drain(1)
    await service.connection.part()


async def test_draining_answers_all_that_was_accepted(
    nats_server: NatsServer, client: Client, plugin: str
) -> None:
    """Under load every request sent before is answered, and what comes after meets nobody."""
    service = await start(nats_server, plugin)

    async def answer(_: str) -> Answer:
        await asyncio.sleep(0.02)
        return OK

    service.application.answer = answer
    subject = f"{plugin}.v1.quotes.rows.insert"
    results: list[str] = []

    async def caller() -> None:
        while True:
            try:
                body = await ask(client, subject)
            except nats.errors.NoRespondersError:
                results.append("nobody")
                return
            results.append("result" if "result" in body else body["error"]["code"])

    callers = [asyncio.create_task(caller()) for _ in range(32)]
    await asyncio.sleep(0.3)
    assert await service.binding.drain(10) == 0
    await service.connection.part()
    await asyncio.gather(*callers)
    assert set(results) == {"result", "nobody"}
    assert results.count("result") == len(service.application.asked)


async def test_a_drain_that_takes_too_long_still_answers(
    nats_server: NatsServer, client: Client, plugin: str
) -> None:
    """Who runs and who waits gets `unavailable` or `timeout`, never silence."""
    service = await start(nats_server, plugin, evolve(Limits(), requests_in_flight=1))

    async def never(_: str) -> Answer:
        await asyncio.Event().wait()
        return OK

    service.application.answer = never
    asked = [asyncio.create_task(ask(client, f"{plugin}.v1.quotes.rows.insert")) for _ in range(3)]
    await until(lambda: service.binding.pending == 3)
    assert await service.binding.drain(0.1) == 3
    await service.connection.part()
    codes = sorted(body["error"]["code"] for body in await asyncio.gather(*asked))
    assert codes == ["timeout", "timeout", "unavailable"]


async def test_two_services_share_the_requests(nats_server: NatsServer, client: Client, plugin: str) -> None:
    """One request has one effect, however many processes there are."""
    one, two = await start(nats_server, plugin), await start(nats_server, plugin)
    for number in range(200):
        await ask(client, f"{plugin}.v1.quotes.rows.insert", str(number).encode())
    seen = [int(asked[2]) for service in (one, two) for asked in service.application.asked]
    assert sorted(seen) == list(range(200))
    assert one.application.asked
    assert two.application.asked
    for service in (one, two):
        await service.binding.drain(1)
        await service.connection.part()


async def test_the_service_comes_back_with_the_server(own_nats_server: NatsServer, plugin: str) -> None:
    """After an outage, orderly or not, the same process serves again."""
    service = await start(own_nats_server, plugin)
    subject = f"{plugin}.v1.quotes.rows.select"
    for stop in (own_nats_server.stop, own_nats_server.kill):
        await asyncio.to_thread(stop)
        await asyncio.to_thread(own_nats_server.start)
        client = await nats.connect(own_nats_server.url)
        body = None
        for _ in range(1200):
            try:
                body = await ask(client, subject)
                break
            except nats.errors.NoRespondersError:
                await asyncio.sleep(0.05)
        assert body == {"result": {}}
        await client.close()
    await service.binding.drain(1)
    await service.connection.part()


async def test_an_answer_made_while_reconnecting_is_sent_afterwards(
    service: Service, client: Client, plugin: str
) -> None:
    """What was accepted is answered, although the connection broke in between."""
    release = asyncio.Event()

    async def answer(_: str) -> Answer:
        await release.wait()
        return OK

    service.application.answer = answer
    asked = asyncio.create_task(ask(client, f"{plugin}.v1.quotes.rows.insert"))
    await until(lambda: service.binding.pending == 1)
    await service.connection._process_op_err(OSError("cut"))
    assert not service.connection.is_connected
    release.set()
    await until(lambda: service.binding.pending == 0)
    assert not service.connection.is_connected, "it came back before the answer was made"
    assert await asked == {"result": {}}


async def test_an_error_of_the_server_does_not_close_the_service_for_good(
    service: Service, client: Client, plugin: str
) -> None:
    """nats-py alone would give up after an error line that it does not know."""
    service.connection._write(b"PUB x 99999999\r\n")  # the server answers -ERR and hangs up
    for _ in range(1200):
        try:
            reply = await client.request(f"{plugin}.v1.quotes.rows.select", b"{}", timeout=1)
        except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
            await asyncio.sleep(0.05)
        else:
            if service.connection.stats["reconnects"]:
                assert reply.data == OK[0]
                return
    pytest.fail("the service did not come back")


async def test_a_message_without_a_reply_subject_is_left_aside(
    service: Service, client: Client, plugin: str
) -> None:
    """Nobody would learn what became of it."""
    await client.publish(f"{plugin}.v1.quotes.rows.insert", b"{}")
    assert "result" in await ask(client, f"{plugin}.v1.quotes.rows.select")
    assert [asked[1] for asked in service.application.asked] == ["rows.select"]
