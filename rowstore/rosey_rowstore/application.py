"""The row service without its transport: a request's bytes in, a reply's bytes out.

The service process binds it to NATS; local mode calls it in process. Whatever comes in, an answer goes
out: a result, or an error of the contract.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from rosey_rowstore.databases import database_for
from rosey_rowstore.databases.base import StaleReplyError, StaleSchemaError, Work
from rosey_rowstore.databases.describe import describe, summaries
from rosey_rowstore.databases.failures import internal_fault
from rosey_rowstore.databases.readcache import Key
from rosey_rowstore.engine.model import Limits, Table
from rosey_rowstore.engine.plans import Plan
from rosey_rowstore.events import Events
from rosey_rowstore.migrations.calls import MigrationCalls
from rosey_rowstore.plugins import KnownPlugins
from rosey_rowstore.protocol import (
    MESSAGE_ID_HEADER,
    OPERATIONS,
    ApplyRequest,
    ChangesReply,
    DefineRequest,
    DescribeRequest,
    DropRequest,
    EmptyReply,
    Fault,
    ListRequest,
    Operation,
    RollbackRequest,
    StatusRequest,
    check_identifier,
    check_plugin,
    decode_request,
    encode_fault,
    encode_reply,
    nearest,
    timeout_from_headers,
)
from rosey_rowstore.settings import DEFAULT_READ_CACHE

__all__ = ["Application"]

log = logging.getLogger("rosey_rowstore")

Reply = tuple[bytes, dict[str, str] | None]
Replier = Callable[[bytes, dict[str, str] | None], None]
Tables = Mapping[str, Table]
Handler = Callable[[str, Limits, Any, float], Awaitable[bytes]]

_LONGEST_ID: Final = 256
_MISSING: Final = ("table_not_found", "column_not_found")
_KEPT: Final = frozenset(
    tail for tail, operation in OPERATIONS.items() if tail.startswith("rows.") and not operation.writes
)
"""What a reply may be kept of."""
_SECONDS_BETWEEN_LOOKS: Final = 1.0
_MOST_REPLANS: Final = 3
"""How often a request is planned anew when the schema changes under it."""


class Application:
    """Answers the requests of every plugin on one database.

    Args:
        database_url: `postgresql://…`; `sqlite:FOLDER` with a file per plugin, `sqlite:FILE` for one
            plugin, `sqlite::memory:`.
        plugins: What `plugins.toml` says.
        provision: Make an unknown plugin's storage on its first use, as in development.
        allow_rollback: Migrations may be rolled back, for plugins that do not say it themselves.
        read_cache: Bytes of replies kept in front of Postgres while nothing changes; 0 for none.

    Raises:
        Fault: `invalid_request` when the URL is neither of Postgres nor of SQLite.
    """

    def __init__(
        self,
        database_url: str,
        plugins: KnownPlugins,
        *,
        provision: bool,
        allow_rollback: bool = True,
        read_cache: int = DEFAULT_READ_CACHE,
    ) -> None:
        self.database_url = database_url
        self.events = Events()
        self._plugins = plugins
        self._database = database_for(database_url, may_provision=provision, read_cache=read_cache)
        self._migrations = MigrationCalls(
            self._database, plugins, allow_rollback=allow_rollback, events=self.events
        )
        self._looked_at: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._now: Callable[[], float] = time.monotonic  # the clock of the loops, of asyncio and of uvloop
        self._handlers: dict[type, Handler] = {
            DefineRequest: self._define,
            ListRequest: self._list,
            DescribeRequest: self._describe,
            DropRequest: self._drop,
            StatusRequest: self._migrate,
            ApplyRequest: self._migrate,
            RollbackRequest: self._migrate,
        }

    async def open(self) -> None:
        """Reach the database.

        Raises:
            Fault: `unavailable` when it is away; requests get the same until it is back.
        """
        await self._database.open()

    def trouble(self) -> str | None:
        """Return why the database cannot be reached now, None when it can; nothing is asked for it."""
        return self._database.trouble()

    async def close(self) -> None:
        """Answer what was taken, then let go of the database."""
        await self._migrations.close()
        await self._database.close()

    async def handle(
        self, plugin: str, tail: str, payload: bytes, headers: Mapping[str, str] | None
    ) -> Reply:
        """Return the reply to one request, and the headers of an error; it raises for no request.

        Args:
            plugin: Whose request it is, from the subject.
            tail: The operation, as `rows.insert`.
            payload: The body as it came.
            headers: `Storage-Timeout` in milliseconds, `Nats-Msg-Id`.
        """
        waiting: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        task = self.begin(plugin, tail, payload, headers, partial(_settle, waiting))
        try:
            return await waiting
        finally:
            if task is not None and not waiting.done():  # the caller has left
                task.cancel()

    def begin(
        self, plugin: str, tail: str, payload: bytes, headers: Mapping[str, str] | None, reply: Replier
    ) -> asyncio.Task[None] | None:
        """Do what `handle` does, and call `reply` with the reply and its headers; raises for no request.

        The usual request, of rows in a table that is known, goes to the database and comes back in the
        event loop's own callbacks. Any other takes a task, which is returned.
        """
        try:
            call = self._call(plugin, tail, payload, headers, reply)
            if call.key is not None:
                work = self._database.kept(plugin, call.limits, call.key, call.deadline)
                if work is not None:
                    self._database.start(plugin, call.limits, work, call)
                    return None
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
            reply(*_refusal(plugin, tail, error))
            return None
        return self.start(call)

    def start(self, call: _Call) -> asyncio.Task[None] | None:
        """Plan a call and run it; whatever hinders it is the reply."""
        plugin, stale = call.plugin, None
        try:
            call.request = decode_request(call.operation, call.payload)
            call.handler = self._handlers.get(call.operation.request)
            if call.handler is None and (tables := self._database.known_tables(plugin, call.limits)):
                try:
                    plan = self._database.planner.plan(call.request, tables, call.limits, plugin=plugin)
                except Fault as fault:
                    if not self._may_be_stale(plugin, fault):
                        raise
                    stale = tables
                else:
                    call.tables = tables
                    self._database.start(plugin, call.limits, call.work(plan, tables), call)
                    return None
        except Exception as error:  # noqa: BLE001 - the caller gets a reference, the log all of it
            call.reply(*_refusal(plugin, call.tail, error))
            return None
        return self.start_task(call, stale)

    def start_task(self, call: _Call, stale: Tables | None) -> asyncio.Task[None]:
        """Answer a call by a task; tables that did not fit it are looked at again first."""
        task = asyncio.get_running_loop().create_task(self._reply(call, stale))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _reply(self, call: _Call, stale: Tables | None) -> None:
        reply = call.reply
        try:
            if call.handler is not None:
                body = await call.handler(call.plugin, call.limits, call.request, call.deadline)
            else:
                body = await self._rows(call, stale)
        except Exception as error:  # noqa: BLE001 - as in `start`
            reply(*_refusal(call.plugin, call.tail, error))
        else:
            reply(body, None)

    def _call(
        self, plugin: str, tail: str, payload: bytes, headers: Mapping[str, str] | None, reply: Replier
    ) -> _Call:
        operation = OPERATIONS.get(tail)
        if operation is None:
            raise _unknown_operation(tail)
        check_plugin(plugin)
        limits = self._limits(plugin)
        if len(payload) > limits.request_size:
            raise Fault(
                "request_too_large",
                f"The request has {len(payload)} bytes; the plugin's limit is {limits.request_size}.",
                hint="Send fewer rows at a time, or raise request_size in plugins.toml.",
            )
        seconds = limits.statement_timeout
        message_id, digest = None, b""
        if tail.startswith("migrations."):
            seconds = timeout_from_headers(headers, limits.migration_timeout)
        elif headers:
            seconds = min(timeout_from_headers(headers, seconds), seconds)
            if operation.writes and (message_id := _message_id(headers)) is not None:
                digest = _digest(tail, payload)
        key = (tail, payload) if tail in _KEPT else None
        deadline = self._now() + seconds
        return _Call(self, plugin, tail, limits, operation, payload, deadline, message_id, digest, key, reply)

    def _limits(self, plugin: str) -> Limits:
        known = self._plugins.get(plugin)
        if known is not None and not known.rows:
            raise Fault(
                "not_provisioned",
                f"The plugin {plugin!r} has no rows.",
                hint="An operator gives it `rows = true` in plugins.toml.",
            )
        return self._plugins.limits_for(plugin) if known is None else known.limits

    async def _rows(self, call: _Call, stale: Tables | None) -> bytes:
        database, plugin, limits = self._database, call.plugin, call.limits
        tables = await database.tables(plugin, limits, stale=stale)
        for attempt in range(_MOST_REPLANS + 1):
            try:
                plan = database.planner.plan(call.request, tables, limits, plugin=plugin)
            except Fault as fault:
                if stale is not None or not self._may_be_stale(plugin, fault):
                    raise
                stale = tables
                tables = await database.tables(plugin, limits, stale=stale)
                plan = database.planner.plan(call.request, tables, limits, plugin=plugin)
            try:
                return await database.run(plugin, limits, call.work(plan, tables))
            except StaleSchemaError:
                if attempt == _MOST_REPLANS:
                    raise
                stale = tables
                tables = await database.tables(plugin, limits, stale=stale)
        raise AssertionError("unreachable")

    def _may_be_stale(self, plugin: str, fault: Fault) -> bool:
        """Whether a refusal may come of a change that another process made and this one has not heard of yet.

        A plugin that defines a table and uses it at once may be answered by two processes. What is missing
        is always looked for again; for other refusals a look a second is enough, and cannot be abused.
        """
        if fault.code in _MISSING:
            return True
        now = self._now()
        if now - self._looked_at.get(plugin, float("-inf")) < _SECONDS_BETWEEN_LOOKS:
            return False
        self._looked_at[plugin] = now
        return True

    async def _define(self, plugin: str, limits: Limits, request: DefineRequest, deadline: float) -> bytes:
        check_identifier(request.table, "table", "table")
        changes = await self._database.define(plugin, limits, request, deadline=deadline)
        return encode_reply(ChangesReply(changes=list(changes)))

    async def _migrate(self, plugin: str, limits: Limits, request: Any, deadline: float) -> bytes:
        return await self._migrations.answer(plugin, limits, request, deadline - self._now())

    async def _list(self, plugin: str, limits: Limits, request: ListRequest, deadline: float) -> bytes:
        del request, deadline
        return encode_reply(summaries(await self._database.sizes(plugin, limits)))

    async def _describe(
        self, plugin: str, limits: Limits, request: DescribeRequest, deadline: float
    ) -> bytes:
        del deadline
        known = await self._database.tables(plugin, limits)
        tables = await self._database.tables(plugin, limits, stale=known)  # as it is now
        table = tables.get(request.table)
        if table is None:
            check_identifier(request.table, "table", "table")
            near = nearest(request.table, tables)
            raise Fault(
                "table_not_found",
                f"There is no table {request.table!r}" + (f"; did you mean {near!r}?" if near else "."),
                path="table",
            )
        sizes = await self._database.sizes(plugin, limits)
        return encode_reply(describe(table, sizes.get(table.name)))

    async def _drop(self, plugin: str, limits: Limits, request: DropRequest, deadline: float) -> bytes:
        check_identifier(request.table, "table", "table")
        if request.confirm != request.table:
            raise Fault(
                "invalid_request",
                f"The member confirm is {request.confirm!r}, not the table's name.",
                path="confirm",
                hint=f"Repeat {request.table!r} to remove the table and its rows.",
            )
        await self._database.drop(plugin, limits, request.table, deadline=deadline)
        return encode_reply(EmptyReply())


class _Call:
    """A request that was found in order, the terms under which it runs, and who waits for its reply.

    It is the `Answer` of its own plan: a plan that did not fit the schema any more is made again.

    Attributes:
        operation: What the tail of the subject names.
        payload: The body as it came.
        request: The same, read; None until it is planned.
        handler: What answers it; None for rows, which are planned and run.
        deadline: The moment (the loop's clock) at which the caller stops waiting.
        message_id: The `Nats-Msg-Id` of a write, None without one.
        digest: Tells the payloads of one id apart.
        key: Under what its reply may be kept; None for what is no read of rows.
        reply: Takes the reply and its headers.
        tables: What its plan was made for.
    """

    __slots__ = (
        "_application",
        "_told",
        "deadline",
        "digest",
        "handler",
        "key",
        "limits",
        "message_id",
        "operation",
        "payload",
        "plugin",
        "reply",
        "request",
        "tables",
        "tail",
    )

    def __init__(  # noqa: PLR0917 - made once a request, in one place
        self,
        application: Application,
        plugin: str,
        tail: str,
        limits: Limits,
        operation: Operation[Any, Any],
        payload: bytes,
        deadline: float,
        message_id: str | None,
        digest: bytes,
        key: Key | None,
        reply: Replier,
    ) -> None:
        self._application = application
        self._told = False
        self.plugin = plugin
        self.tail = tail
        self.limits = limits
        self.operation = operation
        self.payload = payload
        self.deadline = deadline
        self.message_id = message_id
        self.digest = digest
        self.key = key
        self.reply = reply
        self.request: Any = None
        self.handler: Handler | None = None
        self.tables: Tables | None = None

    def work(self, plan: Plan, tables: Tables) -> Work:
        """Return a plan that was made for these tables, with the terms of the call."""
        if self.key is not None and plan.cacheable:
            return Work(plan, self.deadline, key=self.key, terms=(self.limits, tables))
        return Work(plan, self.deadline, self.message_id, self.digest)

    def done(self) -> bool:
        """Whether it was told what became of its plan."""
        return self._told

    def set_result(self, body: bytes, /) -> None:
        """Pass the reply on."""
        self._told = True
        self.reply(body, None)

    def set_exception(self, error: BaseException, /) -> None:
        """Pass the refusal on, or begin anew."""
        self._told = True
        if isinstance(error, StaleSchemaError):
            self._application.start_task(self, self.tables)
        elif isinstance(error, StaleReplyError):
            self._application.start(self._once_more())
        else:
            self.reply(*_refusal(self.plugin, self.tail, error))

    def _once_more(self) -> _Call:
        """Return the same call, told nothing yet."""
        return _Call(
            self._application,
            self.plugin,
            self.tail,
            self.limits,
            self.operation,
            self.payload,
            self.deadline,
            self.message_id,
            self.digest,
            self.key,
            self.reply,
        )


def _refusal(plugin: str, tail: str, error: BaseException) -> Reply:
    """Return what the caller is told of an error: of one that is ours a reference, and the log all of it."""
    fault = error if isinstance(error, Fault) else internal_fault(f"{tail} of {plugin!r}", error)
    return encode_fault(fault)


def _settle(waiting: asyncio.Future[Reply], body: bytes, headers: dict[str, str] | None) -> None:
    if not waiting.done():
        waiting.set_result((body, headers))


def _unknown_operation(tail: str) -> Fault:
    near = nearest(tail, OPERATIONS)
    return Fault(
        "invalid_request",
        f"There is no operation {tail[:80]!r}" + (f"; did you mean {near}?" if near else "."),
        hint="The operations are " + ", ".join(OPERATIONS) + ".",
    )


def _message_id(headers: Mapping[str, str]) -> str | None:
    message_id = headers.get(MESSAGE_ID_HEADER)
    if message_id is None:
        return None
    if not message_id or len(message_id) > _LONGEST_ID or not message_id.isprintable():
        raise Fault(
            "invalid_request",
            f"The header {MESSAGE_ID_HEADER} is no id.",
            hint=f"1 to {_LONGEST_ID} printable characters.",
        )
    return message_id


def _digest(tail: str, payload: bytes) -> bytes:
    return hashlib.blake2b(tail.encode() + b"\0" + payload, digest_size=16).digest()
