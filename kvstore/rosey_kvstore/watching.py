"""A watch as a plugin holds it: an iterator, and a context manager that says when it stands."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from rosey_kvstore.backend import Feed, Record
from rosey_kvstore.entries import Change
from rosey_kvstore.errors import StorageError

__all__ = ["Watch"]


class Watch:
    """Changes, in order, each exactly once; made by `KV.watch`."""

    def __init__(
        self,
        begin: Callable[[], Awaitable[Feed]],
        change_of: Callable[[Record], Change],
        tell: Callable[[StorageError], None],
    ) -> None:
        self._begin = begin
        self._change_of = change_of
        self._tell = tell
        self._feed: Feed | None = None
        self._starting = asyncio.Lock()
        self._ended = False

    async def start(self) -> None:
        """Return once every change made after this moment will be told."""
        async with self._starting:
            if self._feed is None and not self._ended:
                try:
                    feed = await self._begin()
                    await feed.start()
                except StorageError as error:
                    self._tell(error)
                    raise
                self._feed = feed

    async def aclose(self) -> None:
        """End it and remove its consumer. Closing twice is no error."""
        self._ended = True
        feed, self._feed = self._feed, None
        if feed is not None:
            await feed.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        if self._feed is None:
            await self.start()
        feed = self._feed
        if feed is None:
            raise StopAsyncIteration
        try:
            record = await feed.next()
        except StorageError as error:
            await self.aclose()
            self._tell(error)
            raise
        if record is None:
            await self.aclose()
            raise StopAsyncIteration
        return self._change_of(record)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
