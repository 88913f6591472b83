"""What whole processes run on."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(params=["postgres", "sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'rows'}"
    dsn: str = request.getfixturevalue("postgres_database")
    return dsn
