"""Admission: bounds per plugin, turns between plugins, refusals that say when to come back."""

from __future__ import annotations

import asyncio

import attrs
import pytest

from rosey_rowstore.engine.model import Limits
from rosey_rowstore.protocol import Fault
from rosey_rowstore.service.admission import Admission, Ticket

LIMITS = Limits(requests_in_flight=2, requests_waiting=3, requests_per_second=1000, burst=1000)


class Noted(Ticket):
    """A request that notes what becomes of it."""

    def __init__(self, recorder: Recorder, plugin: str, name: str, patience: float) -> None:
        super().__init__(plugin, asyncio.get_running_loop().time() + patience)
        self.recorder = recorder
        self.name = name

    def start(self) -> None:
        self.recorder.started.append(self.name)

    def expire(self) -> None:
        self.recorder.expired.append(self.name)


class Recorder:
    """The requests, and who was started and who expired."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.started: list[str] = []
        self.expired: list[str] = []
        self.tickets: dict[str, Ticket] = {}

    def send(self, plugin: str, name: str, patience: float = 60.0) -> None:
        self.tickets[name] = Noted(self, plugin, name, patience)
        self.admission.admit(self.tickets[name])

    def finish(self, name: str) -> None:
        self.admission.done(self.tickets[name])


def recorder(limits: Limits = LIMITS, total: int = 100) -> Recorder:
    return Recorder(Admission(lambda _: limits, total=total))


async def test_what_is_within_the_bound_starts_at_once_and_the_rest_in_order() -> None:
    """First come, first served within one plugin."""
    requests = recorder()
    for name in ("1", "2", "3", "4"):
        requests.send("a", name)
    assert requests.started == ["1", "2"]
    assert (requests.admission.in_flight, requests.admission.waiting) == (2, 2)
    requests.finish("2")
    requests.finish("1")
    assert requests.started == ["1", "2", "3", "4"]
    requests.finish("3")
    requests.finish("4")
    assert (requests.admission.in_flight, requests.admission.waiting) == (0, 0)


async def test_past_the_waiting_bound_is_overloaded_at_once() -> None:
    """A full row refuses, says when to ask again, and takes more once there is room."""
    requests = recorder()
    for name in range(5):
        requests.send("a", str(name))
    with pytest.raises(Fault) as caught:
        requests.send("a", "6")
    assert caught.value.code == "overloaded"
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 0
    requests.finish("0")
    requests.send("a", "7")
    assert requests.started == ["0", "1", "2"]


async def test_one_plugins_row_is_not_anothers() -> None:
    """A plugin whose row is full leaves the others alone."""
    requests = recorder()
    for name in range(5):
        requests.send("noisy", str(name))
    requests.send("quiet", "q")
    assert requests.started[-1] == "q"


async def test_plugins_take_turns_where_the_process_is_full() -> None:
    """With the whole process busy, a plugin with many waiting does not go before one with few."""
    requests = recorder(attrs.evolve(LIMITS, requests_in_flight=50, requests_waiting=50), total=2)
    for name in ("a1", "a2", "a3", "a4", "a5"):
        requests.send("a", name)
    requests.send("b", "b1")
    requests.send("c", "c1")
    requests.send("b", "b2")
    for name in ("a1", "a2", "a3", "b1", "c1", "a4"):
        requests.finish(name)
    assert requests.started == ["a1", "a2", "a3", "b1", "c1", "a4", "b2", "a5"]


async def test_past_the_rate_is_rate_limited_until_tokens_come_back() -> None:
    """The burst passes, then the rate holds, and `retry_after` is the truth."""
    requests = recorder(attrs.evolve(LIMITS, requests_in_flight=100, requests_per_second=10, burst=5))
    for name in range(5):
        requests.send("a", str(name))
    with pytest.raises(Fault) as caught:
        requests.send("a", "6")
    assert caught.value.code == "rate_limited"
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 0.1
    await asyncio.sleep(caught.value.retry_after + 0.02)
    requests.send("a", "7")
    assert requests.started[-1] == "7"


async def test_who_waited_too_long_is_told_and_leaves_its_place() -> None:
    """A deadline ends waiting, and never starts the request afterwards."""
    requests = recorder()
    requests.send("a", "1")
    requests.send("a", "2")
    requests.send("a", "3", patience=0.05)
    requests.send("a", "4")
    await asyncio.sleep(0.15)
    assert requests.expired == ["3"]
    requests.finish("1")
    assert requests.started == ["1", "2", "4"]
    assert requests.admission.waiting == 0


async def test_clearing_starts_nobody() -> None:
    """At the end of a drain nobody who waited starts after all."""
    requests = recorder()
    for name in ("1", "2", "3", "4"):
        requests.send("a", name)
    assert len(requests.admission.clear()) == 2
    requests.finish("1")
    requests.finish("2")
    assert requests.started == ["1", "2"]
    assert (requests.admission.in_flight, requests.admission.waiting) == (0, 0)


async def test_invented_names_are_forgotten() -> None:
    """A stranger who sends a new plugin name each time fills no memory."""
    requests = recorder(attrs.evolve(LIMITS, requests_per_second=1_000_000))
    for number in range(5000):
        requests.send(f"p{number}", "x")
        requests.finish("x")
        if number % 500 == 0:
            await asyncio.sleep(0.001)
    assert len(requests.admission._lanes) < 2000
