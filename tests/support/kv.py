"""One plugin's bucket on either backend, and as many clients of it as a test asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from rosey_kvstore import KV, Backend, BucketLimits, Change, Watch
from rosey_kvstore.sqlite import SqliteBackend
from support.secure import Installation

MODES = ("sqlite", "jetstream", "secure")


class Place:
    """A bucket of its own; every `kv()` is a client with a connection, or a file handle, of its own."""

    def __init__(self, mode: str, plugin: str, where: str, installation: Installation | None = None) -> None:
        self.mode = mode
        self.plugin = plugin
        self.limits = BucketLimits()
        self._where = where
        self._installation = installation
        self._stack = AsyncExitStack()

    @property
    def bucket(self) -> str:
        return f"plugin_{self.plugin}"

    async def backend(self) -> Backend:
        """A client below JSON: what an operator or another program would write."""
        if self.mode == "sqlite":
            backend: Backend = SqliteBackend(Path(self._where), self.limits)
        else:
            from rosey_kvstore.connection import Connection
            from rosey_kvstore.jetstream import JetStreamBackend

            secure = self._installation
            if secure is not None and self.plugin not in secure.plugins:
                limits = self.limits
                await secure.add(
                    self.plugin,
                    value_size=limits.value_size,
                    bucket_size=limits.bucket_size,
                    history=limits.history,
                )
            connection = await Connection.open(
                [self._where],
                credentials=secure.credentials(self.plugin) if secure else None,
                name=f"test {self.plugin}",
            )
            self._stack.push_async_callback(connection.close)
            create = None if secure else self.limits
            backend = JetStreamBackend(connection, bucket=self.bucket, create=create)
        await backend.open()
        self._stack.push_async_callback(backend.close)
        return backend

    async def kv(self) -> KV:
        """A client as a plugin has it."""
        return KV(await self.backend(), plugin=self.plugin)

    async def close(self) -> None:
        await self._stack.aclose()


async def take(watch: Watch | AsyncIterator[Any], count: int, *, within: float = 60.0) -> list[Any]:
    """The next `count` changes."""
    async with asyncio.timeout(within):
        return [await anext(watch) for _ in range(count)]


async def until(check: Callable[[], Awaitable[bool]], *, within: float = 60.0) -> None:
    """Wait until `check` says so."""
    async with asyncio.timeout(within):
        while not await check():  # what is waited for happens in a server
            await asyncio.sleep(0.02)


def told(changes: list[Change]) -> list[tuple[str, str, Any]]:
    """What changes say, without revisions and times."""
    return [(change.operation, change.key, change.value) for change in changes]
