"""The database itself: closed to everybody, but for the service's own login and the plugins' two each."""

from __future__ import annotations

from typing import Any, Final, LiteralString

from psycopg import AsyncConnection, sql

from rosey_rowstore.databases.postgres.logins import (
    PRIVATE_SCHEMA,
    SERVICE_ROLE,
    Login,
    is_superuser,
    set_password,
)

__all__ = ["lock_down", "make_service_login", "openings"]

# Large objects belong to no schema: whoever may make them fills the disk past every limit.
_LARGE_OBJECTS: Final[LiteralString] = """
    SELECT p.oid::regprocedure::text FROM pg_proc p
     WHERE p.pronamespace = 'pg_catalog'::regnamespace
       AND (p.proname LIKE 'lo\\_%' OR p.proname IN ('loread', 'lowrite'))
       AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                    WHERE a.grantee = 0)
     ORDER BY 1
"""
_DATABASE: Final[LiteralString] = """
    SELECT DISTINCT lower(a.privilege_type)
      FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
     WHERE d.datname = current_database() AND a.grantee = 0 ORDER BY 1
"""
_PUBLIC_SCHEMA: Final[LiteralString] = """
    SELECT 1 FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
     WHERE n.nspname = 'public' AND a.grantee = 0 AND a.privilege_type = 'CREATE'
"""


async def openings(connection: AsyncConnection[Any]) -> list[str]:
    """Return what of the database is open to every login, as words; empty once it is locked down.

    What only a superuser could close is left out where the connection's login is none.
    """
    found = []
    privileges = [row[0] for row in await (await connection.execute(_DATABASE)).fetchall()]
    if privileges:
        found.append(f"{' and '.join(privileges)} for everybody")
    if await (await connection.execute(_PUBLIC_SCHEMA)).fetchone():
        found.append("tables in the schema public for everybody")
    if await is_superuser(connection) and await (await connection.execute(_LARGE_OBJECTS)).fetchone():
        found.append("large objects for everybody")
    return found


async def lock_down(connection: AsyncConnection[Any]) -> None:
    """Close the database to everybody who was not let in by name, in one transaction."""
    async with connection.transaction():
        database = sql.Identifier(connection.info.dbname)
        await connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
        if await (await connection.execute(_PUBLIC_SCHEMA)).fetchone():
            await connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        if await is_superuser(connection):
            for (function,) in await (await connection.execute(_LARGE_OBJECTS)).fetchall():
                # The server's own spelling of a function, its arguments included.
                await connection.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC".encode())


async def make_service_login(connection: AsyncConnection[Any], password: str) -> None:
    """Make the login by which the row service reads the catalog and finds the plugins' passwords.

    It owns the private schema and is a member of each plugin's owner, whose password it holds anyhow;
    it makes no roles and no schemas.
    """
    role = sql.Identifier(SERVICE_ROLE)
    async with connection.transaction():
        await set_password(connection, Login(role=SERVICE_ROLE, password=password))
        if not await is_superuser(connection):
            await connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(role))
        database = sql.Identifier(connection.info.dbname)
        private, logins = sql.Identifier(PRIVATE_SCHEMA), sql.Identifier(PRIVATE_SCHEMA, "logins")
        for statement in (
            sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, role),
            sql.SQL("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {}").format(private, role),
            sql.SQL("ALTER SCHEMA {} OWNER TO {}").format(private, role),
            sql.SQL("REVOKE ALL ON SCHEMA {} FROM PUBLIC").format(private),
            sql.SQL(
                "CREATE TABLE IF NOT EXISTS {} (role text PRIMARY KEY, plugin text NOT NULL,"
                " password text NOT NULL)"
            ).format(logins),
            sql.SQL("ALTER TABLE {} OWNER TO {}").format(logins, role),
            sql.SQL("REVOKE ALL ON {} FROM PUBLIC").format(logins),
        ):
            await connection.execute(statement)
