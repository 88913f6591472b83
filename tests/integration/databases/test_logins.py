"""A plugin's schema and logins: made once however many ask, and of no use for another's."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from psycopg import AsyncConnection

from rosey_rowstore.databases.postgres import logins
from rosey_rowstore.databases.postgres.database import PostgresDatabase
from rosey_rowstore.databases.postgres.sessions import connect
from rosey_rowstore.engine.model import Limits
from rosey_rowstore.protocol import Fault

LIMITS = Limits()


async def test_racing_provisions_agree(postgres_database: str, plugin: str) -> None:
    """Twenty connections provision one plugin and its neighbours at once: one result, no error."""
    names = [plugin, f"{plugin}a", f"{plugin}-b"]

    async def one(name: str) -> logins.Logins:
        async with await AsyncConnection.connect(postgres_database, autocommit=True) as connection:
            return await logins.provision(connection, name, LIMITS)

    made = await asyncio.gather(*(one(names[number % 3]) for number in range(20)))
    assert len({login.rows.password for login in made}) == 3
    for login in {item.rows.role: item for item in made}.values():
        async with await connect(postgres_database, login.rows, {}) as connection:
            cursor = await connection.execute("SELECT current_user::text, current_schema()::text")
            assert await cursor.fetchone() == (login.rows.role, login.rows.role)


async def test_a_plugin_reaches_nothing_but_its_own(postgres_database: str, plugin: str) -> None:
    """The login of one plugin may not read another's tables, the passwords, or define tables."""
    async with await AsyncConnection.connect(postgres_database, autocommit=True) as connection:
        mine = await logins.provision(connection, plugin, LIMITS)
        await logins.provision(connection, f"{plugin}x", LIMITS)
        await connection.execute(f'CREATE TABLE "plugin_{plugin}x".t (id bigint)'.encode())
    async with await connect(postgres_database, mine.rows, {}) as connection:
        for statement in (
            f'SELECT * FROM "plugin_{plugin}x".t',
            f'SELECT * FROM "plugin_{plugin}x"._rosey_replies',
            "SELECT * FROM rosey_service.logins",
            "CREATE TABLE mine (id bigint)",
            f'SET ROLE "plugin_{plugin}_owner"',
            f'SET ROLE "plugin_{plugin}x"',
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute(statement.encode())


async def test_the_owner_defines_and_the_rows_login_uses(postgres_database: str, plugin: str) -> None:
    """What the owner makes, by migrations too, the login for rows may use without a further grant."""
    async with await AsyncConnection.connect(postgres_database, autocommit=True) as connection:
        made = await logins.provision(connection, plugin, LIMITS)
    async with await connect(postgres_database, made.owner, {}) as connection:
        await connection.execute("CREATE TABLE t (id bigserial PRIMARY KEY, n int)")
    async with await connect(postgres_database, made.rows, {}) as connection:
        await connection.execute("INSERT INTO t (n) VALUES (1)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute("DROP TABLE t")


async def test_limits_of_the_roles(postgres_database: str, plugin: str) -> None:
    """Each role has its own net of limits under the service's."""
    async with await AsyncConnection.connect(postgres_database, autocommit=True) as connection:
        made = await logins.provision(connection, plugin, LIMITS)
    async with await connect(postgres_database, made.rows, {}) as connection:
        for name, value in (
            ("statement_timeout", "10s"),
            ("lock_timeout", "2s"),
            ("temp_file_limit", "64MB"),
        ):
            cursor = await connection.execute(f"SHOW {name}".encode())
            assert await cursor.fetchone() == (value,)


async def test_not_provisioned(postgres_database: str, plugin: str) -> None:
    """Where plugins are provisioned by an operator, an unknown one gets its code, and nothing is made."""
    database = PostgresDatabase(postgres_database, may_provision=False)
    await database.open()
    try:
        for _ in range(3):
            with pytest.raises(Fault) as caught:
                await database.tables(plugin, LIMITS)
            assert caught.value.code == "not_provisioned"
    finally:
        await database.close()


async def test_a_name_like_an_owner_is_refused(postgres_database: str, plugin: str) -> None:
    """A plugin `x_owner` would be the owner of the plugin `x`: it can have no rows."""
    database = PostgresDatabase(postgres_database, may_provision=True)
    await database.open()
    try:
        await database.tables(plugin, LIMITS)
        with pytest.raises(Fault) as caught:
            await database.tables(f"{plugin}_owner", LIMITS)
        assert caught.value.code == "invalid_name"
    finally:
        await database.close()


async def test_changed_password_is_found(postgres_database: str, plugin: str) -> None:
    """After an operator rotated a password, the service picks up the new one by itself."""
    database = PostgresDatabase(postgres_database, may_provision=True)
    await database.open()
    try:
        await database.tables(plugin, LIMITS)
        async with await AsyncConnection.connect(postgres_database, autocommit=True) as connection:
            await connection.execute(f"ALTER ROLE \"plugin_{plugin}\" PASSWORD 'another'".encode())
            await connection.execute(
                "UPDATE rosey_service.logins SET password = 'another' WHERE role = %s", (f"plugin_{plugin}",)
            )
        for attempt in range(3):
            try:
                made = await database._connect_rows(plugin, 5)
            except Fault:
                assert attempt == 0
            else:
                await made.close()
    finally:
        await database.close()


async def test_a_service_login_that_may_not_provision(postgres_database: str, plugin: str) -> None:
    """Without the right to make roles, provisioning says what is missing."""
    async with await AsyncConnection.connect(postgres_database, autocommit=True) as connection:
        await connection.execute(f"CREATE ROLE {plugin}weak LOGIN PASSWORD 'weak'".encode())
    try:
        weak = logins.Login(role=f"{plugin}weak", password="weak")
        async with await connect(postgres_database, weak, {}) as connection:
            with pytest.raises(Fault) as caught:
                await logins.provision(connection, plugin, LIMITS)
            assert caught.value.code == "permission_denied"
            assert caught.value.hint is not None
    finally:
        async with await AsyncConnection.connect(postgres_database, autocommit=True) as connection:
            await connection.execute(f"DROP ROLE {plugin}weak".encode())


async def test_a_service_login_that_is_no_superuser(postgres_database: str, plugin: str) -> None:
    """CREATEROLE and CREATE on the database are enough to provision and to use what was made."""
    name = f"{plugin}maker"
    async with await AsyncConnection.connect(postgres_database, autocommit=True) as connection:
        await connection.execute(f"CREATE ROLE {name} LOGIN CREATEROLE PASSWORD 'maker'".encode())
        await connection.execute(f"GRANT CREATE ON DATABASE {connection.info.dbname} TO {name}".encode())
    maker = logins.Login(role=name, password="maker")
    async with await connect(postgres_database, maker, {}) as connection:
        made = await logins.provision(connection, plugin, LIMITS)
        assert await logins.provision(connection, plugin, LIMITS) == made
    async with await connect(postgres_database, made.rows, {}) as connection:
        await connection.execute("SELECT * FROM _rosey_replies")
