"""Migrations on SQLite: records beside the plugin's tables, a locked file beside the plugin's."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from rosey_rowstore.databases.sqlite.database import SqliteDatabase
from rosey_rowstore.engine.model import Dialect, Limits
from rosey_rowstore.migrations import snapshot
from rosey_rowstore.migrations.hosts import CHILD_LOCK_SECONDS, RECORDS_DDL, Session, until
from rosey_rowstore.migrations.names import VERSION_TABLE
from rosey_rowstore.migrations.snapshot import Snapshot
from rosey_rowstore.protocol import Fault

__all__ = ["SqliteHost"]


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
            session = await asyncio.to_thread(_SqliteSession, path)
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
    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_file = path.with_name(path.name + ".migrating")
        self._lock: int | None = None
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)

    def prepare(self) -> None:
        found = self._connection.execute(
            "SELECT 1 FROM sqlite_master WHERE name = '_rosey_migration_steps'"
        ).fetchone()
        if found is None:
            for statement in RECORDS_DDL:
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
            self._lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        held = self._lock

        async def attempt() -> bool:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        return await until(attempt, seconds)

    # The run holds the database's write lock: what it tells meanwhile stands in the file that it locks.

    async def tell(self, run: str, progress: str) -> None:
        assert self._lock is not None  # noqa: S101 - a run has it
        content = json.dumps({"run": run, "progress": progress}).encode()
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, content, 0)

    async def told(self, run: str) -> str | None:
        try:
            found = json.loads(await asyncio.to_thread(self._lock_file.read_bytes))
            return str(found["progress"]) if found["run"] == run else None
        except (OSError, ValueError):
            return None  # not there yet, or just being written

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
        database = {"kind": "sqlite", "path": str(self.path), "lock_seconds": CHILD_LOCK_SECONDS}
        return database, () if self._lock is None else (self._lock,)

    def close(self) -> None:
        self._connection.close()
        if self._lock is not None:
            os.close(self._lock)
