"""An answer that is about to come is watched for, instead of sleeping until it has come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from integration.databases.world import World
from rosey_rowstore.databases.postgres.link import Link, LinkLostError, Outcome
from rosey_rowstore.engine.model import Result, Statement


class Holder:
    """Who holds a link and never gives it up."""

    async def give_up(self) -> None:
        """Keep it."""


@pytest.fixture
async def link(world: World) -> AsyncIterator[Link]:
    """A connection of the plugin."""
    holder = Holder()
    made = await world.connections.open(holder, world.plugin, asyncio.get_running_loop().time() + 10)
    try:
        yield made
    finally:
        await world.connections.close(holder, made)


async def test_a_quick_answer_comes_without_a_turn_of_the_loop(link: Link) -> None:
    """Whoever started the exchange is told while it is watched for, and the loop hears nothing twice."""
    told: list[Outcome] = []
    link.start([Statement("SELECT 5::text")], told.append)
    link.watch(10)
    assert told == [[Result([("5",)], 1)]]
    assert await link.exchange([Statement("SELECT 6::text")]) == [Result([("6",)], 1)]
    assert len(told) == 1


async def test_a_slow_answer_is_left_to_the_loop(link: Link) -> None:
    """It is watched for no longer than was said, and told when it comes."""
    told: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    link.start([Statement("SELECT pg_sleep(0.5)::text")], told.set_result)
    before = time.monotonic()
    link.watch(0.01)
    assert time.monotonic() - before < 0.4
    assert not told.done()
    assert await told == [Result([("",)], 1)]


async def test_a_lost_connection_is_not_watched_for(link: Link) -> None:
    """When the connection ends meanwhile, that is told, and watching ends."""
    told: list[Outcome] = []
    link.start(
        [Statement("SELECT pg_terminate_backend(pg_backend_pid())"), Statement("SELECT 1")], told.append
    )
    before = time.monotonic()
    link.watch(10)
    assert time.monotonic() - before < 5
    assert isinstance(told[0], LinkLostError)
    assert link.lost
