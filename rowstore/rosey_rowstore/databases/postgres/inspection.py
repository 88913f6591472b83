"""What is missing of plugins' schemas and logins, told by one look at the catalog, however many there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, LiteralString

import psycopg
from psycopg import AsyncConnection, sql

from rosey_rowstore.databases.postgres.logins import (
    CONNECTIONS,
    PRIVATE_SCHEMA,
    SERVICE_ROLE,
    RoleKind,
    is_superuser,
    owner_role,
    role_settings,
)
from rosey_rowstore.engine.model import Limits
from rosey_rowstore.protocol import owned_name

__all__ = ["provisioned_plugins", "shortcomings"]

_ROLES: Final[LiteralString] = """
    SELECT r.rolname, r.rolcanlogin, r.rolsuper OR r.rolcreatedb OR r.rolcreaterole OR r.rolbypassrls
           OR r.rolreplication, r.rolconnlimit, coalesce(s.setconfig, '{}'),
           has_database_privilege(r.oid, current_database(), 'CONNECT')
      FROM pg_roles r LEFT JOIN pg_db_role_setting s ON s.setrole = r.oid AND s.setdatabase = 0
     WHERE starts_with(r.rolname, 'plugin_')
"""
_SCHEMAS: Final[LiteralString] = """
    SELECT n.nspname, pg_get_userbyid(n.nspowner),
           ARRAY(SELECT coalesce(pg_get_userbyid(nullif(a.grantee, 0)), 'public')
                   FROM aclexplode(n.nspacl) a WHERE a.privilege_type = 'USAGE')::text[],
           EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = '_rosey_replies')
      FROM pg_namespace n WHERE starts_with(n.nspname, 'plugin_')
"""
_MEMBERS: Final[LiteralString] = """
    SELECT r.rolname FROM pg_auth_members m
      JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles s ON s.oid = m.member
     WHERE s.rolname = %s
"""


async def provisioned_plugins(connection: AsyncConnection[Any]) -> list[str]:
    """Return the plugins that have anything in this database: a schema, or a password kept.

    Roles are the whole server's, so they tell nothing of one database.
    """
    names = {row[0] for row in await (await connection.execute(_SCHEMAS)).fetchall()}
    names |= {role for role, _ in await _passwords(connection)}
    return sorted({name.removeprefix("plugin_").removesuffix("_owner") for name in names})


async def shortcomings(
    connection: AsyncConnection[Any], plugins: Iterable[tuple[str, Limits]]
) -> Mapping[str, list[str]]:
    """Return for each plugin what is missing or different, as words; an empty list when nothing is."""
    superuser = await is_superuser(connection)
    version = connection.info.server_version
    roles = {row[0]: row[1:] for row in await (await connection.execute(_ROLES)).fetchall()}
    schemas = {row[0]: row[1:] for row in await (await connection.execute(_SCHEMAS)).fetchall()}
    known = {role for role, _ in await _passwords(connection)}
    found = await (
        await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (SERVICE_ROLE,))
    ).fetchone()
    members = None
    if found:
        cursor = await connection.execute(_MEMBERS, (SERVICE_ROLE,))
        members = {row[0] for row in await cursor.fetchall()}
    told: dict[str, list[str]] = {}
    for plugin, limits in plugins:
        words = told[plugin] = []
        kinds: tuple[tuple[RoleKind, str], ...] = (
            ("rows", owned_name(plugin)),
            ("owner", owner_role(plugin)),
        )
        for kind, role in kinds:
            wanted = role_settings(plugin, kind, limits, version=version, superuser=superuser)
            words += _role_faults(role, kind, roles.get(role), wanted)
            if role in roles and role not in known:
                words.append(f"the password of {role}")
        words += _schema_faults(plugin, schemas.get(owned_name(plugin)))
        if members is not None and owner_role(plugin) in roles and owner_role(plugin) not in members:
            words.append("the row service's membership")
    return told


async def _passwords(connection: AsyncConnection[Any]) -> list[tuple[str, str]]:
    try:
        async with connection.transaction():
            cursor = await connection.execute(
                sql.SQL("SELECT role, plugin FROM {}").format(sql.Identifier(PRIVATE_SCHEMA, "logins"))
            )
            return await cursor.fetchall()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return []


def _role_faults(
    role: str, kind: RoleKind, found: tuple[Any, ...] | None, wanted: Mapping[str, str]
) -> list[str]:
    if found is None:
        return [f"the role {role}"]
    can_login, powerful, connections, config, connects = found
    words = []
    if not can_login or powerful:
        words.append(f"the rights of {role}")
    if not connects:
        words.append(f"the way in for {role}")
    if connections != CONNECTIONS[kind]:
        words.append(f"the connection limit of {role}")
    settings = dict(item.split("=", 1) for item in config)
    different = [name for name, value in wanted.items() if settings.get(name, "").strip('"') != value]
    if different:
        words.append(f"{', '.join(different)} of {role}")
    return words


def _schema_faults(plugin: str, found: tuple[Any, ...] | None) -> list[str]:
    name = owned_name(plugin)
    if found is None:
        return [f"the schema {name}"]
    owner, users, replies = found
    words = []
    if owner != owner_role(plugin) or "public" in users or name not in users:
        words.append(f"the rights on the schema {name}")
    if not replies:
        words.append("the table of stored replies")
    return words
