"""A schema and two logins per plugin, and the passwords by which the service uses them.

`plugin_x` reads and writes rows; `plugin_x_owner` owns the schema and defines tables. The passwords stand
in a schema of the service's own, out of every plugin's reach. `SET ROLE` on a shared login would be no
boundary: `RESET ROLE` leaves it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final, Literal

import psycopg
from attrs import frozen
from psycopg import AsyncConnection, sql

from rosey_rowstore.databases.postgres import replies
from rosey_rowstore.engine.model import Limits
from rosey_rowstore.protocol import Fault, owned_name

__all__ = [
    "CONNECTIONS",
    "LOCK_SPACE",
    "PRIVATE_SCHEMA",
    "SERVICE_ROLE",
    "Login",
    "Logins",
    "RoleKind",
    "check_rows_plugin",
    "find_logins",
    "is_superuser",
    "owner_role",
    "provision",
    "role_settings",
    "set_password",
]

PRIVATE_SCHEMA: Final = "rosey_service"
SERVICE_ROLE: Final = "rosey_service"
"""The row service's own login, where one was made for it; see `lockdown`."""
_OWNER: Final = "_owner"
LOCK_SPACE: Final = 0x526F7365  # "Rose": the first half of every advisory lock of this service

RoleKind = Literal["rows", "owner"]

CONNECTIONS: Final[Mapping[RoleKind, int]] = {"rows": 32, "owner": 8}
"""What a role may hold at once: three lanes and one definition a process, over several processes."""


@frozen(kw_only=True)
class Login:
    """One login role with its password."""

    role: str
    password: str


@frozen(kw_only=True)
class Logins:
    """The two logins of a plugin."""

    rows: Login
    owner: Login


def owner_role(plugin: str) -> str:
    """Return the name of the role that owns a plugin's schema."""
    return owned_name(plugin) + _OWNER


def check_rows_plugin(plugin: str) -> None:
    """Check that a plugin of this name can have rows.

    Raises:
        Fault: `invalid_name`: the role of a plugin `x_owner` would be the owner's role of the plugin `x`.
    """
    if plugin.endswith(_OWNER):
        raise Fault(
            "invalid_name",
            f"A plugin named {plugin!r} can have no rows.",
            hint=f"Names that end in {_OWNER} stand for the owner of another plugin's tables.",
        )


async def find_logins(connection: AsyncConnection[Any], plugin: str) -> Logins | None:
    """Return the plugin's logins, None when it is not provisioned."""
    try:
        cursor = await connection.execute(
            f"SELECT role, password FROM {PRIVATE_SCHEMA}.logins WHERE plugin = %s",  # noqa: S608 - a constant
            (plugin,),
        )
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return None  # nothing was ever provisioned in this database
    passwords = dict(await cursor.fetchall())
    rows, owner = owned_name(plugin), owner_role(plugin)
    if rows not in passwords or owner not in passwords:
        return None
    return Logins(
        rows=Login(role=rows, password=passwords[rows]), owner=Login(role=owner, password=passwords[owner])
    )


async def provision(connection: AsyncConnection[Any], plugin: str, limits: Limits) -> Logins:
    """Make what is missing of the plugin's schema and roles, in one transaction.

    Any number of processes may do it at once: an advisory lock makes them wait for one another.

    Raises:
        Fault: `permission_denied` when the service's own login may not make roles or schemas.
    """
    check_rows_plugin(plugin)
    try:
        async with connection.transaction():
            # One lock for all plugins: they write the same private table and the same catalog.
            await connection.execute("SELECT pg_advisory_xact_lock(%s, 0)", (LOCK_SPACE,))
            await _private_schema(connection)
            found = await find_logins(connection, plugin)
            if found is None or not await _roles_stand(connection, found):
                found = await _make_roles(connection, plugin)
            await _set_limits(connection, plugin, found, limits)
            await _make_schema(connection, plugin, found)
            return found
    except psycopg.errors.InsufficientPrivilege as error:
        raise Fault(
            "permission_denied",
            f"The service's own login may not provision the plugin {plugin!r}.",
            hint="It needs CREATEROLE, and CREATE on the database.",
        ) from error


async def _private_schema(connection: AsyncConnection[Any]) -> None:
    for statement in (
        f"CREATE SCHEMA IF NOT EXISTS {PRIVATE_SCHEMA}",
        f"REVOKE ALL ON SCHEMA {PRIVATE_SCHEMA} FROM PUBLIC",
        (
            f"CREATE TABLE IF NOT EXISTS {PRIVATE_SCHEMA}.logins"
            " (role text PRIMARY KEY, plugin text NOT NULL, password text NOT NULL)"
        ),
        f"REVOKE ALL ON {PRIVATE_SCHEMA}.logins FROM PUBLIC",
    ):
        await connection.execute(statement.encode())


async def _roles_stand(connection: AsyncConnection[Any], logins: Logins) -> bool:
    """Return whether both roles are there: a database restored without its roles has passwords alone."""
    names = [logins.rows.role, logins.owner.role]
    cursor = await connection.execute("SELECT count(*) FROM pg_roles WHERE rolname = ANY(%s)", (names,))
    return await cursor.fetchone() == (len(names),)


