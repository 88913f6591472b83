"""One application per test, on both databases; with `--containers` a row service in a container."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from rosey_rowstore.application import Application
from support.migrations import Caller, Events, Folder, Serve
from support.servers import Embedded, Servers

if TYPE_CHECKING:
    from support.containers.migrations import SharedServices


@pytest.fixture(params=["postgres", "sqlite"])
def kind(request: pytest.FixtureRequest) -> str:
    """The database; `memory` is asked for where it makes a difference."""
    return str(request.param)


@pytest.fixture(scope="session")
def shared(
    request: pytest.FixtureRequest, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SharedServices | None]:
    """The services in containers; None where each test makes an application of its own."""
    if isinstance(servers, Embedded):
        yield None
        return
    from support.containers.migrations import SharedServices

    nats, postgres = request.getfixturevalue("nats_server"), request.getfixturevalue("postgres_server")
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute("CREATE DATABASE migrations")
    folder = tmp_path_factory.mktemp("migrations")
    made = SharedServices(servers, folder, url=nats.url, database=postgres.dsn_of("migrations"))
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def database_url(
    kind: str, shared: SharedServices | None, request: pytest.FixtureRequest, tmp_path: Path
) -> str:
    """Where it is."""
    if shared is not None:
        return shared.database
    if kind == "postgres":
        return str(request.getfixturevalue("postgres_database"))
    return "sqlite::memory:" if kind == "memory" else f"sqlite:{tmp_path / 'data'}"


@pytest.fixture
def place(shared: SharedServices | None, tmp_path: Path, plugin: str) -> Path:
    """Where plugins' folders can be served from."""
    return tmp_path if shared is None else shared.folder / plugin


@pytest.fixture
def folder(place: Path, plugin: str) -> Folder:
    """The plugin's folder, empty."""
    return Folder(place, plugin)


@pytest.fixture
async def serve(shared: SharedServices | None, database_url: str) -> AsyncIterator[Serve]:
    """Serves a folder until the test ends."""
    async with AsyncExitStack() as stack:

        async def start(folder: Folder, *, production: bool = False) -> Caller:
            if shared is not None:
                environment = "production" if production else "development"
                return Caller(await shared.add(folder, environment=environment, stack=stack), folder.plugin)
            application = Application(
                database_url, folder.plugins, provision=True, allow_rollback=not production
            )
            await application.open()
            stack.push_async_callback(application.close)
            return Caller(application, folder.plugin)

        yield start


@pytest.fixture
async def call(serve: Serve, folder: Folder) -> Caller:
    """Calls of the plugin."""
    return await serve(folder)


@pytest.fixture
async def events(call: Caller) -> Events:
    """Gives the plugin's events, once there are as many as asked for, as (place, event)."""
    found: list[tuple[str, dict[str, Any]]] = []
    await call.events_to(found)

    async def given(count: int) -> list[tuple[str, dict[str, Any]]]:
        async with asyncio.timeout(20):
            while len(found) < count:
                await asyncio.sleep(0.02)
        return found

    return given
