"""One application per test, on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rosey_rowstore.application import Application
from support.migrations import Caller, Folder


@pytest.fixture(params=["postgres", "sqlite"])
def kind(request: pytest.FixtureRequest) -> str:
    """The database; `memory` is asked for where it makes a difference."""
    return str(request.param)


@pytest.fixture
def database_url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where it is."""
    if kind == "postgres":
        return str(request.getfixturevalue("postgres_database"))
    return "sqlite::memory:" if kind == "memory" else f"sqlite:{tmp_path / 'data'}"


@pytest.fixture
def folder(tmp_path: Path, plugin: str) -> Folder:
    """The plugin's folder, empty."""
    return Folder(tmp_path, plugin)


@pytest.fixture
async def call(database_url: str, folder: Folder) -> AsyncIterator[Caller]:
    """Calls of the plugin."""
    application = Application(database_url, folder.plugins, provision=True)
    await application.open()
    try:
        yield Caller(application, folder.plugin)
    finally:
        await application.close()
