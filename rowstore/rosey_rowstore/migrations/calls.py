"""Requests for migrations: a run goes on when its caller has left, and ends with the service."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from rosey_rowstore.databases.base import Database
from rosey_rowstore.engine.model import Limits
from rosey_rowstore.events import Events
from rosey_rowstore.migrations.hosts import host_for
from rosey_rowstore.migrations.operations import Caller, Migrations
from rosey_rowstore.plugins import KnownPlugins
from rosey_rowstore.protocol import ApplyRequest, Fault, RollbackRequest, StatusRequest, encode_reply

__all__ = ["MigrationCalls"]

log = logging.getLogger("rosey_rowstore.migrations")

_CLOSING_SECONDS: Final = 1.0


class MigrationCalls:
    """Answers `migrations.*` for the application.

    Args:
        database: The application's.
        plugins: Where each plugin's folder is.
        allow_rollback: For plugins that do not say it themselves; False in production.
        events: Where runs are told.
    """

    def __init__(
        self, database: Database, plugins: KnownPlugins, *, allow_rollback: bool, events: Events
    ) -> None:
        self._migrations = Migrations(host_for(database), allow_rollback=allow_rollback, events=events)
        self._plugins = plugins
        self._tasks: set[asyncio.Task[bytes]] = set()

    async def answer(self, plugin: str, limits: Limits, request: Any, seconds: float) -> bytes:
        """Return the reply's bytes.

        Args:
            plugin: Whose.
            limits: Its limits.
            request: Decoded.
            seconds: How long the caller waits.

        Raises:
            Fault: Of the run, or `timeout` when it goes on without its caller.
        """
        task = asyncio.ensure_future(self._run(plugin, limits, request, seconds))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise Fault(
                "timeout",
                "The migration still runs, and goes on.",
                hint="`migrations.status` tells when it has ended.",
            )
        return task.result()

    def _ended(self, task: asyncio.Task[bytes]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # told to its caller, or in the records when that one left

    async def _run(self, plugin: str, limits: Limits, request: Any, seconds: float) -> bytes:
        found = self._plugins.get(plugin)
        folder = None if found is None else found.migrations
        migrations = self._migrations
        if isinstance(request, StatusRequest):
            return encode_reply(await migrations.status(plugin, limits, folder))
        caller = Caller(
            who=f"plugin {plugin}",
            deadline=asyncio.get_running_loop().time() + seconds,
            may_roll_back=None if found is None else found.allow_rollback,
        )
        if isinstance(request, ApplyRequest):
            return encode_reply(await migrations.apply(plugin, limits, folder, request, caller))
        assert isinstance(request, RollbackRequest)  # noqa: S101 - there are three
        return encode_reply(await migrations.rollback(plugin, limits, folder, request, caller))

    async def close(self) -> None:
        """Give what runs a moment, then stop it: its transaction is undone, its records are settled later."""
        tasks = set(self._tasks)
        if not tasks:
            return
        _, left = await asyncio.wait(tasks, timeout=_CLOSING_SECONDS)
        for task in left:
            task.cancel()
        if left:
            log.warning("stopped %d migration runs", len(left))
            await asyncio.wait(left)
