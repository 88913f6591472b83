"""One plugin with its lanes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from integration.databases.world import World
from rosey_rowstore.databases.postgres import logins
from rosey_rowstore.databases.postgres.connections import Connections
from rosey_rowstore.databases.postgres.lanes import PluginLanes
from rosey_rowstore.databases.postgres.sessions import connect
from rosey_rowstore.engine.model import Limits
from rosey_rowstore.protocol import owned_name


@pytest.fixture
async def world(postgres_database: str, plugin: str) -> AsyncIterator[World]:
    """A plugin with its lanes."""
    async with await psycopg.AsyncConnection.connect(postgres_database, autocommit=True) as connection:
        found = await logins.provision(connection, plugin, Limits())

    async def open_rows(_: str, timeout: float) -> AsyncConnection[Any]:
        settings = {"search_path": f'"{owned_name(plugin)}"'}
        return await connect(postgres_database, found.rows, settings, timeout=timeout)

    connections = Connections(open_rows, 20)
    made = World(postgres_database, plugin, found, connections, PluginLanes(connections, plugin))
    await made.rows(
        f'SET ROLE "{owned_name(plugin)}_owner";'
        " CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n bigint UNIQUE)"
    )
    try:
        yield made
    finally:
        await made.lanes.close()
