"""The same plugin on both databases, through the application that the service serves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contract.rows.speaker import OverNats, Speaker
from rosey_rowstore.application import Application
from rosey_rowstore.plugins import Plugins

DATABASES = ["postgres", "sqlite"]


def database_url(request: pytest.FixtureRequest, database: str, folder: Path) -> str:
    """Return the URL of an empty database; only what is asked for is started."""
    if database == "postgres":
        return str(request.getfixturevalue("postgres_database"))
    return f"sqlite:{folder}"


@pytest.fixture(params=[*DATABASES, pytest.param("secure", marks=pytest.mark.slow)])
async def speaker(request: pytest.FixtureRequest, plugin: str, tmp_path: Path) -> AsyncIterator[Speaker]:
    """A plugin on one database; the test runs once on each, and once on an installation as in production."""
    if request.param == "secure":
        over_nats = OverNats(request.getfixturevalue("installation"))
        try:
            yield Speaker(over_nats, plugin)
        finally:
            await over_nats.close()
        return
    url = database_url(request, request.param, tmp_path)
    application = Application(url, Plugins.load(None), provision=True)
    await application.open()
    try:
        yield Speaker(application, plugin)
    finally:
        await application.close()


@pytest.fixture
async def both(request: pytest.FixtureRequest, plugin: str, tmp_path: Path) -> AsyncIterator[list[Speaker]]:
    """A plugin on both databases at once, Postgres first; that one by a service, if there are containers."""
    if request.config.getoption("--containers") is not None:
        over_nats = OverNats(request.getfixturevalue("installation"))
        lite = Application(database_url(request, "sqlite", tmp_path), Plugins.load(None), provision=True)
        await lite.open()
        try:
            yield [Speaker(over_nats, plugin), Speaker(lite, plugin)]
        finally:
            await lite.close()
            await over_nats.close()
        return
    applications = [
        Application(database_url(request, database, tmp_path), Plugins.load(None), provision=True)
        for database in DATABASES
    ]
    for application in applications:
        await application.open()
    try:
        yield [Speaker(application, plugin) for application in applications]
    finally:
        for application in applications:
            await application.close()
