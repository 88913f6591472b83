"""Migrations on a database without a service between: for the command line and for tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from rosey_rowstore.databases import database_for
from rosey_rowstore.migrations.hosts import host_for
from rosey_rowstore.migrations.operations import LOCK_SECONDS, Migrations

__all__ = ["open_migrations"]


@contextlib.asynccontextmanager
async def open_migrations(
    database_url: str, *, provision: bool, allow_rollback: bool = True, lock_seconds: float = LOCK_SECONDS
) -> AsyncIterator[Migrations]:
    """Open the database and give its migrations; they lock one another out across all processes.

    Args:
        database_url: As the service's `ROSEY_STORAGE_DATABASE`.
        provision: Make an unknown plugin's storage on its first use.
        allow_rollback: False in production.
        lock_seconds: How long a run waits for another.

    Raises:
        Fault: `unavailable` when the database is away.
    """
    database = database_for(database_url, may_provision=provision)
    await database.open()
    try:
        yield Migrations(host_for(database), allow_rollback=allow_rollback, lock_seconds=lock_seconds)
    finally:
        await database.close()
