"""The row service without its transport: a request's bytes in, a reply's bytes out.

The service process binds it to NATS; local mode calls it in process. Whatever comes in, an answer goes
out: a result, or an error of the contract.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from attrs import frozen

from rosey_rowstore.databases.base import Database, StaleSchemaError, Work
from rosey_rowstore.databases.describe import describe, summaries
from rosey_rowstore.databases.failures import internal_fault
from rosey_rowstore.engine.model import Limits, Plan
from rosey_rowstore.plugins import KnownPlugins
from rosey_rowstore.protocol import (
    MESSAGE_ID_HEADER,
    OPERATIONS,
    ChangesReply,
    DefineRequest,
    DescribeRequest,
    DropRequest,
    EmptyReply,
    Fault,
    ListRequest,
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

Answer = tuple[bytes, dict[str, str] | None]

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

    Raises:
        Fault: `invalid_request` when the URL is neither of Postgres nor of SQLite.
    """

    def __init__(self, database_url: str, plugins: KnownPlugins, *, provision: bool) -> None:
        self.database_url = database_url
        self._plugins = plugins
        self._database = _database(database_url, may_provision=provision)
        self._looked_at: dict[str, float] = {}
        self._handlers: dict[type, Callable[[str, Limits, Any, float], Awaitable[bytes]]] = {
            DefineRequest: self._define,
            ListRequest: self._list,
            DescribeRequest: self._describe,
            DropRequest: self._drop,
        }

    async def open(self) -> None:
        """Reach the database.

        Raises:
            Fault: `unavailable` when it is away; requests get the same until it is back.
        """
        await self._database.open()

    async def close(self) -> None:
        """Answer what was taken, then let go of the database."""
        await self._database.close()

    async def handle(
        self, plugin: str, tail: str, payload: bytes, headers: Mapping[str, str] | None
    ) -> Answer:
        """Return the reply to one request, and the headers of an error; it raises for no request.

        Args:
            plugin: Whose request it is, from the subject.
            tail: The operation, as `rows.insert`.
            payload: The body as it came.
            headers: `Storage-Timeout` in milliseconds, `Nats-Msg-Id`.
        """
        try:
            return await self._answer(plugin, tail, payload, headers), None
        except Fault as fault:
            return encode_fault(fault)
        except Exception as error:  # noqa: BLE001 - the caller gets a reference, the log all of it
            return encode_fault(internal_fault(f"{tail} of {plugin!r}", error))

    async def _answer(
        self, plugin: str, tail: str, payload: bytes, headers: Mapping[str, str] | None
    ) -> bytes:
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
        if headers:
            seconds = min(timeout_from_headers(headers, limits.statement_timeout), limits.statement_timeout)
        else:
            seconds = limits.statement_timeout
        deadline = asyncio.get_running_loop().time() + seconds
        handler = self._handlers.get(operation.request)
        if handler is not None:
            return await handler(plugin, limits, request, deadline)
        if tail.startswith("rows."):
            message_id = _message_id(headers) if operation.writes and headers else None
            digest = b"" if message_id is None else _digest(tail, payload)
            make = _WorkMaker(deadline=deadline, message_id=message_id, digest=digest)
            return await self._rows(plugin, limits, request, make)
        raise Fault("invalid_request", f"{tail} is not served by this version.")

    def _limits(self, plugin: str) -> Limits:
        known = self._plugins.get(plugin)
        if known is not None and not known.rows:
            raise Fault(
                "not_provisioned",
                f"The plugin {plugin!r} has no rows.",
                hint="An operator gives it `rows = true` in plugins.toml.",
            )
        return self._plugins.limits_for(plugin)

    async def _rows(
        self,
        plugin: str,
        limits: Limits,
        request: Any,
        make: _WorkMaker,
    ) -> bytes:
        database = self._database
        tables = await database.tables(plugin, limits)
        for attempt in range(_MOST_REPLANS + 1):
            try:
                plan = database.planner.plan(request, tables, limits, plugin=plugin)
            except Fault as fault:
                if attempt or not self._may_be_stale(plugin, fault):
                    raise
                tables = await database.tables(plugin, limits, stale=tables)
                plan = database.planner.plan(request, tables, limits, plugin=plugin)
            try:
                return await database.run(plugin, limits, make.work(plan))
            except StaleSchemaError:
                if attempt == _MOST_REPLANS:
                    raise
                tables = await database.tables(plugin, limits, stale=tables)
        raise AssertionError("unreachable")

    def _may_be_stale(self, plugin: str, fault: Fault) -> bool:
        """Whether a refusal may come of a change that another process made and this one has not heard of yet.

        A plugin that defines a table and uses it at once may be answered by two processes. What is missing
        is always looked for again; for other refusals a look a second is enough, and cannot be abused.
        """
        if fault.code in _MISSING:
            return True
        now = asyncio.get_running_loop().time()
        if now - self._looked_at.get(plugin, float("-inf")) < _SECONDS_BETWEEN_LOOKS:
            return False
        self._looked_at[plugin] = now
        return True

    async def _define(self, plugin: str, limits: Limits, request: DefineRequest, deadline: float) -> bytes:
        check_identifier(request.table, "table", "table")
        changes = await self._database.define(plugin, limits, request, deadline=deadline)
        return encode_reply(ChangesReply(changes=list(changes)))

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


@frozen(kw_only=True)
class _WorkMaker:
    """What a request brings beside its body; a plan made again runs under the same terms."""

    deadline: float
    message_id: str | None
    digest: bytes

    def work(self, plan: Plan) -> Work:
        """Return a plan with these terms."""
        finish = plan.finish
        return Work(
            plan=plan,
            complete=lambda results: encode_reply(finish(results)),
            deadline=self.deadline,
            message_id=self.message_id,
            digest=self.digest,
        )


def _database(url: str, *, may_provision: bool) -> Database:
    scheme = urlsplit(url).scheme
    if scheme in ("postgresql", "postgres"):
        # Late: who keeps rows in SQLite needs no driver for Postgres, and no time to load it.
        from rosey_rowstore.databases.postgres.database import PostgresDatabase  # noqa: PLC0415

        return PostgresDatabase(url, may_provision=may_provision)
    if scheme == "sqlite":
        from rosey_rowstore.databases.sqlite.database import SqliteDatabase  # noqa: PLC0415 - as above

        place = url.partition(":")[2].removeprefix("//")
        if place:
            return SqliteDatabase(None if place == ":memory:" else Path(place), may_provision=may_provision)
    raise Fault(
        "invalid_request",
        "The database URL names neither Postgres nor SQLite.",
        hint="As postgresql://user@host/database, sqlite:FOLDER or sqlite::memory:.",
    )


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
