"""The databases that run the engine's plans: Postgres by lanes, SQLite by one writer thread."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from rosey_rowstore.databases.base import Database
from rosey_rowstore.protocol import Fault

__all__ = ["database_for"]


def database_for(url: str, *, may_provision: bool, read_cache: int = 0) -> Database:
    """Return the database of a URL, not yet open.

    Args:
        url: `postgresql://…`, `sqlite:FOLDER`, `sqlite:FILE` or `sqlite::memory:`.
        may_provision: Make an unknown plugin's storage on its first use.
        read_cache: Bytes of replies to keep in front of Postgres; SQLite needs none.

    Raises:
        Fault: `invalid_request` when the URL is neither of Postgres nor of SQLite.
    """
    scheme = urlsplit(url).scheme
    if scheme in ("postgresql", "postgres"):
        # Late: who keeps rows in SQLite needs no driver for Postgres, and no time to load it.
        from rosey_rowstore.databases.postgres.database import PostgresDatabase  # noqa: PLC0415

        return PostgresDatabase(url, may_provision=may_provision, read_cache=read_cache)
    if scheme == "sqlite":
        from rosey_rowstore.databases.sqlite.database import SqliteDatabase  # noqa: PLC0415 - as above

        place = url.partition(":")[2].removeprefix("//")
        if place:
            return SqliteDatabase(None if place == ":memory:" else Path(place), may_provision=may_provision)
    raise Fault(
        "invalid_request",
        "The database URL names neither Postgres nor SQLite.",
        hint="As postgresql://user@host/database, sqlite:FOLDER or sqlite::memory:.",
    )
