"""Who may run now, who waits, and who is refused at once: bounds per plugin, turns between plugins."""

from __future__ import annotations

import abc
import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from rosey_rowstore.engine.model import Limits
from rosey_rowstore.protocol import Fault

__all__ = ["Admission", "Ticket"]

# Of everything together: past it more requests at once only lengthen each other.
TOTAL_IN_FLIGHT: Final = 256
_KEPT_IDLE: Final = 1024
_SHORTEST_RETRY: Final = 0.05
_LONGEST_RETRY: Final = 5.0


class Ticket(abc.ABC):
    """One request on its way through.

    Args:
        plugin: Whose it is.
        deadline: The loop time until which its caller waits.
    """

    __slots__ = ("deadline", "plugin", "started_at", "timer")

    def __init__(self, plugin: str, deadline: float) -> None:
        self.plugin = plugin
        self.deadline = deadline
        self.started_at = 0.0
        self.timer: asyncio.TimerHandle | None = None

    @abc.abstractmethod
    def start(self) -> None:
        """Take the turn."""

    @abc.abstractmethod
    def expire(self) -> None:
        """Give up: the deadline came before the turn."""


class _Lane:
    """What is known of one plugin."""

    __slots__ = ("in_flight", "limits", "seconds", "tokens", "tokens_at", "waiting")

    def __init__(self, limits: Limits, now: float) -> None:
        self.limits = limits
        self.in_flight = 0
        self.waiting: deque[Ticket] = deque()
        self.tokens = limits.burst
        self.tokens_at = now
        self.seconds = 0.01  # what a request takes, as a moving average

    def take_token(self, now: float) -> float:
        """Take one, or return the seconds until there is one."""
        rate = self.limits.requests_per_second
        self.tokens = min(self.limits.burst, self.tokens + (now - self.tokens_at) * rate)
        self.tokens_at = now
        if self.tokens < 1.0:
            return (1.0 - self.tokens) / rate
        self.tokens -= 1.0
        return 0.0

    def idle(self, now: float) -> bool:
        """Forgetting it would change nothing."""
        filled = self.tokens + (now - self.tokens_at) * self.limits.requests_per_second
        return not self.in_flight and not self.waiting and filled >= self.limits.burst


class Admission:
    """The bounds of every plugin; one per process, used from one event loop.

    Args:
        limits_for: A plugin's limits, asked once while the plugin is busy.
        total: Requests in flight of all plugins together.
    """

    def __init__(self, limits_for: Callable[[str], Limits], *, total: int = TOTAL_IN_FLIGHT) -> None:
        self._limits_for = limits_for
        self._total = total
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[str, _Lane] = {}
        self._turns: OrderedDict[str, _Lane] = OrderedDict()  # plugins with someone waiting
        self.in_flight = 0
        self.waiting = 0

    def admit(self, ticket: Ticket, now: float | None = None) -> None:
        """Start it now, or let it wait for its turn.

        Args:
            ticket: The request.
            now: The loop's time, where it was looked at already.

        Raises:
            Fault: `rate_limited` or `overloaded`, with `retry_after`.
        """
        if now is None:
            now = self._loop.time()
        lane = self._lanes.get(ticket.plugin) or self._new_lane(ticket.plugin, now)
        limits = lane.limits
        if wait := lane.take_token(now):
            raise Fault(
                "rate_limited",
                f"The plugin may send {limits.requests_per_second:g} requests per second.",
                hint="Send rows together in one insert, or ask again later.",
                retry_after=_rounded(wait),
            )
        if lane.in_flight < limits.requests_in_flight and self.in_flight < self._total and not lane.waiting:
            self._start(lane, ticket, now)
            return
        if len(lane.waiting) >= limits.requests_waiting:
            ahead = len(lane.waiting) + lane.in_flight
            raise Fault(
                "overloaded",
                f"{lane.in_flight} requests of the plugin run and {len(lane.waiting)} wait already.",
                hint="Send fewer at once, or ask again later.",
                retry_after=_rounded(lane.seconds * ahead / max(1, lane.in_flight)),
            )
        ticket.timer = self._loop.call_at(ticket.deadline, self._expire, ticket, lane)
        lane.waiting.append(ticket)
        self.waiting += 1
        self._turns.setdefault(ticket.plugin, lane)

    def done(self, ticket: Ticket) -> None:
        """Note that a started request has ended; whoever is next starts."""
        now = self._loop.time()
        lane = self._lanes[ticket.plugin]
        lane.in_flight -= 1
        self.in_flight -= 1
        lane.seconds += 0.1 * (now - ticket.started_at - lane.seconds)
        while self._turns and self.in_flight < self._total and (chosen := self._next_turn()) is not None:
            self._start(chosen, chosen.waiting.popleft(), now)

    def refresh(self) -> None:
        """Ask for every busy plugin's limits again; what runs and waits goes on under them."""
        for name, lane in self._lanes.items():
            lane.limits = self._limits_for(name)

    def clear(self) -> list[Ticket]:
        """Let nobody wait any longer, and return those who did."""
        left = [ticket for lane in self._turns.values() for ticket in lane.waiting]
        for lane in self._turns.values():
            lane.waiting.clear()
        for ticket in left:
            if ticket.timer is not None:
                ticket.timer.cancel()
        self._turns.clear()
        self.waiting = 0
        return left

    def _next_turn(self) -> _Lane | None:
        """Return the plugin whose turn it is, and send it to the end of the row."""
        for plugin, lane in list(self._turns.items()):
            if not lane.waiting:
                del self._turns[plugin]
            elif lane.in_flight < lane.limits.requests_in_flight:
                self._turns.move_to_end(plugin)
                self.waiting -= 1
                return lane
        return None

    def _start(self, lane: _Lane, ticket: Ticket, now: float) -> None:
        if ticket.timer is not None:
            ticket.timer.cancel()
        ticket.started_at = now
        lane.in_flight += 1
        self.in_flight += 1
        ticket.start()

    def _expire(self, ticket: Ticket, lane: _Lane) -> None:
        lane.waiting.remove(ticket)
        self.waiting -= 1
        ticket.expire()

    def _new_lane(self, plugin: str, now: float) -> _Lane:
        if len(self._lanes) >= _KEPT_IDLE:  # names are a stranger's to invent
            self._lanes = {name: kept for name, kept in self._lanes.items() if not kept.idle(now)}
        lane = self._lanes[plugin] = _Lane(self._limits_for(plugin), now)
        return lane


def _rounded(seconds: float) -> float:
    return round(min(_LONGEST_RETRY, max(_SHORTEST_RETRY, seconds)), 3)
