"""A plugin leaves a database: its sessions end, its schema, roles and passwords go, all or nothing."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import AsyncConnection, sql

from rosey_rowstore.databases.postgres.logins import PRIVATE_SCHEMA, is_superuser, owner_role
from rosey_rowstore.protocol import owned_name

__all__ = ["forget_passwords", "remove"]

_RECORDS = ("logins", "migration_runs", "migration_steps")


async def remove(connection: AsyncConnection[Any], plugin: str) -> None:
    """Remove everything a plugin has in this database; what is gone already is no error."""
    rows, owner = owned_name(plugin), owner_role(plugin)
    async with connection.transaction():
        present = await _present(connection, rows, owner)
        for role in present:
            await connection.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(role)))
        await _end_sessions(connection, present)
        if not await is_superuser(connection):
            for role in present:
                await connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(role)))
        await connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(rows)))
        for role in present:
            # Grants on the database and the like; nothing else is left.
            await connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(role)))
            await connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
        for table in _RECORDS:
            await _forget(connection, table, plugin)


async def forget_passwords(connection: AsyncConnection[Any], plugin: str) -> None:
    """Drop a plugin's passwords, so that provisioning makes new ones; sessions that stand go on."""
    await _forget(connection, "logins", plugin)


async def _present(connection: AsyncConnection[Any], *roles: str) -> list[str]:
    cursor = await connection.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", (list(roles),))
    return [row[0] for row in await cursor.fetchall()]


async def _end_sessions(connection: AsyncConnection[Any], roles: list[str]) -> None:
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = ANY(%s)", (roles,)
    )


async def _forget(connection: AsyncConnection[Any], table: str, plugin: str) -> None:
    try:
        async with connection.transaction():
            await connection.execute(
                sql.SQL("DELETE FROM {} WHERE plugin = %s").format(sql.Identifier(PRIVATE_SCHEMA, table)),
                (plugin,),
            )
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return  # nothing of the kind was ever kept here
