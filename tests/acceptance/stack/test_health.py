"""`/healthz`, `/readyz` and `rosey-storage health` of a real service, while its servers come and go."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import psycopg
import pytest
from nats.aio.client import Client

from rosey_deploy.stack.nats import NatsServer
from rosey_deploy.stack.postgres import PostgresServer
from rosey_deploy.stack.service import RowService, without_own_settings

NOTICED = 30.0
"""Seconds within which a change shows, on a machine that does much else; alone it is a fraction of one."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Probe:
    """Asks one service."""

    def __init__(self) -> None:
        self.port = free_port()

    @property
    def setting(self) -> dict[str, str]:
        return {"ROSEY_STORAGE_HEALTH": f"127.0.0.1:{self.port}"}

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    def wait(self, *missing: str) -> dict[str, str]:
        """Return what `/readyz` gives as reasons, once exactly `missing` is; `/healthz` is well all along."""
        deadline = time.monotonic() + NOTICED
        while True:
            try:
                status, body = self.get("/readyz")
                assert self.get("/healthz") == (200, {"status": "alive"})
                reasons: dict[str, str] = body.get("missing", {})
                assert status == (503 if reasons else 200)
                assert body["status"] == ("unavailable" if reasons else "ready")
                if set(reasons) == set(missing):
                    return reasons
            except ConnectionError:
                body = {}
            assert time.monotonic() < deadline, body
            time.sleep(0.05)

    def command(self, *arguments: str) -> tuple[int, str]:
        """Run `rosey-storage health` with the service's setting; return status and line."""
        done = subprocess.run(
            [sys.executable, "-m", "rosey_deploy", "health", *arguments],
            env={**without_own_settings(os.environ), **self.setting},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.stderr == ""
        return done.returncode, done.stdout


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
def service(
    own_nats_server: NatsServer, own_postgres_server: PostgresServer, probe: Probe, tmp_path: Path
) -> Iterator[RowService]:
    """A service on servers of its own, not started yet."""
    made = RowService(
        tmp_path / "service.log", url=own_nats_server.url, database=own_postgres_server.dsn,
        subject="storage", settings=probe.setting,
    )  # fmt: skip
    try:
        yield made
    finally:
        made.kill()


def test_ready_follows_the_servers(
    service: RowService, own_nats_server: NatsServer, own_postgres_server: PostgresServer, probe: Probe
) -> None:
    """From the first moment on: what is away is named, and what is back is noticed, without a restart."""
    own_postgres_server.kill()
    own_nats_server.kill()
    service.launch()
    probe.wait("database", "nats")
    assert probe.command()[0] == 1
    own_postgres_server.start()
    probe.wait("nats")
    own_nats_server.start()
    probe.wait()
    assert probe.command() == (0, "ready\n")
    assert probe.command(f"http://127.0.0.1:{probe.port}/healthz") == (0, "alive\n")
    own_postgres_server.kill()
    assert probe.wait("database") == {"database": "The database does not answer."}
    assert probe.command() == (1, "unavailable: database: The database does not answer.\n")
    own_postgres_server.start()
    probe.wait()
    own_nats_server.kill()
    assert probe.wait("nats") == {"nats": "NATS does not answer."}
    own_nats_server.start()
    probe.wait()
    service.stop()
    status, line = probe.command()
    assert status == 1
    assert line.startswith(f"no answer from 127.0.0.1:{probe.port}")


async def _started_with_table(service: RowService, server: NatsServer, probe: Probe) -> Client:
    await asyncio.to_thread(service.start)
    await asyncio.to_thread(probe.wait)
    client = await nats.connect(server.url)
    table = b'{"table": "t", "columns": [{"name": "n", "type": "integer"}]}'
    await client.request("storage.v1.quotes.tables.define", table, timeout=30)
    return client


async def test_a_draining_service_is_not_ready(
    service: RowService, own_nats_server: NatsServer, own_postgres_server: PostgresServer, probe: Probe
) -> None:
    """From the signal to its end it says so, alive and at work; what it had accepted is answered."""
    client = await _started_with_table(service, own_nats_server, probe)
    async with await psycopg.AsyncConnection.connect(own_postgres_server.dsn) as held:
        await held.execute("LOCK TABLE plugin_quotes.t")
        waiting = asyncio.create_task(
            client.request("storage.v1.quotes.rows.insert", b'{"table": "t", "rows": [{"n": 1}]}', timeout=30)
        )
        async with asyncio.timeout(NOTICED):
            while not await _waits(own_postgres_server.dsn):
                await asyncio.sleep(0.02)
        service.process.signal(signal.SIGTERM)
        assert "draining" in (await asyncio.to_thread(probe.wait, "service"))["service"]
        assert not waiting.done()
        await held.rollback()
    answer = json.loads((await waiting).data)
    assert answer["result"]["count"] == 1, answer
    assert await asyncio.to_thread(service.process.wait, 30) == 0
    await client.close()


async def _waits(dsn: str) -> bool:
    """Say whether somebody waits for a lock of the table."""
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        found = await connection.execute("SELECT 1 FROM pg_locks WHERE NOT granted")
        return await found.fetchone() is not None


@pytest.mark.slow
async def test_a_frozen_database_holds_nothing_up(
    service: RowService, own_nats_server: NatsServer, own_postgres_server: PostgresServer, probe: Probe
) -> None:
    """A silent server is noticed too, and SIGTERM is obeyed within a container's ten seconds."""
    client = await _started_with_table(service, own_nats_server, probe)
    stopped = _family(own_postgres_server.process.pid)
    _signal_all(stopped, signal.SIGSTOP)
    try:
        insert = b'{"table": "t", "rows": [{"n": 1}]}'
        waiting = asyncio.create_task(
            client.request(
                "storage.v1.quotes.rows.insert", insert, timeout=60, headers={"Storage-Timeout": "60000"}
            )
        )
        await asyncio.to_thread(probe.wait, "database")
        began = time.monotonic()
        service.process.signal(signal.SIGTERM)
        await asyncio.to_thread(service.process.wait, 30)
        assert time.monotonic() - began < 10.0
        assert json.loads((await waiting).data)["error"]["code"] in ("unavailable", "timeout")
    finally:
        _signal_all(stopped, signal.SIGCONT)
        await client.close()


def _signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # a backend that was just ending is gone by now
            os.kill(pid, number)


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def test_a_service_that_may_not_subscribe_is_not_ready(probe: Probe, tmp_path: Path) -> None:
    """Connected is not enough: where NATS refuses the subscriptions no request would ever arrive."""
    user = {"user": "u", "password": "p", "permissions": {"subscribe": ["_INBOX.>"]}}
    server = NatsServer(tmp_path / "nats", settings={"authorization": {"users": [user]}})
    server.start()
    service = RowService(
        tmp_path / "service.log", url=f"nats://u:p@127.0.0.1:{server.port}",
        database=f"sqlite:{tmp_path / 'rows'}", subject="storage", settings=probe.setting,
    )  # fmt: skip
    try:
        service.launch()
        deadline = time.monotonic() + NOTICED
        while "refuses" not in probe.wait("nats")["nats"]:  # it is not connected yet
            assert time.monotonic() < deadline
    finally:
        service.kill()
        server.stop()
