"""Postgres as the application sees it: plugins' tables, plans run on lanes, definitions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import psycopg
from attrs import define, field
from psycopg import AsyncConnection

from rosey_rowstore.databases.base import (
    Answer,
    Size,
    StaleSchemaError,
    Work,
    as_before,
    check_references,
    check_unreferenced,
)
from rosey_rowstore.databases.postgres import catalog, logins
from rosey_rowstore.databases.postgres.connections import Connections
from rosey_rowstore.databases.postgres.counting import counted, counting, small_tables
from rosey_rowstore.databases.postgres.errors import fault_of
from rosey_rowstore.databases.postgres.lanes import PluginLanes
from rosey_rowstore.databases.postgres.listener import Listener, announce
from rosey_rowstore.databases.postgres.sessions import Service, connect, conninfo
from rosey_rowstore.databases.postgres.text import detect_text
from rosey_rowstore.databases.readcache import Key, ReadCache, Reads
from rosey_rowstore.engine.definitions import plan_definition, plan_drop
from rosey_rowstore.engine.model import Dialect, Limits, Table
from rosey_rowstore.engine.planner import Planner
from rosey_rowstore.engine.plans import NOTHING
from rosey_rowstore.protocol import DefineRequest, Fault, owned_name

__all__ = ["PostgresDatabase"]

_OLDEST_VERSION: Final = 150000
_SHARE: Final = 0.4
"""The part of the server's connections that one service process takes: two processes and people fit."""
_UNHEARD_SECONDS: Final = 1.0
"""How long a reflection is trusted while no notification can arrive."""
_NOT_PROVISIONED_SECONDS: Final = 0.25


@define(eq=False)
class _Plugin:
    """What this process knows of a plugin."""

    name: str
    limits: Limits
    lanes: PluginLanes
    reads: Reads
    logins: logins.Logins | None = None
    absent_until: float = 0.0
    tables: Mapping[str, Table] | None = None
    reflected_at: float = 0.0
    epoch: int = 0
    reflected_epoch: int = -1
    generation: int = 0
    lock: asyncio.Lock = field(factory=asyncio.Lock)
    defining: asyncio.Lock = field(factory=asyncio.Lock)


