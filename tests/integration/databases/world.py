"""A plugin on a real Postgres, and plans made by hand: no request, no planner."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import psycopg
from attrs import define
from psycopg import sql

from rosey_rowstore.databases.base import Work
from rosey_rowstore.databases.postgres import logins
from rosey_rowstore.databases.postgres.connections import Connections
from rosey_rowstore.databases.postgres.lanes import PluginLanes
from rosey_rowstore.engine.model import Result, Statement
from rosey_rowstore.engine.plans import Plan
from rosey_rowstore.protocol import owned_name

INSERT = "INSERT INTO t (n) VALUES ($1::bigint) RETURNING id"
COUNT = "SELECT count(*) FROM t"


def work(
    *statements: str | tuple[str, Sequence[Any]],
    writes: bool = False,
    atomic: bool = False,
    timeout: float = 20.0,
    message_id: str | None = None,
    digest: bytes = b"0123456789abcdef",
) -> Work:
    """A plan whose reply is the text of its rows."""
    made = tuple(Statement(s) if isinstance(s, str) else Statement(*s) for s in statements)

    def finish(results: Sequence[Result]) -> bytes:
        return repr([list(result.rows) for result in results]).encode()

    return Work(
        plan=Plan(statements=made, finish=finish, writes=writes, atomic=atomic, tables=("t",)),
        deadline=asyncio.get_running_loop().time() + timeout,
        message_id=message_id,
        digest=digest,
    )


def insert(n: int, **options: Any) -> Work:
    """One row whose n is unique."""
    return work((INSERT, (n,)), writes=True, **options)


@define
class World:
    """One provisioned plugin with the table t (n is unique), its lanes, and the superuser's view of it."""

    dsn: str
    plugin: str
    found: logins.Logins
    connections: Connections
    lanes: PluginLanes

    def more_lanes(self) -> PluginLanes:
        """Lanes as another service process would have them."""
        return PluginLanes(self.connections, self.plugin)

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask as the superuser, in the plugin's schema."""
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as connection:
            schema = sql.Identifier(owned_name(self.plugin))
            await connection.execute(sql.SQL("SET search_path TO {}").format(schema))
            cursor = await connection.execute(query.encode())
            return await cursor.fetchall() if cursor.description else []

    async def count(self) -> int:
        """How many rows t holds."""
        return int((await self.rows(COUNT))[0][0])
