"""Postgres backends are killed under load: every write with an id has exactly one effect."""

from __future__ import annotations

import asyncio
import itertools
import json
import random

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from rosey_deploy.stack.postgres import PostgresServer
from rosey_rowstore.application import Application
from rosey_rowstore.plugins import Plugins

CALLERS = 32
KILLS = 12


class Caller:
    """Writes through one of two applications, repeating what was not answered under the same id."""

    def __init__(self, applications: list[Application], plugin: str) -> None:
        self._applications = applications
        self._plugin = plugin
        self.unknown = 0
        self.codes: set[str] = set()

    async def write(self, number: int) -> int:
        """Insert row `number` until it is answered; return the id that the answer gives."""
        payload = json.dumps({"table": "things", "rows": [{"n": number}]}).encode()
        while True:
            application = random.choice(self._applications)
            reply, _ = await application.handle(
                self._plugin, "rows.insert", payload, {"Nats-Msg-Id": f"w{number}", "Storage-Timeout": "5000"}
            )
            body = json.loads(reply)
            if "result" in body:
                return int(body["result"]["rows"][0]["id"])
            error = body["error"]
            self.codes.add(error["code"])
            assert error["code"] in ("unavailable", "timeout", "overloaded"), error
            self.unknown += "may have happened" in error["message"]
            await asyncio.sleep(0.02)


async def kill(connection: AsyncConnection[TupleRow], plugin: str) -> None:
    """Kill the plugin's writing backends at random moments, until so many have gone."""
    killed = 0
    while killed < KILLS:
        await asyncio.sleep(random.uniform(0.005, 0.08))
        cursor = await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (f"plugin_{plugin}",)
        )
        killed += len(await cursor.fetchall())


async def things(application: Application, server: PostgresServer, plugin: str) -> None:
    """Make the table, as a migration would."""
    await application.handle(plugin, "tables.list", b"{}", None)  # provisions the plugin
    async with await AsyncConnection.connect(server.dsn, autocommit=True) as connection:
        await connection.execute(
            f'SET ROLE "plugin_{plugin}_owner"; SET search_path TO "plugin_{plugin}"'.encode()
        )
        await connection.execute(
            "CREATE TABLE things (id bigserial PRIMARY KEY, n bigint)"
        )  # n is not unique
        await connection.execute("SELECT pg_notify('rosey_schema', %s)", (plugin,))


@pytest.mark.parametrize("attempt", range(3))
async def test_exactly_one_effect(own_postgres_server: PostgresServer, plugin: str, attempt: int) -> None:
    """With backends killed under load through two applications nothing is lost and nothing doubled."""
    random.seed(attempt)
    server = own_postgres_server
    applications = [Application(server.dsn, Plugins.load(None), provision=True) for _ in range(2)]
    for application in applications:
        await application.open()
    try:
        await things(applications[0], server, plugin)
        caller = Caller(applications, plugin)
        numbers = itertools.count()
        answers: dict[int, int] = {}

        async with await AsyncConnection.connect(server.dsn, autocommit=True) as connection:
            killing = asyncio.create_task(kill(connection, plugin))

            async def write_on() -> None:
                while not killing.done():
                    number = next(numbers)
                    answers[number] = await caller.write(number)

            await asyncio.gather(*(write_on() for _ in range(CALLERS)))
            await killing
        with psycopg.connect(server.dsn) as connection:
            stored = connection.execute(f'SELECT n, id FROM "plugin_{plugin}".things'.encode()).fetchall()
    finally:
        for application in applications:
            await application.close()
    assert len(stored) == len(answers)
    assert dict(stored) == answers


async def test_postgres_restarts_under_load(own_postgres_server: PostgresServer, plugin: str) -> None:
    """While Postgres is away requests get coded errors in time, and they work when it is back."""
    server = own_postgres_server
    application = Application(server.tcp_dsn, Plugins.load(None), provision=True)
    await application.open()
    try:
        await things(application, server, plugin)
        caller = Caller([application], plugin)
        await caller.write(0)
        restart = asyncio.create_task(asyncio.to_thread(server.restart))
        answers = await asyncio.wait_for(
            asyncio.gather(*(caller.write(number) for number in range(1, 101))), 60
        )
        await restart
        assert len(set(answers)) == 100
        assert await caller.write(5) == answers[4]
    finally:
        await application.close()
