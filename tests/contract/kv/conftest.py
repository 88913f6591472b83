"""Every test of this folder runs on both backends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rosey_kvstore import KV
from support.kv import MODES, Place
from support.secure import Installation


@pytest.fixture(
    params=[pytest.param(mode, marks=[pytest.mark.slow] if mode == "secure" else []) for mode in MODES]
)
def where(
    request: pytest.FixtureRequest, tmp_path: Path, plugin: str
) -> tuple[str, str] | tuple[str, str, Installation]:
    """The backend, and its file or server; `secure` is JetStream as production has it."""
    if request.param == "sqlite":
        return "sqlite", str(tmp_path / f"{plugin}.sqlite3")
    if request.param == "secure":
        installation: Installation = request.getfixturevalue("installation")
        return "secure", installation.nats.url, installation
    return "jetstream", request.getfixturevalue("nats_server").url


@pytest.fixture
async def place(where: Any, plugin: str) -> AsyncIterator[Place]:
    """A new, empty bucket."""
    made = Place(where[0], plugin, *where[1:])
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def kv(place: Place) -> KV:
    """A client of it."""
    return await place.kv()
