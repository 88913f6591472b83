"""The seam between the application, which knows requests, and a database, which runs plans."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from attrs import define, frozen

from rosey_rowstore.engine.model import Limits, Plan, Result, Table
from rosey_rowstore.protocol import DefineRequest, Fault

__all__ = ["REPLY_KEPT_SECONDS", "Database", "Size", "StaleSchemaError", "Work", "same_request"]

REPLY_KEPT_SECONDS: Final = 600
"""How long the reply to a `Nats-Msg-Id` is kept, as the contract says."""


class StaleSchemaError(Exception):
    """A statement did not fit the schema any more; nothing was done, and a fresh reflection may help.

    The text of the error names the column or table, never the statement.
    """


@frozen(kw_only=True)
class Size:
    """The database's own estimates of a table: its rows, and its bytes with indexes."""

    rows: int
    bytes: int


@define(kw_only=True, eq=False)
class Work:
    """One request on its way through a database.

    Attributes:
        plan: What to run.
        complete: Turns the results into the reply's bytes; a `Fault` out of it rolls the work back.
        deadline: The moment (the loop's clock) at which the caller stops waiting.
        message_id: The `Nats-Msg-Id` of a write, None without one.
        digest: Tells the payloads of one id apart.
    """

    plan: Plan
    complete: Callable[[Sequence[Result]], bytes]
    deadline: float
    message_id: str | None = None
    digest: bytes = b""


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


class Database(Protocol):
    """One database with the tables of many plugins; every method may raise a `Fault`."""

    planner_dialect: Any

    async def open(self) -> None:
        """Reach the database and find out what it is; `unavailable` when it is away."""

    async def close(self) -> None:
        """Finish what runs, then let go of every connection."""

    async def tables(self, plugin: str, limits: Limits, *, refresh: bool = False) -> Mapping[str, Table]:
        """Return the plugin's tables by name, reflected once and again after each change."""

    async def run(self, plugin: str, limits: Limits, work: Work) -> bytes:
        """Run a plan and return the reply's bytes; `StaleSchemaError` asks for a plan made afresh."""

    async def define(
        self, plugin: str, limits: Limits, request: DefineRequest, *, deadline: float
    ) -> list[str]:
        """Make a table as the request says, in one transaction; return the changes."""

    async def drop(self, plugin: str, limits: Limits, table: str, *, deadline: float) -> None:
        """Remove a table with its rows."""

    async def sizes(self, plugin: str, limits: Limits) -> Mapping[str, Size]:
        """Return the estimates of every table of the plugin."""
