"""Migrations as production runs them: the service's login may make neither schemas nor roles."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from rosey_storage import Storage
from support.migrations import Folder
from support.secure import Installation


async def test_a_history_is_applied_by_the_narrow_login(installation: Installation, plugin: str) -> None:
    """With nothing but what `apply` gave the service, revisions run, are recorded, and are served at once."""
    folder = Folder(installation.file.parent, plugin)
    folder.write("one", "op.create_table('t', sa.Column('id', sa.BigInteger, primary_key=True))")
    folder.write("two", "op.add_column('t', sa.Column('n', sa.Integer))")
    await installation.add(plugin, rows=True)
    async with installation.storage(plugin, timeout=60) as storage:
        done = await applied(storage, ["one", "two"])
        assert [step.revision for step in done] == ["one", "two"]
        status = await storage.migrations.status()
        assert (status.current, status.pending, status.drift) == ("two", [], [])
        row = await storage.table("t").insert({"id": 1, "n": 2})
        assert row == {"id": 1, "n": 2}
    owner = f"plugin_{plugin}_owner"
    with psycopg.connect(installation.database) as connection:
        found = connection.execute(
            "SELECT tableowner FROM pg_tables WHERE schemaname = %s", (f"plugin_{plugin}",)
        )
        assert set(found.fetchall()) == {(owner,)}


async def applied(storage: Storage, revisions: list[str]):
    """Apply what is pending, once the service has read of it."""
    async with asyncio.timeout(60):
        while [step.revision for step in (await storage.migrations.status()).pending] != revisions:
            await asyncio.sleep(0.05)
    return (await storage.migrations.apply()).applied


@pytest.mark.parametrize("right", ["CREATE", "TEMPORARY", "CONNECT"])
async def test_nobody_else_has_the_database(installation: Installation, plugin: str, right: str) -> None:
    """The service's login connects, and may make nothing in the database itself."""
    await installation.add(plugin, rows=True)
    with psycopg.connect(installation.database) as connection:
        found = connection.execute(
            "SELECT has_database_privilege('rosey_service', current_database(), %s)", (right,)
        ).fetchone()
    assert found == (right == "CONNECT",)