class PostgresDatabase:
    """A Postgres of version 15 or later, reached by its DSN.

    Args:
        dsn: Of the service's own login, which provisions and reflects.
        may_provision: Make an unknown plugin's schema and logins on its first use.
        connection_cap: How many plugin connections may stand; None for a share of what the server has.
        read_cache: Bytes of replies to keep while nothing changes; 0 for none.
    """

    def __init__(
        self,
        dsn: str,
        *,
        may_provision: bool,
        connection_cap: int | None = None,
        read_cache: int = 0,
    ) -> None:
        self._dsn = dsn
        self._may_provision = may_provision
        self._cap = connection_cap
        self._service = Service(dsn)
        self._plugins: dict[str, _Plugin] = {}
        self._cache = ReadCache(read_cache)
        self._connections: Connections | None = None
        self._planner: Planner | None = None
        self._listener = Listener(
            lambda: connect(dsn, None, {}, name="rosey-rowstore listener"), self._changed
        )
        self._closed = False

    @property
    def planner(self) -> Planner:
        """The planner for this server; there once it was reached."""
        if self._planner is None:
            raise Fault("unavailable", "The database was not reached yet.", hint="Ask again in a moment.")
        return self._planner

    async def open(self) -> None:
        """Reach the server; after a failure the next request tries again.

        Raises:
            Fault: `unavailable`, also when the server is older than version 15.
        """
        self._listener.start()
        await self._ready()

    async def _ready(self) -> None:
        if self._planner is not None:
            return
        async with self._service.use() as connection:
            version = connection.info.server_version
            if version < _OLDEST_VERSION:
                raise Fault(
                    "unavailable",
                    f"The database is Postgres {version // 10000}.",
                    hint="The row service needs Postgres 15 or later.",
                )
            if self._connections is None:
                self._connections = Connections(self._connect_rows, self._cap or await _share(connection))
            self._planner = Planner(Dialect.POSTGRES, text=await detect_text(connection))

    def trouble(self) -> str | None:
        """Return why the server cannot be reached now, as the listening connection knows it."""
        if self._planner is None:
            return "The database was not reached yet."
        return None if self._listener.hears else "The database does not answer."

    async def close(self) -> None:
        """Answer what runs and waits, then close every connection."""
        self._closed = True
        await self._listener.stop()
        await asyncio.gather(*(plugin.lanes.close() for plugin in self._plugins.values()))
        await self._service.close()

    # plugins

    def _known(self, name: str, limits: Limits) -> _Plugin:
        plugin = self._plugins.get(name)
        if plugin is None:
            assert self._connections is not None  # noqa: S101 - `_ready` made them
            reads = self._cache.reads()
            plugin = _Plugin(name, limits, PluginLanes(self._connections, name, reads), reads)
            self._plugins[name] = plugin
        return plugin

    async def _find_logins(self, plugin: _Plugin) -> logins.Logins:
        """Return the plugin's logins, made on first use where that is allowed."""
        if plugin.logins is not None:
            return plugin.logins
        now = asyncio.get_running_loop().time()
        if plugin.absent_until > now:
            raise _not_provisioned(plugin.name)
        logins.check_rows_plugin(plugin.name)
        async with self._service.use() as connection:
            found = await logins.find_logins(connection, plugin.name)
            if found is None and self._may_provision:
                found = await logins.provision(connection, plugin.name, plugin.limits)
        if found is None:
            plugin.absent_until = now + _NOT_PROVISIONED_SECONDS
            raise _not_provisioned(plugin.name)
        plugin.logins = found
        return found

    async def _connect_rows(self, name: str, timeout: float) -> AsyncConnection[Any]:
        plugin = self._plugins[name]
        remembered = plugin.logins is not None
        found = await self._find_logins(plugin)
        settings = _session(name, plugin.limits, plugin.limits.statement_timeout + 5)
        try:
            return await connect(self._dsn, found.rows, settings, timeout=timeout, name=f"rosey {name}")
        except Fault as fault:
            if fault.code != "unavailable":
                raise
            plugin.logins = None  # the password may have been changed, the login removed
            if not remembered:
                raise
        return await self._connect_rows(name, timeout)

    # tables

    def _changed(self, name: str | None) -> None:
        """Take note that a plugin's schema changed, or that every one may have."""
        for plugin in self._plugins.values():
            if name is None or plugin.name == name:
                plugin.epoch += 1

    async def tables(
        self, plugin: str, limits: Limits, *, stale: Mapping[str, Table] | None = None
    ) -> Mapping[str, Table]:
        """Return the plugin's tables; never the very `stale` ones again without a look at the catalog."""
        if self._planner is None:
            await self._ready()
        known = self._known(plugin, limits)
        known.limits = limits
        if known.tables is not None and stale is None and self._fresh(known):
            return known.tables
        async with known.lock:
            if known.tables is None or known.tables is stale or not self._fresh(known):
                await self._reflect(known)
            assert known.tables is not None  # noqa: S101 - reflected above
            return known.tables

    def known_tables(self, plugin: str, limits: Limits) -> Mapping[str, Table] | None:
        """Return the plugin's tables when they are known and fresh."""
        known = self._plugins.get(plugin)
        if known is None or known.tables is None or not self._fresh(known):
            return None
        known.limits = limits
        return known.tables

    def _fresh(self, plugin: _Plugin) -> bool:
        if plugin.reflected_epoch != plugin.epoch:
            return False
        return self._listener.listening or (
            asyncio.get_running_loop().time() - plugin.reflected_at < _UNHEARD_SECONDS
        )

    async def _reflect(self, plugin: _Plugin) -> None:
        await self._find_logins(plugin)
        epoch, now = plugin.epoch, asyncio.get_running_loop().time()
        async with self._service.use() as connection:
            found = await catalog.reflect(connection, owned_name(plugin.name), 0)
        before = plugin.tables or {}
        plugin.generation += 1
        plugin.tables = {
            name: as_before(before.get(name), table, plugin.generation) for name, table in found.items()
        }
        plugin.reflected_epoch, plugin.reflected_at = epoch, now

    # work

    def kept(self, plugin: str, limits: Limits, key: Key, deadline: float) -> Work | None:
        """Return the work of giving a kept reply again, where there is one that may still be true."""
        known = self._plugins.get(plugin)
        if known is None or known.tables is None or not self._fresh(known):
            return None
        body = known.reads.get(key, (limits, known.tables))
        if body is None:
            return None
        return Work(NOTHING, deadline, kept=body, era=known.reads.era)

    async def run(self, plugin: str, limits: Limits, work: Work) -> bytes:
        """Run a plan on one of the plugin's lanes."""
        self._refuse_when_closed()
        return await self._known(plugin, limits).lanes.submit(work)

    def start(self, plugin: str, limits: Limits, work: Work, answer: Answer) -> None:
        """Run a plan on one of the plugin's lanes, without a task."""
        self._refuse_when_closed()
        self._known(plugin, limits).lanes.submit_to(work, answer)

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise Fault("unavailable", "The row service is stopping.", hint="Ask again in a moment.")

    async def define(
        self, plugin: str, limits: Limits, request: DefineRequest, *, deadline: float
    ) -> list[str]:
        """Make or extend a table as the owner, in one transaction with its announcement."""
        async with _Definition(self, plugin, limits, deadline) as definition:
            tables = await definition.tables()
            check_references(request, tables)
            plan = plan_definition(request, tables.get(request.table), Dialect.POSTGRES)
            if not request.dry_run:
                await definition.execute(plan.ddl, (request.table,))
        return plan.changes

    async def drop(self, plugin: str, limits: Limits, table: str, *, deadline: float) -> None:
        """Remove a table as the owner."""
        async with _Definition(self, plugin, limits, deadline) as definition:
            check_unreferenced(table, await definition.tables())
            await definition.execute(plan_drop(table, Dialect.POSTGRES), (table,))

    async def sizes(self, plugin: str, limits: Limits) -> Mapping[str, Size]:
        """Return the server's estimates of the plugin's tables, and of small ones the count."""
        await self.tables(plugin, limits)
        async with self._service.use() as connection:
            found = await catalog.sizes(connection, owned_name(plugin))
        small = small_tables(found)
        if not small:
            return found
        deadline = asyncio.get_running_loop().time() + limits.statement_timeout
        try:
            return counted(found, await self.run(plugin, limits, counting(small, deadline)))
        except (Fault, StaleSchemaError):  # one went away meanwhile, or all are busy: estimates will do
            return found

    async def turn_to_define(self, name: str, limits: Limits, deadline: float) -> asyncio.Lock:
        """Take this process's turn to define: the owner's login has few connections.

        Raises:
            Fault: `timeout` when other definitions of the plugin take until the deadline.
        """
        if self._planner is None:
            await self._ready()
        lock = self._known(name, limits).defining
        try:
            async with asyncio.timeout_at(deadline):  # wait_for may lose a turn when cancelled
                await lock.acquire()
        except TimeoutError:
            raise Fault(
                "timeout",
                "Other definitions of the plugin took all the time; nothing was done.",
                hint="Ask again.",
            ) from None
        return lock

    async def owner_session(self, name: str, limits: Limits, seconds: float) -> AsyncConnection[Any]:
        """Return a connection as the plugin's owner, whose statements may take `seconds`."""
        found = await self.find_logins(name, limits)
        return await connect(
            self._dsn, found.owner, _session(name, limits, seconds), name=f"rosey {name} definition"
        )

    async def find_logins(self, name: str, limits: Limits) -> logins.Logins:
        """Return the plugin's logins, made on first use where that is allowed; else `not_provisioned`."""
        if self._planner is None:
            await self._ready()
        return await self._find_logins(self._known(name, limits))

    async def owner_conninfo(self, name: str, limits: Limits, seconds: float) -> str:
        """Return the DSN by which a child connects as the plugin's owner, for a run of so many seconds."""
        found = await self.find_logins(name, limits)
        limit = f"{int((seconds + 5) * 1000)}ms"
        settings = {
            **_session(name, limits, seconds),
            "idle_in_transaction_session_timeout": limit,
            "client_connection_check_interval": "1s",  # a killed child's statement ends, too
        }
        return conninfo(self._dsn, found.owner, settings, name=f"rosey {name} migration")

    async def service_session(self, name: str) -> AsyncConnection[Any]:
        """Return a connection of the service's own, for what takes longer than a request."""
        return await connect(self._dsn, None, {"statement_timeout": "30s", "lock_timeout": "5s"}, name=name)

    def changed(self, name: str) -> None:
        """Look at the plugin's catalog again before its next request."""
        self._changed(name)
        self._plugins[name].lanes.forget_statements()


