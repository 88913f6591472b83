"""The row service as a process, on real servers: bad requests, SIGTERM under load, several processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from rosey_deploy.stack.nats import NatsServer
from rosey_deploy.stack.postgres import PostgresServer
from rosey_deploy.stack.service import RowService, without_own_settings
from rosey_kvstore.errors import Unavailable
from support.services import launched


@pytest.fixture
def services(
    nats_server: NatsServer, database: str, plugin: str, tmp_path: Path
) -> Iterator[list[RowService]]:
    """Two services on one database, whose subjects begin with the test's own name."""
    made = [
        RowService(tmp_path / f"service{number}.log", url=nats_server.url, database=database, subject=plugin)
        for number in range(1 if database.startswith("sqlite") else 2)
    ]
    with launched(made):
        yield made


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    connected = await nats.connect(nats_server.url)
    yield connected
    await connected.close()


async def ask(client: Client, subject: str, body: Any, headers: dict[str, str] | None = None) -> Any:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = await client.request(subject, payload, timeout=60, headers=headers)
    return json.loads(reply.data)


async def define(client: Client, plugin: str) -> None:
    body = {"table": "t", "columns": [{"name": "n", "type": "integer"}]}
    answer = await ask(client, f"{plugin}.v1.{plugin}.tables.define", body)
    assert "result" in answer, answer


BAD = [
    ("rows.select", b"not json", "invalid_json"),
    ("rows.select", b"\xff\xfe\x00", "invalid_json"),
    ("rows.select", b'{"table": "t"', "invalid_json"),
    ("rows.select", b'{"table": "t", "table": "u"}', "invalid_json"),
    ("rows.select", b'{"table": NaN}', "invalid_json"),
    ("rows.select", b"[" * 100_000, "invalid_json"),
    ("rows.select", b"[]", "invalid_request"),
    ("rows.select", b"null", "invalid_request"),
    ("rows.select", b'"t"', "invalid_request"),
    ("rows.select", b"3", "invalid_request"),
    ("rows.select", b"", "invalid_request"),
    ("rows.select", {}, "invalid_request"),
    ("rows.select", {"table": 3}, "invalid_request"),
    ("rows.select", {"table": "t", "wher": {}}, "invalid_request"),
    ("rows.select", {"table": "t", "limit": "5"}, "invalid_request"),
    ("rows.select", {"table": "t", "limit": True}, "invalid_request"),
    ("rows.select", {"table": "t", "limit": 0}, "out_of_range"),
    ("rows.select", {"table": "t", "where": []}, "invalid_request"),
    ("rows.select", {"table": "t", "where": {"n": "5"}}, "type_mismatch"),
    ("rows.select", {"table": "t", "where": {"n": {"$gtt": 5}}}, "unknown_operator"),
    ("rows.select", {"table": "t", "where": {"m": 5}}, "column_not_found"),
    ("rows.select", {"table": "none"}, "table_not_found"),
    ("rows.select", {"table": "t'; DROP TABLE t; --"}, "invalid_name"),
    ("rows.select", {"table": "t", "cursor": "rubbish"}, "invalid_request"),
    ("rows.insert", {"table": "t", "rows": {}}, "invalid_request"),
    ("rows.insert", {"table": "t", "rows": [3]}, "invalid_request"),
    ("rows.insert", {"table": "t", "rows": [{"n": True}]}, "type_mismatch"),
    ("rows.insert", {"table": "t", "rows": [{"n": 2**63}]}, "out_of_range"),
    ("rows.insert", {"table": "t", "rows": [{"id": 3}]}, "invalid_request"),
    ("rows.insert", {"table": "t", "rows": [{}] * 1001}, "too_many_rows|request_too_large"),
    ("rows.insert", b'{"table": "t", "rows": [{"n": 1}]}' + b" " * 1_040_000, "ok|request_too_large"),
    ("rows.update", {"table": "t", "where": {}, "set": {"n": 1}}, "invalid_request"),
    ("rows.delete", {"table": "t", "where": {}}, "invalid_request"),
    ("rows.delete", {"table": "t"}, "invalid_request"),
    ("rows.transact", {"operations": []}, "invalid_request"),
    ("rows.transact", {"operations": [{"op": "drop"}]}, "invalid_request"),
    ("rows.nothing", {}, "invalid_request"),
    ("tables.define", {"table": "T", "columns": []}, "invalid_name"),
    ("tables.define", {"table": "x", "columns": [{"name": "n", "type": "int"}]}, "invalid_request"),
    ("tables.drop", {"table": "t", "confirm": "no"}, "invalid_request"),
    ("tables.describe", {"table": "none"}, "table_not_found"),
]  # fmt: skip


async def test_every_malformed_request_gets_its_code(
    services: list[RowService], client: Client, plugin: str
) -> None:
    """Whatever comes in, a coded answer goes out; none is `internal`, and the service goes on."""
    await define(client, plugin)
    wrong = []
    for tail, body, expected in BAD:
        answer = await ask(client, f"{plugin}.v1.{plugin}.{tail}", body)
        code = answer.get("error", {}).get("code", "ok")
        if code not in expected.split("|"):
            wrong.append((tail, body if len(str(body)) < 200 else "…", expected, answer))
    assert wrong == []
    assert "result" in await ask(client, f"{plugin}.v1.{plugin}.rows.select", {"table": "t"})


