"""Every test of this folder runs on both backends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rosey_kvstore import KV
from support.kv import MODES, Place


@pytest.fixture(params=MODES)
def where(request: pytest.FixtureRequest, tmp_path: Path, plugin: str) -> tuple[str, str]:
    """The backend, and its file or server."""
    if request.param == "sqlite":
        return "sqlite", str(tmp_path / f"{plugin}.sqlite3")
    return "jetstream", request.getfixturevalue("nats_server").url


@pytest.fixture
async def place(where: tuple[str, str], plugin: str) -> AsyncIterator[Place]:
    """A new, empty bucket."""
    made = Place(where[0], plugin, where[1])
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def kv(place: Place) -> KV:
    """A client of it."""
    return await place.kv()
