"""SQLite as the application sees it: a file per plugin, in a folder or given by name, or in memory."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

from rosey_rowstore.databases.base import (
    Answer,
    Size,
    Work,
    as_before,
    check_references,
    check_unreferenced,
)
from rosey_rowstore.databases.readcache import Key
from rosey_rowstore.databases.sqlite import catalog
from rosey_rowstore.databases.sqlite.connection import REPLIES_DDL, FileConnection
from rosey_rowstore.databases.sqlite.errors import fault_of
from rosey_rowstore.databases.sqlite.workers import Call, Items, Job, Schema, reader, start, writer
from rosey_rowstore.engine.definitions import plan_definition, plan_drop
from rosey_rowstore.engine.model import Dialect, Limits, Table
from rosey_rowstore.engine.planner import Planner
from rosey_rowstore.protocol import DefineRequest, Fault

__all__ = ["SqliteDatabase"]

T = TypeVar("T")

_READERS: Final = 2
_REFLECT_SECONDS: Final = 10.0


class SqliteDatabase:
    """Plugins' tables in SQLite files.

    Args:
        place: A folder that holds `<plugin>.sqlite3`, one file (any other name with a suffix) for the
            one plugin that is served, or None for databases in memory.
        may_provision: Make a plugin's file on its first use.
    """

    def __init__(self, place: Path | None, *, may_provision: bool) -> None:
        self._place = place
        self._may_provision = may_provision
        self._files: dict[str, _File] = {}
        self._opening: dict[str, asyncio.Task[_File]] = {}
        self._planner = Planner(Dialect.SQLITE)

    @property
    def planner(self) -> Planner:
        """The planner for SQLite."""
        return self._planner

    async def open(self) -> None:
        """Make the folder; files are opened at their first use.

        Raises:
            Fault: `unavailable` when the folder cannot be made.
        """
        folder = self._folder()
        if folder is not None and self._may_provision:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise Fault("unavailable", f"The data folder cannot be made: {error.strerror}.") from error

    def trouble(self) -> str | None:
        """Return why the files cannot be reached now: their folder is not there."""
        folder = self._folder()
        return None if folder is None or folder.is_dir() else "The data folder is not there."

    async def close(self) -> None:
        """Answer what waits, then close the files."""
        if self._opening:
            await asyncio.wait(self._opening.values())
        files, self._files = list(self._files.values()), {}
        await asyncio.gather(*(file.close() for file in files))

    async def _file(self, plugin: str) -> _File:
        file = self._files.get(plugin)
        if file is not None:
            return file
        task = self._opening.get(plugin)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._open_file(plugin))
            self._opening[plugin] = task
        try:
            return await asyncio.shield(task)
        finally:
            if task.done():
                self._opening.pop(plugin, None)

    async def _open_file(self, plugin: str) -> _File:
        path = self._path(plugin)
        if path is not None and not self._may_provision and not path.exists():
            raise Fault(
                "not_provisioned",
                f"The plugin {plugin!r} has no rows here.",
                hint="An operator gives it `rows = true` in plugins.toml and provisions it.",
            )
        file = _File(plugin, path)
        await asyncio.to_thread(file.open)
        self._files[plugin] = file
        return file

    def _folder(self) -> Path | None:
        return self._place if self._place is None or not _is_file(self._place) else self._place.parent

    def _path(self, plugin: str) -> Path | None:
        if self._place is None or _is_file(self._place):
            return self._place
        return self._place / f"{plugin}.sqlite3"

    @asynccontextmanager
    async def as_file(self, plugin: str) -> AsyncIterator[Path]:
        """Give the plugin's database as a file that another process can open.

        A database in memory is copied out and, at the end, back; its requests wait meanwhile.
        """
        file = await self._file(plugin)
        if file.path is not None:
            yield file.path
            return
        with tempfile.TemporaryDirectory(prefix="rosey-") as folder:
            path = Path(folder) / f"{plugin}.sqlite3"
            async with file.lent(path):
                yield path

    async def tables(
        self, plugin: str, limits: Limits, *, stale: Mapping[str, Table] | None = None
    ) -> Mapping[str, Table]:
        """Return the plugin's tables; what anyone else changes shows as a stale plan."""
        del limits
        file = self._files.get(plugin) or await self._file(plugin)
        if file.tables is None or stale is not None:
            await file.reflect(stale)
        assert file.tables is not None  # noqa: S101 - reflected above
        return file.tables

    def known_tables(self, plugin: str, limits: Limits) -> Mapping[str, Table] | None:
        """Return the plugin's tables when its file is open and was reflected."""
        del limits
        file = self._files.get(plugin)
        return None if file is None else file.tables

    def kept(self, plugin: str, limits: Limits, key: Key, deadline: float) -> Work | None:
        """Return None: a file of this process answers as fast as a cache would."""
        del plugin, limits, key, deadline
        return None

    async def run(self, plugin: str, limits: Limits, work: Work) -> bytes:
        """Run a plan on the file's writer or one of its readers."""
        del limits
        file = self._files.get(plugin) or await self._file(plugin)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        file.submit(work, answer)
        return await answer

    def start(self, plugin: str, limits: Limits, work: Work, answer: Answer) -> None:
        """Hand a plan to the file's writer or one of its readers."""
        del limits
        self._files[plugin].submit(work, answer)

    async def define(
        self, plugin: str, limits: Limits, request: DefineRequest, *, deadline: float
    ) -> list[str]:
        """Make or extend a table in one transaction on the writer."""
        del limits
        file = await self._file(plugin)

        def define(connection: FileConnection) -> list[str]:
            connection.raw.execute("BEGIN IMMEDIATE")
            tables = catalog.reflect(connection.raw, 0)
            check_references(request, tables)
            plan = plan_definition(request, tables.get(request.table), Dialect.SQLITE)
            if not request.dry_run:
                for statement in plan.ddl:
                    connection.raw.execute(statement)
            connection.raw.execute("COMMIT")
            return plan.changes

        changes = await file.call(define, deadline)
        await file.reflect(file.tables)
        return changes

    async def drop(self, plugin: str, limits: Limits, table: str, *, deadline: float) -> None:
        """Remove a table in one transaction on the writer."""
        del limits
        file = await self._file(plugin)

        def drop(connection: FileConnection) -> None:
            connection.raw.execute("BEGIN IMMEDIATE")
            check_unreferenced(table, catalog.reflect(connection.raw, 0))
            for statement in plan_drop(table, Dialect.SQLITE):
                connection.raw.execute(statement)
            connection.raw.execute("COMMIT")

        await file.call(drop, deadline)
        await file.reflect(file.tables)

    async def sizes(self, plugin: str, limits: Limits) -> Mapping[str, Size]:
        """Return the rows and bytes of the plugin's tables."""
        deadline = asyncio.get_running_loop().time() + limits.statement_timeout
        file = await self._file(plugin)
        return await file.call(lambda connection: catalog.sizes(connection.raw), deadline, reading=True)


