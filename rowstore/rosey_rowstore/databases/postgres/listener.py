"""How the service processes tell one another that a schema changed: NOTIFY, which commits with the change.

A message on NATS could be lost, or arrive before the change is visible; a notification does neither. What
was changed while the listening connection was away is unknown, so everything counts as changed then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection

from rosey_rowstore.protocol import Fault

__all__ = ["CHANNEL", "Listener", "announce"]

log = logging.getLogger("rosey_rowstore.databases")

CHANNEL: Final = "rosey_schema"
_RETRY_SECONDS: Final = (0.1, 0.5, 1.0, 2.0)
_ALIVE_SECONDS: Final = 5.0
_SILENT_SECONDS: Final = 2 * _ALIVE_SECONDS
"""Without an answer for so long the server counts as away, though the connection stands."""


async def announce(connection: AsyncConnection[Any], plugin: str) -> None:
    """Tell every service process of a changed schema, when the transaction of `connection` commits."""
    await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, plugin))


class Listener:
    """Listens on a connection of its own.

    Args:
        connect: Opens the connection.
        changed: Called with the plugin's name, or None when any may have changed.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[AsyncConnection[Any]]], changed: Callable[[str | None], None]
    ) -> None:
        self._connect = connect
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        self._heard_at = 0.0
        self.listening = False

    @property
    def hears(self) -> bool:
        """Whether the connection stands, and the server answered on it lately."""
        return self.listening and time.monotonic() - self._heard_at < _SILENT_SECONDS

    def start(self) -> None:
        """Listen from now on, through every loss of the connection."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Stop listening."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        attempt = 0
        while True:
            try:
                connection = await self._connect()
            except Fault:
                await asyncio.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
                attempt += 1
                continue
            attempt = 0
            try:
                await self._listen(connection)
            except psycopg.Error as error:
                log.warning("the listening connection was lost: %s", error)
            finally:
                self.listening = False
                await connection.close()
            await asyncio.sleep(_RETRY_SECONDS[0])

    async def _listen(self, connection: AsyncConnection[Any]) -> None:
        await connection.execute(f"LISTEN {CHANNEL}".encode())
        self._heard_at = time.monotonic()
        self.listening = True
        self._changed(None)
        while True:
            async for notification in connection.notifies(timeout=_ALIVE_SECONDS):
                self._changed(notification.payload or None)
            await connection.execute("SELECT 1")  # a connection that died silently shows here
            self._heard_at = time.monotonic()
