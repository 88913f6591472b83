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
from rosey_rowstore.databases.base import StaleSchemaError, Work
from rosey_rowstore.databases.describe import describe, summaries
from rosey_rowstore.databases.failures import internal_fault
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

__all__ = ["Application"]

log = logging.getLogger("rosey_rowstore")

Reply = tuple[bytes, dict[str, str] | None]
Replier = Callable[[bytes, dict[str, str] | None], None]
Tables = Mapping[str, Table]
Handler = Callable[[str, Limits, Any, float], Awaitable[bytes]]

_LONGEST_ID: Final = 256
_MISSING: Final = ("table_not_found", "column_not_found")
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

    Raises:
        Fault: `invalid_request` when the URL is neither of Postgres nor of SQLite.
    """

    def __init__(
        self, database_url: str, plugins: KnownPlugins, *, provision: bool, allow_rollback: bool = True
    ) -> None:
        self.database_url = database_url
        self.events = Events()
        self._plugins = plugins
        self._database = database_for(database_url, may_provision=provision)
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
        stale = None
        try:
            call = self._call(plugin, tail, payload, headers, reply)
            if call.handler is None and (tables := self._database.known_tables(plugin, call.limits)):
                try:
                    plan = self._database.planner.plan(call.request, tables, call.limits, plugin=plugin)
                except Fault as fault:
                    if not self._may_be_stale(plugin, fault):
                        raise
                    stale = tables
                else:
                    call.tables = tables
                    self._database.start(plugin, call.limits, call.work(plan), call)
                    return None
        except Fault as fault:
            reply(*encode_fault(fault))
            return None
        except Exception as error:  # noqa: BLE001 - the caller gets a reference, the log all of it
            reply(*encode_fault(internal_fault(f"{tail} of {plugin!r}", error)))
            return None
        return self._begin_task(call, stale)

    def _begin_task(self, call: _Call, stale: Tables | None) -> asyncio.Task[None]:
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
        except Fault as fault:
            reply(*encode_fault(fault))
        except Exception as error:  # noqa: BLE001 - the caller gets a reference, the log all of it
            reply(*encode_fault(internal_fault(f"{call.tail} of {call.plugin!r}", error)))
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
        request = decode_request(operation, payload)
        seconds = limits.statement_timeout
        message_id, digest = None, b""
        if tail.startswith("migrations."):
            seconds = timeout_from_headers(headers, limits.migration_timeout)
        elif headers:
            seconds = min(timeout_from_headers(headers, seconds), seconds)
            if operation.writes and (message_id := _message_id(headers)) is not None:
                digest = _digest(tail, payload)
        handler = self._handlers.get(operation.request)
        deadline = self._now() + seconds
        return _Call(
            self._begin_task, plugin, tail, limits, request, handler, deadline, message_id, digest, reply
        )

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
                return await database.run(plugin, limits, call.work(plan))
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
        handler: What answers it; None for rows, which are planned and run.
        deadline: The moment (the loop's clock) at which the caller stops waiting.
        message_id: The `Nats-Msg-Id` of a write, None without one.
        digest: Tells the payloads of one id apart.
        reply: Takes the reply and its headers.
        tables: What its plan was made for.
    """

    __slots__ = (
        "_again",
        "_told",
        "deadline",
        "digest",
        "handler",
        "limits",
        "message_id",
        "plugin",
        "reply",
        "request",
        "tables",
        "tail",
    )

    def __init__(  # noqa: PLR0917 - made once a request, in one place
        self,
        again: Callable[[_Call, Tables | None], object],
        plugin: str,
        tail: str,
        limits: Limits,
        request: Any,
        handler: Handler | None,
        deadline: float,
        message_id: str | None,
        digest: bytes,
        reply: Replier,
    ) -> None:
        self._again = again
        self._told = False
        self.plugin = plugin
        self.tail = tail
        self.limits = limits
        self.request = request
        self.handler = handler
        self.deadline = deadline
        self.message_id = message_id
        self.digest = digest
        self.reply = reply
        self.tables: Tables | None = None

    def work(self, plan: Plan) -> Work:
        """Return a plan with these terms."""
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
            self._again(self, self.tables)
        elif isinstance(error, Fault):
            self.reply(*encode_fault(error))
        else:
            self.reply(*encode_fault(internal_fault(f"{self.tail} of {self.plugin!r}", error)))


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
