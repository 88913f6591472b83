"""What a database gives to migrations beside the child's own connection: a lock, records, the schema as it is."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import psycopg
from attrs import frozen
from psycopg import AsyncConnection, sql

from rosey_rowstore.databases.postgres.database import PostgresDatabase
from rosey_rowstore.databases.postgres.listener import CHANNEL
from rosey_rowstore.databases.postgres.logins import LOCK_SPACE, PRIVATE_SCHEMA
from rosey_rowstore.databases.sqlite.database import SqliteDatabase
from rosey_rowstore.engine.model import Dialect, Limits
from rosey_rowstore.migrations import snapshot
from rosey_rowstore.migrations.snapshot import Snapshot
from rosey_rowstore.migrations.targets import VERSION_TABLE
from rosey_rowstore.protocol import Fault, owned_name

__all__ = ["Host", "PostgresHost", "Session", "SqliteHost", "host_for"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.25
_CHILD_LOCK_SECONDS: Final = 10.0
_DDL: Final = (
    "CREATE TABLE IF NOT EXISTS {runs} (id text PRIMARY KEY, plugin text NOT NULL, direction text NOT NULL,"
    " start_revision text, target_revision text, who text NOT NULL, started_at text NOT NULL,"
    " seconds double precision, result text NOT NULL, error text, snapshot text)",
    "CREATE TABLE IF NOT EXISTS {steps} (run text NOT NULL, number integer NOT NULL, plugin text NOT NULL,"
    " revision text NOT NULL, down_revision text, message text NOT NULL, sha256 text NOT NULL,"
    " source text NOT NULL, transactional integer NOT NULL, leaves text, seconds double precision, sql text,"
    " result text NOT NULL, PRIMARY KEY (run, number))",
)


class Session(Protocol):
    """The service's own connection for one plugin's migrations."""

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement on the records; `{runs}` and `{steps}` are their tables, `?` its parameters."""

    async def lock(self, seconds: float) -> bool:
        """Take the plugin's lock for the life of this session; False when others hold it so long."""

    async def version(self) -> str | None:
        """Return the revision at which the schema stands."""

    async def snapshot(self) -> Snapshot:
        """Return the schema as it is."""

    async def child(self, seconds: float) -> tuple[dict[str, Any], tuple[int, ...]]:
        """Return what the child needs to connect, and the descriptors it keeps."""


class Host(Protocol):
    """One database with many plugins."""

    dialect: Dialect

    def session(self, plugin: str, limits: Limits) -> contextlib.AbstractAsyncContextManager[Session]:
        """Open a session; the plugin is provisioned where that is allowed, else `not_provisioned`."""

    def changed(self, plugin: str) -> None:
        """Let this process look at the schema again; the others are told by the database."""


def host_for(database: object) -> Host:
    """Return the host of an application's database."""
    if isinstance(database, PostgresDatabase):
        return PostgresHost(database)
    if isinstance(database, SqliteDatabase):
        return SqliteHost(database)
    raise TypeError(f"no migrations on {type(database).__name__}")


async def _until(attempt: Any, seconds: float) -> bool:
    """Ask again and again: nobody waits inside of a statement (CREATE INDEX CONCURRENTLY waits for those)."""
    deadline, pause = time.monotonic() + seconds, _FIRST_PAUSE
    while not await attempt():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 1.5, _LONGEST_PAUSE)
    return True


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
            for statement in (f"CREATE SCHEMA IF NOT EXISTS {PRIVATE_SCHEMA}", *_DDL):
                await self.connection.execute(self._worded(statement))
            await self.connection.execute(self._worded("REVOKE ALL ON {runs}, {steps} FROM PUBLIC"))

    @staticmethod
    def _worded(statement: str) -> bytes:
        return (
            statement.format(runs=f"{PRIVATE_SCHEMA}.migration_runs", steps=f"{PRIVATE_SCHEMA}.migration_steps")
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

        return await _until(attempt, seconds)

    async def version(self) -> str | None:
        schema, table = sql.Identifier(owned_name(self.plugin)), sql.Identifier(VERSION_TABLE)
        try:
            cursor = await self.connection.execute(sql.SQL("SELECT revision FROM {}.{}").format(schema, table))
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
            "lock_seconds": _CHILD_LOCK_SECONDS,
        }, ()


@frozen
class SqliteHost:
    """SQLite files: records beside the plugin's tables, the lock that of a file beside the plugin's."""

    database: SqliteDatabase
    dialect: Dialect = Dialect.SQLITE

    @contextlib.asynccontextmanager
    async def session(self, plugin: str, limits: Limits) -> AsyncIterator[Session]:
        """Open a connection of the service's own; of a database in memory a copy, given back at the end."""
        del limits
        async with self.database.as_file(plugin) as path:
            session = await asyncio.to_thread(_SqliteSession, path, plugin)
            try:
                await asyncio.to_thread(session.prepare)
                yield session
            except sqlite3.OperationalError as error:
                raise Fault(
                    "unavailable", "The database file is held by others.", hint="Ask again in a moment."
                ) from error
            finally:
                await asyncio.to_thread(session.close)

    def changed(self, plugin: str) -> None:
        """Nothing: every connection compares the schema's version."""


class _SqliteSession:
    def __init__(self, path: Path, plugin: str) -> None:
        self._path, self._plugin = path, plugin
        self._lock: int | None = None
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)

    def prepare(self) -> None:
        found = self._connection.execute(
            "SELECT 1 FROM sqlite_master WHERE name = '_rosey_migration_steps'"
        ).fetchone()
        if found is None:
            for statement in _DDL:
                self._connection.execute(self._worded(statement))

    @staticmethod
    def _worded(statement: str) -> str:
        return statement.format(runs="_rosey_migration_runs", steps="_rosey_migration_steps")

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        def run() -> list[tuple[Any, ...]]:
            return self._connection.execute(self._worded(statement), tuple(parameters)).fetchall()

        return await asyncio.to_thread(run)

    async def lock(self, seconds: float) -> bool:
        if self._lock is None:
            name = self._path.with_name(self._path.name + ".migrating")
            self._lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        held = self._lock

        async def attempt() -> bool:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        return await _until(attempt, seconds)

    async def version(self) -> str | None:
        try:
            rows = await self.execute(f"SELECT revision FROM {VERSION_TABLE}")  # noqa: S608 - a constant
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return None
            raise
        return rows[0][0] if rows else None

    async def snapshot(self) -> Snapshot:
        return await asyncio.to_thread(snapshot.from_sqlite, self._connection)

    async def child(self, seconds: float) -> tuple[dict[str, Any], tuple[int, ...]]:
        del seconds
        database: Mapping[str, Any] = {
            "kind": "sqlite",
            "path": str(self._path),
            "lock_seconds": _CHILD_LOCK_SECONDS,
        }
        return dict(database), () if self._lock is None else (self._lock,)

    def close(self) -> None:
        self._connection.close()
        if self._lock is not None:
            os.close(self._lock)
