"""What a consumer tells and the copies of the same changes, put together in the order of their revisions."""

from __future__ import annotations

import asyncio
import datetime as dt
import heapq
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from rosey_kvstore.jetstream.messages import field, moment, moment_of

__all__ = ["PATIENCE", "Merge", "Message"]

# So long, in seconds, a consumer's message waits for its copy: one that a dying leader did not publish never
# comes. In one server copies are behind by microseconds, in a cluster by what a route takes.
PATIENCE: Final = 1.0


class Message(NamedTuple):
    """One stored message: its revision, the tail of its subject, its data and header block.

    `nanoseconds` since 1970, when it was stored; a copy says it in its headers instead.
    """

    revision: int
    tail: str
    data: bytes
    block: bytes | None
    nanoseconds: int | None = None

    @property
    def created(self) -> dt.datetime:
        """When it was stored."""
        if self.nanoseconds is not None:
            return moment_of(self.nanoseconds)
        return moment((field(self.block or b"", b"Nats-Time-Stamp") or b"").decode())


class Merge:
    """Tells every change once and in order, where each of its two sources alone would leave some out.

    The consumer sets the pace: it comes to whatever the bucket still keeps, after a break as well. Before its
    message is told, the copies are told that are older. Copies come in order, so all those have come when
    that of the message itself has; in a cluster it may well come later than the message.

    Args:
        tell: Called for each change.
        most: So many may wait for the other source; one more calls `full`, and is not kept.
        full: See above.
    """

    def __init__(self, tell: Callable[[Message], None], *, most: int, full: Callable[[], None]) -> None:
        self._tell = tell
        self._most = most
        self._full = full
        self._held: deque[Message] = deque()  # from the consumer: their copies have not come
        self._copies: list[Message] = []  # a heap: the consumer has not passed them
        self._waits = False
        self._reached = 0  # the highest copy that came
        self._floor = 0  # up to here nothing waits for copies
        self._told = 0
        self._timer: asyncio.TimerHandle | None = None
        self._first = 0  # what was held when the timer began

    def expect_copies(self, after: int) -> None:
        """From now on there is a copy of every change with a higher revision."""
        self._waits, self._floor = True, after
        self._go_on()

    def expect_none(self) -> None:
        """There are no copies; the consumer's messages are told as they come."""
        self._waits = False
        self._go_on()

    def take(self, message: Message) -> None:
        """Take a message of the consumer's."""
        if len(self._held) >= self._most:
            self._full()
            return
        self._held.append(message)
        self._go_on()

    def take_copy(self, copy: Message) -> None:
        """Take a copy."""
        if copy.revision > self._told:
            if len(self._copies) >= self._most:
                self._full()
                return
            heapq.heappush(self._copies, copy)  # those of two leaders may cross
        if copy.revision > self._reached:
            self._reached = copy.revision
            if self._held:
                self._go_on()

    def clear(self) -> None:
        """Forget all: revisions begin anew, or nobody listens any more."""
        self._held.clear()
        self._copies.clear()
        self._reached = self._floor = self._told = 0
        self._go_on()

    def _go_on(self) -> None:
        held, copies = self._held, self._copies
        while held and (not self._waits or held[0].revision <= max(self._reached, self._floor)):
            message = held.popleft()
            while copies and copies[0].revision <= message.revision:
                copy = heapq.heappop(copies)
                if self._told < copy.revision < message.revision:
                    self._told = copy.revision
                    self._tell(copy)
            self._told = message.revision
            self._tell(message)
        if held and self._timer is None:
            self._first = held[0].revision
            self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._give_up)
        elif not held and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        """Tell what has waited for long: its copies are lost. Those of later changes are expected."""
        self._timer = None
        if self._held and self._held[0].revision == self._first:
            self._floor = self._held[-1].revision
        self._go_on()