def _is_file(place: Path) -> bool:
    return place.is_file() or (bool(place.suffix) and not place.is_dir())


class _File:
    """One plugin's file with its threads."""

    def __init__(self, plugin: str, path: Path | None) -> None:
        self._plugin, self._path = plugin, path
        self._lending = asyncio.Lock()
        self._schema = Schema()
        self._writes: Items = queue.SimpleQueue()
        self._reads: Items = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._reflecting = asyncio.Lock()
        self._generation = 0
        self._closed = False
        self.tables: dict[str, Table] | None = None

    def open(self) -> None:
        """Open the connections and start the threads.

        Raises:
            Fault: `unavailable` when the file is none of SQLite's, or may not be opened.
        """
        connections: list[FileConnection] = []
        try:
            connections.append(FileConnection(self._path))
            for statement in REPLIES_DDL:
                connections[0].raw.execute(statement)
            if self._path is not None:
                connections += [FileConnection(self._path, read_only=True) for _ in range(_READERS)]
        except (sqlite3.Error, OSError) as error:
            for connection in connections:
                connection.close()
            raise fault_of(error, ()) from error
        if self._path is None:
            self._reads = self._writes  # a database in memory is one connection's own
        first, *others = connections
        self._threads.append(start(f"{self._plugin} writer", writer, self._writes, first, self._schema))
        for number, connection in enumerate(others, 1):
            name = f"{self._plugin} reader {number}"
            self._threads.append(start(name, reader, self._reads, connection, self._schema))

    @property
    def path(self) -> Path | None:
        """Where it is; None in memory."""
        return self._path

    @asynccontextmanager
    async def lent(self, path: Path) -> AsyncIterator[None]:
        """Copy the database in memory to `path`, and back at the end; its one thread waits meanwhile."""
        loop = asyncio.get_running_loop()
        given, back = asyncio.Event(), threading.Event()

        def lend(connection: FileConnection) -> None:
            with contextlib.closing(sqlite3.connect(path)) as copy:
                connection.raw.backup(copy)
            loop.call_soon_threadsafe(given.set)
            back.wait()
            with contextlib.closing(sqlite3.connect(path)) as copy:
                copy.backup(connection.raw)

        async with self._lending:
            lending = asyncio.ensure_future(self.call(lend, float("inf")))
            waiting = asyncio.ensure_future(given.wait())
            try:
                await asyncio.wait((lending, waiting), return_when=asyncio.FIRST_COMPLETED)
                if not lending.done():
                    yield
            finally:
                back.set()
                waiting.cancel()
                await lending

    def submit(self, work: Work, answer: Answer) -> None:
        """Hand work to its thread; `answer` gets the reply's bytes, on the event loop."""
        loop = asyncio.get_running_loop()
        self._refuse_when_closed()
        items = self._writes if work.plan.writes else self._reads
        items.put(Job(work, _on_threads(loop, work.deadline), loop, answer))

    async def call(
        self, function: Callable[[FileConnection], T], deadline: float, *, reading: bool = False
    ) -> T:
        """Run a function with a connection, alone."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._refuse_when_closed()
        items = self._reads if reading else self._writes
        items.put(Call(function, _on_threads(loop, deadline), loop, answer))
        return await answer

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise Fault("unavailable", "The row service is stopping.", hint="Ask again in a moment.")

    async def reflect(self, stale: Mapping[str, Table] | None) -> None:
        """Look at the catalog again, unless another did since `stale`."""
        async with self._reflecting:
            if self.tables is not None and self.tables is not stale:
                return

            def reflect(connection: FileConnection) -> tuple[int, dict[str, Table]]:
                connection.raw.execute("BEGIN")
                version = connection.schema_version()
                return version, catalog.reflect(connection.raw, 0)

            deadline = asyncio.get_running_loop().time() + _REFLECT_SECONDS
            version, found = await self.call(reflect, deadline)
            before = self.tables or {}
            self._generation += 1
            self.tables = {
                name: as_before(before.get(name), table, self._generation) for name, table in found.items()
            }
            self._schema.version = version

    async def close(self) -> None:
        """Let the threads finish what waits, and end them."""
        self._closed = True
        self._writes.put(None)
        if self._reads is not self._writes:
            for _ in self._threads[1:]:
                self._reads.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)


def _on_threads(loop: asyncio.AbstractEventLoop, deadline: float) -> float:
    return time.monotonic() + deadline - loop.time()
