"""The links of every plugin under one cap: opened when needed, the least recently used closed for another."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from psycopg import AsyncConnection

from rosey_rowstore.databases.postgres.link import Link
from rosey_rowstore.protocol import Fault

__all__ = ["Connections", "Holder"]

_LONGEST_CONNECT: Final = 5.0

Connect = Callable[[str, float], Awaitable[AsyncConnection[Any]]]


class Holder(Protocol):
    """Who holds a link and can be asked to let it go while it is idle."""

    async def give_up(self) -> None:
        """Close the link through `Connections.close`, unless it is in use again."""


class Connections:
    """At most `cap` links at a time.

    Args:
        connect: Opens a connection for a plugin within so many seconds.
        cap: How many links may stand.
    """

    def __init__(self, connect: Connect, cap: int) -> None:
        self._connect = connect
        self._cap = cap
        self._count = 0
        self._idle: OrderedDict[Holder, None] = OrderedDict()
        self._busy: set[Holder] = set()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> int:
        """How many links stand or are being opened."""
        return self._count

    async def open(self, holder: Holder, plugin: str, deadline: float) -> Link:
        """Return a new link for `holder`, closing an idle one of another where the cap is reached.

        Raises:
            Fault: `overloaded` when every link is busy until the deadline; what `connect` raises.
        """
        self._idle.pop(holder, None)
        await self._room(deadline)
        self._count += 1
        remaining = deadline - asyncio.get_running_loop().time()
        try:
            connection = await self._connect(plugin, max(0.05, min(remaining, _LONGEST_CONNECT)))
            return Link(connection)
        except BaseException:
            self._freed()
            raise

    async def _room(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        while self._count >= self._cap:
            if self._idle:
                oldest, _ = self._idle.popitem(last=False)
                await oldest.give_up()
                continue
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiters.append(waiter)
            try:
                async with asyncio.timeout_at(deadline):
                    await waiter
            except TimeoutError:
                raise Fault(
                    "overloaded",
                    "Every database connection is busy with other plugins; nothing was done.",
                    hint="Ask again in a moment.",
                    retry_after=1.0,
                ) from None

    def busy(self, holder: Holder) -> None:
        """Take note that `holder` has work to do."""
        self._idle.pop(holder, None)
        self._busy.add(holder)

    @property
    def quiet(self) -> bool:
        """Whether no more than one holder has work to do."""
        return len(self._busy) <= 1

    def idle(self, holder: Holder, link: Link | None) -> None:
        """Take note that `holder` has nothing to do; its link goes to one that waits, or stays for now."""
        self._busy.discard(holder)
        if link is None:
            return
        if any(not waiter.done() for waiter in self._waiters):
            task = asyncio.get_running_loop().create_task(holder.give_up())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._idle[holder] = None

    async def close(self, holder: Holder, link: Link) -> None:
        """Close a link of `holder` and give its place to the first that waits."""
        self._idle.pop(holder, None)
        try:
            await link.close()
        finally:
            self._freed()

    def _freed(self) -> None:
        self._count -= 1
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
