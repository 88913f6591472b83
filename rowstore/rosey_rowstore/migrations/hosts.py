"""What a database gives to migrations beside the child's connection: a lock, records, the schema as it is."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from rosey_rowstore.databases.base import Database
from rosey_rowstore.engine.model import Dialect, Limits
from rosey_rowstore.migrations.snapshot import Snapshot

__all__ = ["CHILD_LOCK_SECONDS", "RECORDS_DDL", "Host", "Session", "host_for", "until"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.25
CHILD_LOCK_SECONDS: Final = 10.0
_RUNS: Final = (
    "CREATE TABLE IF NOT EXISTS {runs} (id text PRIMARY KEY, plugin text NOT NULL, direction text NOT NULL,"
    " start_revision text, target_revision text, who text NOT NULL, started_at text NOT NULL,"
    " seconds double precision, result text NOT NULL, error text, snapshot text, progress text)"
)
_STEPS: Final = (
    "CREATE TABLE IF NOT EXISTS {steps} (run text NOT NULL, number integer NOT NULL, plugin text NOT NULL,"
    " revision text NOT NULL, down_revision text, message text NOT NULL, sha256 text NOT NULL,"
    " source text NOT NULL, transactional integer NOT NULL, leaves text, seconds double precision, sql text,"
    " result text NOT NULL, PRIMARY KEY (run, number))"
)
RECORDS_DDL: Final = (_RUNS, _STEPS)


class Session(Protocol):
    """The service's own connection for one plugin's migrations."""

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement on the records; `{runs}` and `{steps}` are their tables, `?` its parameters."""

    async def lock(self, seconds: float) -> bool:
        """Take the plugin's lock for the life of this session; False when others hold it so long."""

    async def tell(self, run: str, progress: str) -> None:
        """Let the sessions of other processes see how far a run is, while it is."""

    async def told(self, run: str) -> str | None:
        """Return what `tell` said last of a run."""

    async def version(self) -> str | None:
        """Return the revision at which the schema stands."""

    async def snapshot(self) -> Snapshot:
        """Return the schema as it is."""

    async def child(self, seconds: float) -> tuple[dict[str, Any], tuple[int, ...]]:
        """Return what the child needs to connect, and the descriptors it keeps."""


class Host(Protocol):
    """One database with many plugins."""

    @property
    def dialect(self) -> Dialect:
        """Which database it is."""

    def session(self, plugin: str, limits: Limits) -> contextlib.AbstractAsyncContextManager[Session]:
        """Open a session; the plugin is provisioned where that is allowed, else `not_provisioned`."""

    def changed(self, plugin: str) -> None:
        """Let this process look at the schema again; the others are told by the database."""


def host_for(database: Database) -> Host:
    """Return the host of an application's database."""
    from rosey_rowstore.databases.sqlite.database import SqliteDatabase  # noqa: PLC0415 - one of the two is used

    if isinstance(database, SqliteDatabase):
        from rosey_rowstore.migrations.host_sqlite import SqliteHost  # noqa: PLC0415 - as above

        return SqliteHost(database)
    from rosey_rowstore.databases.postgres.database import PostgresDatabase  # noqa: PLC0415 - as above
    from rosey_rowstore.migrations.host_postgres import PostgresHost  # noqa: PLC0415 - as above

    if isinstance(database, PostgresDatabase):
        return PostgresHost(database)
    raise TypeError(f"no migrations on {type(database).__name__}")


async def until(attempt: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Ask again and again for so long.

    Nobody waits inside of a statement: CREATE INDEX CONCURRENTLY waits for those.
    """
    deadline, pause = time.monotonic() + seconds, _FIRST_PAUSE
    while not await attempt():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 1.5, _LONGEST_PAUSE)
    return True
