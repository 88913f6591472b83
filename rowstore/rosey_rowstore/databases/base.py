"""The seam between the application, which knows requests, and a database, which runs plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import attrs
from attrs import frozen
from msgspec import Struct

from rosey_rowstore.databases.readcache import Key, Terms
from rosey_rowstore.engine.model import Limits, Result, Table
from rosey_rowstore.engine.planner import Planner
from rosey_rowstore.engine.plans import Plan
from rosey_rowstore.protocol import DefineRequest, Fault, nearest

__all__ = [
    "REPLY_KEPT_SECONDS",
    "Answer",
    "Database",
    "Size",
    "StaleReplyError",
    "StaleSchemaError",
    "Work",
    "as_before",
    "check_references",
    "check_unreferenced",
    "placed",
    "same_request",
    "whole_reply",
]

REPLY_KEPT_SECONDS: Final = 600
"""How long the reply to a `Nats-Msg-Id` is kept, as the contract says."""


_OWN_TROUBLE: Final = (
    500  # from here on a number speaks of the service, and no place in a request is at fault
)


class StaleSchemaError(Exception):
    """A statement did not fit the schema any more; nothing was done, and a fresh reflection may help.

    The text of the error names the column or table, never the statement.
    """


class StaleReplyError(Exception):
    """A kept reply is not true any more, or nobody could say; the request is to be planned and run."""


@frozen(kw_only=True)
class Size:
    """The database's own estimates of a table: its rows, and its bytes with indexes."""

    rows: int
    bytes: int


class Answer(Protocol):
    """Who waits for a reply; a future of asyncio is one. It is told once, and does not raise."""

    def done(self) -> bool:
        """Whether it was told, or waits no longer."""

    def set_result(self, body: bytes, /) -> None:
        """Take the reply."""

    def set_exception(self, error: BaseException, /) -> None:
        """Take a `Fault`, a `StaleSchemaError`, a `StaleReplyError`, or a fault of the service's own."""


class Work(Struct, eq=False):
    """One request on its way through a database.

    Attributes:
        plan: What to run.
        deadline: The moment (the loop's clock) at which the caller stops waiting.
        message_id: The `Nats-Msg-Id` of a write, None without one.
        digest: Tells the payloads of one id apart.
        key: Under what the reply may be kept; None where it may not.
        terms: What it was planned with, where there is a key.
        kept: The reply, where one is kept that may still be true; there is nothing to run then.
        era: In which it was found.
    """

    plan: Plan
    deadline: float
    message_id: str | None = None
    digest: bytes = b""
    key: Key | None = None
    terms: Terms | None = None
    kept: bytes | None = None
    era: object = None

    def complete(self, results: Sequence[Result]) -> bytes:
        """Return the reply's bytes; a `Fault` out of it rolls the work back."""
        return whole_reply(self.plan.finish(results))


def whole_reply(result: bytes) -> bytes:
    """Return the reply's bytes around the JSON of a result."""
    return b'{"result":%b}' % result


def placed(fault: Fault, plan: Plan, statement: int) -> Fault:
    """Return what the database refused with the place in the request that the statement comes from."""
    refused = fault.number < _OWN_TROUBLE and 0 <= statement < len(plan.places)
    return fault.at(plan.places[statement]) if refused else fault


def same_request(work: Work, digest: bytes) -> None:
    """Check that the reply stored for the work's id is that of the same request.

    Raises:
        Fault: `invalid_request`.
    """
    if digest != work.digest:
        raise Fault(
            "invalid_request",
            f"The Nats-Msg-Id {work.message_id!r} came with another request within ten minutes.",
            hint="An id belongs to one request; repeat the request unchanged, or give it a new id.",
        )


def check_references(request: DefineRequest, tables: Mapping[str, Table]) -> None:
    """Check that what a definition's columns reference is there, with an `id`.

    Raises:
        Fault: `table_not_found`, or `schema_conflict` when the table has no `id` as its primary key.
    """
    for index, column in enumerate(request.columns):
        name = column.references
        if name is None or name == request.table:
            continue
        path = f"columns[{index}].references"
        if name not in tables:
            near = nearest(name, tables)
            raise Fault(
                "table_not_found",
                f"There is no table {name!r} to refer to" + (f"; did you mean {near!r}?" if near else "."),
                path=path,
            )
        if tables[name].primary_key != ("id",):
            raise Fault("schema_conflict", f"The table {name!r} has no id to refer to.", path=path)


def check_unreferenced(name: str, tables: Mapping[str, Table]) -> None:
    """Check that a table is there and may be dropped.

    Raises:
        Fault: `table_not_found`, or `foreign_key_violation` when other tables refer to it.
    """
    if name not in tables:
        near = nearest(name, tables)
        raise Fault(
            "table_not_found",
            f"There is no table {name!r}" + (f"; did you mean {near!r}?" if near else "."),
            path="table",
        )
    others = sorted(
        table.name
        for table in tables.values()
        if table.name != name and any(column.references == name for column in table.columns)
    )
    if others:
        raise Fault(
            "foreign_key_violation",
            f"The table {name!r} is referred to by {', '.join(others)}.",
            hint="Drop those first.",
        )


def as_before(before: Table | None, found: Table, generation: int) -> Table:
    """Return the table known before when it is the same, so that what was compiled for it stays."""
    if before is not None and attrs.evolve(before, generation=0) == found:
        return before
    return attrs.evolve(found, generation=generation)


class Database(Protocol):
    """One database with the tables of many plugins; every method may raise a `Fault`."""

    @property
    def planner(self) -> Planner:
        """The planner whose plans this database runs."""

    async def open(self) -> None:
        """Reach the database; `unavailable` when it is away, and the next request tries again."""

    def trouble(self) -> str | None:
        """Return why the database cannot be reached now, None when it can; from what is known, at once."""

    async def close(self) -> None:
        """Answer what runs and waits, then let go of every connection."""

    async def tables(
        self, plugin: str, limits: Limits, *, stale: Mapping[str, Table] | None = None
    ) -> Mapping[str, Table]:
        """Return the plugin's tables by name, reflected once and again after each change.

        Args:
            plugin: Whose.
            limits: The plugin's.
            stale: Tables that did not fit: these very ones are not given again unlooked at.
        """

    def known_tables(self, plugin: str, limits: Limits) -> Mapping[str, Table] | None:
        """Return what `tables` would, where that takes no waiting; else None."""

    def kept(self, plugin: str, limits: Limits, key: Key, deadline: float) -> Work | None:
        """Return the work of giving a kept reply again, where there is one that may still be true."""

    async def run(self, plugin: str, limits: Limits, work: Work) -> bytes:
        """Run a plan and return the reply's bytes; `StaleSchemaError` asks for a plan made afresh."""

    def start(self, plugin: str, limits: Limits, work: Work, answer: Answer) -> None:
        """Run a plan of `known_tables` as `run` does; `answer` is told instead of a caller that awaits."""

    async def define(
        self, plugin: str, limits: Limits, request: DefineRequest, *, deadline: float
    ) -> list[str]:
        """Make a table as the request says, in one transaction; return the changes."""

    async def drop(self, plugin: str, limits: Limits, table: str, *, deadline: float) -> None:
        """Remove a table with its rows."""

    async def sizes(self, plugin: str, limits: Limits) -> Mapping[str, Size]:
        """Return the estimates of every table of the plugin."""
