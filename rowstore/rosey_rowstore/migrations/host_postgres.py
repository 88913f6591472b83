"""Migrations on Postgres: records in the service's private schema, an advisory lock, the owner's login."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg
from attrs import frozen
from psycopg import AsyncConnection, sql

from rosey_rowstore.databases.postgres.database import PostgresDatabase
from rosey_rowstore.databases.postgres.listener import CHANNEL
from rosey_rowstore.databases.postgres.logins import LOCK_SPACE, PRIVATE_SCHEMA
from rosey_rowstore.engine.model import Dialect, Limits
from rosey_rowstore.migrations import snapshot
from rosey_rowstore.migrations.hosts import CHILD_LOCK_SECONDS, RECORDS_DDL, Session, until
from rosey_rowstore.migrations.names import VERSION_TABLE
from rosey_rowstore.migrations.snapshot import Snapshot
from rosey_rowstore.protocol import Fault, owned_name

__all__ = ["PostgresHost"]


@frozen
class PostgresHost:
    """A Postgres: records in the service's private schema, the lock an advisory one."""

    database: PostgresDatabase
    dialect: Dialect = Dialect.POSTGRES

    @contextlib.asynccontextmanager
    async def session(self, plugin: str, limits: Limits) -> AsyncIterator[Session]:
        """Open a connection of the service's own."""
        await self.database.find_logins(plugin, limits)
        connection = await self.database.service_session(f"rosey {plugin} migrations")
        try:
            session = _PostgresSession(self.database, connection, plugin, limits)
            await session.prepare()
            yield session
        except psycopg.OperationalError as error:
            raise Fault(
                "unavailable",
                "The database went away; `migrations.status` tells what became of a run.",
                hint="Ask for the status when it is back.",
            ) from error
        finally:
            await connection.close()

    def changed(self, plugin: str) -> None:
        """Look at the schema again."""
        self.database.changed(plugin)


@frozen
class _PostgresSession:
    database: PostgresDatabase
    connection: AsyncConnection[Any]
    plugin: str
    limits: Limits

    async def prepare(self) -> None:
        row = await (
            await self.connection.execute("SELECT to_regclass(%s)", (f"{PRIVATE_SCHEMA}.migration_steps",))
        ).fetchone()
        if row and row[0] is not None:
            return
        async with self.connection.transaction():
            await self.connection.execute("SELECT pg_advisory_xact_lock(%s, 0)", (LOCK_SPACE,))
            found = await self.connection.execute("SELECT to_regnamespace(%s)", (PRIVATE_SCHEMA,))
            if await found.fetchone() == (None,):
                # Not IF NOT EXISTS: that asks for the right to make schemas even where it makes none, and
                # in production the service's login has it not; `apply` made the schema there.
                await self.connection.execute(f"CREATE SCHEMA {PRIVATE_SCHEMA}".encode())
            for statement in RECORDS_DDL:
                await self.connection.execute(self._worded(statement))
            await self.connection.execute(self._worded("REVOKE ALL ON {runs}, {steps} FROM PUBLIC"))

    @staticmethod
    def _worded(statement: str) -> bytes:
        return (
            statement.format(
                runs=f"{PRIVATE_SCHEMA}.migration_runs", steps=f"{PRIVATE_SCHEMA}.migration_steps"
            )
            .replace("?", "%s")
            .encode()
        )

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        cursor = await self.connection.execute(self._worded(statement), parameters or None)
        return await cursor.fetchall() if cursor.description is not None else []

    async def lock(self, seconds: float) -> bool:
        async def attempt() -> bool:
            cursor = await self.connection.execute(
                "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (f"rosey migration {self.plugin}",)
            )
            row = await cursor.fetchone()
            return bool(row and row[0])

        return await until(attempt, seconds)

    async def tell(self, run: str, progress: str) -> None:
        await self.execute("UPDATE {runs} SET progress = ? WHERE id = ?", (progress, run))

    async def told(self, run: str) -> str | None:
        rows = await self.execute("SELECT progress FROM {runs} WHERE id = ?", (run,))
        return rows[0][0] if rows else None

    async def version(self) -> str | None:
        schema, table = sql.Identifier(owned_name(self.plugin)), sql.Identifier(VERSION_TABLE)
        try:
            cursor = await self.connection.execute(
                sql.SQL("SELECT revision FROM {}.{}").format(schema, table)
            )
            row = await cursor.fetchone()
        except psycopg.errors.UndefinedTable:
            return None
        return row[0] if row else None

    async def snapshot(self) -> Snapshot:
        parameters = {"schema": f'"{owned_name(self.plugin)}"'}
        answers = {}
        async with self.connection.transaction():
            await self.connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            # The words of the catalog name what is not on the search path with its schema.
            await self.connection.execute(
                sql.SQL("SET LOCAL search_path TO {}").format(sql.Identifier(owned_name(self.plugin)))
            )
            for part, query in snapshot.POSTGRES_QUERIES.items():
                answers[part] = await (await self.connection.execute(query, parameters)).fetchall()
        return snapshot.from_postgres(answers)

    async def child(self, seconds: float) -> tuple[dict[str, Any], tuple[int, ...]]:
        return {
            "kind": "postgres",
            "dsn": await self.database.owner_conninfo(self.plugin, self.limits, seconds),
            "schema": owned_name(self.plugin),
            "lock": f"rosey definition {self.plugin}",
            "channel": CHANNEL,
            "plugin": self.plugin,
            "lock_seconds": CHILD_LOCK_SECONDS,
        }, ()