class _Definition:
    """One transaction of the plugin's owner, alone among all processes."""

    def __init__(self, database: PostgresDatabase, plugin: str, limits: Limits, deadline: float) -> None:
        self._database, self._plugin, self._limits, self._deadline = database, plugin, limits, deadline
        self._done = False

    async def __aenter__(self) -> Self:
        self._turn = await self._database.turn_to_define(self._plugin, self._limits, self._deadline)
        try:
            return await self._begin()
        except BaseException:
            self._turn.release()
            raise

    async def _begin(self) -> Self:
        seconds = max(0.05, self._deadline - asyncio.get_running_loop().time())
        self._connection = await self._database.owner_session(self._plugin, self._limits, seconds)
        try:
            await self._connection.execute("BEGIN")
            # Held to the end of the transaction: two definitions of one plugin see one another's work.
            await self._connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"rosey definition {self._plugin}",)
            )
        except psycopg.Error as error:
            await self._connection.close()
            raise _definition_fault(error, ()) from error
        return self

    async def tables(self) -> Mapping[str, Table]:
        """Return the tables as this transaction sees them."""
        return await catalog.reflect(self._connection, owned_name(self._plugin), 0)

    async def execute(self, ddl: Sequence[str], tables: Sequence[str]) -> None:
        """Run statements and tell every process."""
        try:
            for statement in ddl:
                await self._connection.execute(statement.encode())
            if ddl:
                await announce(self._connection, self._plugin)
                self._done = True
        except psycopg.Error as error:
            raise _definition_fault(error, tables) from error

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                await self._connection.execute("COMMIT")
                if self._done:
                    self._database.changed(self._plugin)
        except psycopg.Error as error:
            raise _definition_fault(error, ()) from error
        finally:
            self._turn.release()
            await self._connection.close()


def _definition_fault(error: psycopg.Error, tables: Sequence[str]) -> Fault:
    try:
        return fault_of(error, tables)
    except StaleSchemaError:
        return Fault("unavailable", "The schema changed meanwhile; nothing was done.", hint="Ask again.")


def _session(plugin: str, limits: Limits, seconds: float) -> dict[str, str]:
    return {
        "search_path": f'"{owned_name(plugin)}"',
        "statement_timeout": f"{int(seconds * 1000)}ms",
        "lock_timeout": f"{int(limits.lock_timeout * 1000)}ms",
        "jit": "off",
    }


async def _share(connection: AsyncConnection[Any]) -> int:
    cursor = await connection.execute("SHOW max_connections")
    row = await cursor.fetchone()
    return max(6, int(int(row[0] if row else 100) * _SHARE))


def _not_provisioned(plugin: str) -> Fault:
    return Fault(
        "not_provisioned",
        f"The plugin {plugin!r} has no rows here.",
        hint="An operator gives it `rows = true` in plugins.toml and provisions it.",
    )