async def test_sigterm_under_load_answers_what_was_accepted(
    services: list[RowService], client: Client, plugin: str
) -> None:
    """Every insert that was answered is there, and none was lost between accepting and answering."""
    await define(client, plugin)
    subject = f"{plugin}.v1.{plugin}.rows.insert"
    done = asyncio.Event()
    answered: list[int] = []
    silent: list[int] = []

    async def caller(first: int) -> None:
        number = first
        while not done.is_set():
            try:
                reply = await client.request(
                    subject, json.dumps({"table": "t", "rows": [{"n": number}]}).encode(), timeout=20
                )
            except nats.errors.NoRespondersError:
                return
            except nats.errors.TimeoutError:
                silent.append(number)
                return
            body = json.loads(reply.data)
            if body.get("error", {}).get("code") == "rate_limited":
                await asyncio.sleep(body["error"]["retry_after"])
                continue
            assert "result" in body, body
            answered.append(number)
            number += 1000

    callers = [asyncio.create_task(caller(first)) for first in range(24)]
    await asyncio.sleep(0.7)
    for service in services:
        service.process.signal(signal.SIGTERM)
    for service in services:
        assert await asyncio.to_thread(service.process.wait, 30) == 0
    done.set()
    await asyncio.gather(*callers)
    assert silent == []
    assert len(answered) > 100
    for service in services:
        await asyncio.to_thread(service.restart)
    body = {"table": "t", "measures": {"n": {"$count": "*"}}}
    count = (await ask(client, f"{plugin}.v1.{plugin}.rows.aggregate", body))["result"]["rows"][0]["n"]
    assert count == len(answered)


async def test_each_request_has_one_effect_with_several_services(
    services: list[RowService], client: Client, plugin: str
) -> None:
    """The queue group gives each request to one process."""
    await define(client, plugin)
    subject = f"{plugin}.v1.{plugin}.rows.insert"
    await asyncio.gather(
        *(ask(client, subject, {"table": "t", "rows": [{"n": number}]}) for number in range(300))
    )
    body = {"table": "t", "measures": {"n": {"$count": "*"}, "sum": {"$sum": "n"}}}
    answer = await ask(client, f"{plugin}.v1.{plugin}.rows.aggregate", body)
    assert answer["result"]["rows"] == [{"n": 300, "sum": 299 * 300 // 2}]


async def test_it_waits_for_a_database_that_is_not_there_yet(
    nats_server: NatsServer, own_postgres_server: PostgresServer, plugin: str, tmp_path: Path, client: Client
) -> None:
    """Started before its database, it says so, and serves by itself once the database is there."""
    dsn = own_postgres_server.dsn
    own_postgres_server.stop()
    log = tmp_path / "service.log"
    service = RowService(log, url=nats_server.url, database=dsn, subject=plugin)
    service.launch()
    try:
        for _ in range(300):
            if log.exists() and "the database is away" in log.read_text():
                break
            await asyncio.sleep(0.1)
        assert "the database is away" in log.read_text()
        assert own_postgres_server.folder.exists()
        assert _password(dsn) not in log.read_text()
        await asyncio.to_thread(own_postgres_server.start)
        await asyncio.to_thread(service.wait_ready)
        await define(client, plugin)
    finally:
        await asyncio.to_thread(service.stop)


def _password(dsn: str) -> str:
    return dsn.split(":", 2)[2].split("@", 1)[0]


async def test_it_waits_for_nats_and_stops_while_it_waits(tmp_path: Path) -> None:
    """Without a server it neither ends nor hangs: SIGTERM still stops it."""
    service = RowService(
        tmp_path / "service.log", url="nats://127.0.0.1:9", database=f"sqlite:{tmp_path / 'rows'}"
    )
    service.launch()
    for _ in range(300):
        if (tmp_path / "service.log").exists() and "NATS" in (tmp_path / "service.log").read_text():
            break
        await asyncio.sleep(0.1)
    assert service.process.returncode is None
    process = service.process
    await asyncio.to_thread(service.stop)
    assert process.returncode == 0
    assert "Traceback" not in (tmp_path / "service.log").read_text()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "ROSEY_STORAGE_DATABASE"),
        ({"ROSEY_STORAGE_DATABASE": "mysql://x"}, "postgresql://"),
        ({"ROSEY_STORAGE_DATABSE": "sqlite:x"}, "did you mean ROSEY_STORAGE_DATABASE"),
        ({"ROSEY_STORAGE_DATABASE": "sqlite:x", "ROSEY_STORAGE_PLUGINS": "/no"}, "/no"),
    ],
)
@pytest.mark.parametrize("command", [["rosey_rowstore"], ["rosey_deploy", "serve"]])
def test_wrong_settings_are_one_line(
    tmp_path: Path, settings: dict[str, str], words: str, command: list[str]
) -> None:
    """The process ends at once, with the variable's name and the remedy."""
    done = subprocess.run(
        [sys.executable, "-m", *command], env={**without_own_settings(os.environ), **settings},
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


async def test_log_lines_are_json_in_production(nats_server: NatsServer, plugin: str, tmp_path: Path) -> None:
    """A collector reads them without guessing."""
    log = tmp_path / "service.log"
    service = RowService(
        log, url=nats_server.url, database=f"sqlite:{tmp_path / 'rows'}", subject=plugin,
        settings={"ROSEY_ENV": "production"}, provision=False,
    )  # fmt: skip
    try:
        service.start()
    finally:
        service.stop()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"time", "level", "logger", "message"} <= set(lines[0])
    assert "serving" in [line["message"] for line in lines]


def test_a_service_that_never_serves_is_an_error(nats_server: NatsServer, tmp_path: Path) -> None:
    """The launcher shows the end of the log."""
    service = RowService(tmp_path / "log", url=nats_server.url, database="mysql://x")
    with pytest.raises(Unavailable, match="postgresql://"):
        service.start()