async def _make_roles(connection: AsyncConnection[Any], plugin: str) -> Logins:
    made = Logins(
        rows=Login(role=owned_name(plugin), password=secrets.token_urlsafe(24)),
        owner=Login(role=owner_role(plugin), password=secrets.token_urlsafe(24)),
    )
    for login in (made.rows, made.owner):
        await set_password(connection, login)
        await connection.execute(
            f"INSERT INTO {PRIVATE_SCHEMA}.logins (role, plugin, password) VALUES (%s, %s, %s)"  # noqa: S608 - a constant
            " ON CONFLICT (role) DO UPDATE SET password = excluded.password",
            (login.role, plugin, login.password),
        )
    return made


async def set_password(connection: AsyncConnection[Any], login: Login) -> None:
    """Give a role its password, and make the role where there is none."""
    cursor = await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (login.role,))
    verb = "ALTER" if await cursor.fetchone() else "CREATE"
    # Hashed here: the server's log of statements must not hold the password.
    verifier = connection.pgconn.encrypt_password(
        login.password.encode(), login.role.encode(), b"scram-sha-256"
    )
    await connection.execute(
        sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(
            sql.SQL(verb), sql.Identifier(login.role), sql.Literal(verifier.decode())
        )
    )


async def is_superuser(connection: AsyncConnection[Any]) -> bool:
    """Return whether the connection's own login is a superuser's."""
    cursor = await connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
    row = await cursor.fetchone()
    return bool(row and row[0])


def role_settings(
    plugin: str, kind: RoleKind, limits: Limits, *, version: int, superuser: bool
) -> dict[str, str]:
    """Return what a role's sessions begin with, as `ALTER ROLE … SET` takes it.

    Args:
        plugin: Whose role it is.
        kind: Which of the plugin's two.
        limits: The plugin's limits.
        version: The server's, as 180006.
        superuser: Whether who sets them is one; the size of temporary files is a superuser's to limit.
    """
    seconds = _statement_seconds(kind, limits)
    settings = {
        "search_path": owned_name(plugin),
        "lock_timeout": f"{int(limits.lock_timeout * 1000)}ms",
        # The service cancels at the deadline; this is the net below it.
        "statement_timeout": f"{int((seconds + 5) * 1000)}ms",
        "idle_in_transaction_session_timeout": "60s",
        "work_mem": "4MB",
        "jit": "off",
    }
    if version >= 170000:
        settings["transaction_timeout"] = f"{int((seconds + 30) * 1000)}ms"
    if superuser:
        settings["temp_file_limit"] = "64MB"
    return settings


async def _set_limits(connection: AsyncConnection[Any], plugin: str, logins: Logins, limits: Limits) -> None:
    """Set what each role may take; they act at its next login."""
    version = connection.info.server_version
    superuser = await is_superuser(connection)
    kinds: tuple[tuple[RoleKind, Login], ...] = (("rows", logins.rows), ("owner", logins.owner))
    for kind, login in kinds:
        settings = role_settings(plugin, kind, limits, version=version, superuser=superuser)
        role = sql.Identifier(login.role)
        for name, value in settings.items():
            literal = sql.Identifier(value) if name == "search_path" else sql.Literal(value)
            await connection.execute(
                sql.SQL("ALTER ROLE {} SET {} = {}").format(role, sql.Identifier(name), literal)
            )
        # Another than a superuser may not even say what only a superuser could have given.
        plain = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS " if superuser else ""
        await connection.execute(
            sql.SQL("ALTER ROLE {} LOGIN {}CONNECTION LIMIT {}").format(
                role, sql.SQL(plain), sql.Literal(CONNECTIONS[kind])
            )
        )


def _statement_seconds(kind: RoleKind, limits: Limits) -> float:
    return limits.migration_timeout if kind == "owner" else limits.statement_timeout


async def _make_schema(connection: AsyncConnection[Any], plugin: str, logins: Logins) -> None:
    schema = sql.Identifier(owned_name(plugin))
    owner, rows = sql.Identifier(logins.owner.role), sql.Identifier(logins.rows.role)
    database = sql.Identifier(connection.info.dbname)
    members = [] if await is_superuser(connection) else [sql.SQL("CURRENT_USER")]
    if await (
        await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (SERVICE_ROLE,))
    ).fetchone():
        # It holds the owner's password anyhow; so it reads what migrations keep in the schema.
        members.append(sql.SQL(SERVICE_ROLE))
    for member in members:
        await connection.execute(sql.SQL("GRANT {} TO {}").format(owner, member))
    statements: list[sql.SQL | sql.Composed] = [
        sql.SQL("GRANT CONNECT ON DATABASE {} TO {}, {}").format(database, owner, rows),
        sql.SQL("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {}").format(schema, owner),
        sql.SQL("ALTER SCHEMA {} OWNER TO {}").format(schema, owner),
        sql.SQL("REVOKE ALL ON SCHEMA {} FROM PUBLIC").format(schema),
        sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(schema, rows),
        sql.SQL(
            "ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA {}"
            " GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {}"
        ).format(owner, schema, rows),
        sql.SQL(
            "ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA {} GRANT USAGE, SELECT ON SEQUENCES TO {}"
        ).format(owner, schema, rows),
        sql.SQL("SET LOCAL ROLE {}").format(owner),
        sql.SQL("SET LOCAL search_path TO {}").format(schema),
        *(sql.SQL(statement) for statement in replies.DDL),
        sql.SQL("RESET ROLE"),
    ]
    for statement in statements:
        await connection.execute(statement)
