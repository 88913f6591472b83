"""Lanes answer every request by its own merit, whatever its neighbours in a pipeline do."""

from __future__ import annotations

import asyncio
import time

import pytest
from msgspec.structs import replace

from integration.databases.world import COUNT, World, insert, work
from rosey_rowstore.databases.base import StaleSchemaError
from rosey_rowstore.databases.postgres.connections import Connections
from rosey_rowstore.databases.postgres.lanes import PluginLanes
from rosey_rowstore.protocol import Fault

SLOW_WRITE = "INSERT INTO t (n) SELECT 1 FROM pg_sleep(30)"


async def settle(*futures: asyncio.Future[bytes]) -> list[bytes | BaseException]:
    return await asyncio.gather(*futures, return_exceptions=True)


async def test_requests_that_wait_share_a_transaction(world: World) -> None:
    """What arrives together is one pipeline with one commit, not a commit each."""
    await settle(*(world.lanes.submit(insert(n)) for n in range(64)))
    transactions = await world.rows("SELECT count(DISTINCT xmin::text) FROM t")
    assert await world.count() == 64
    assert transactions[0][0] <= 4


@pytest.mark.parametrize("bad", [0, 13, 31])
async def test_one_bad_request_leaves_31_right(world: World, bad: int) -> None:
    """A pipeline broken by one request answers the other 31 right, and the one with its own error."""
    await world.lanes.submit(insert(-1))
    numbers = [-1 if n == bad else n for n in range(32)]
    answers = await settle(*(world.lanes.submit(insert(n)) for n in numbers))
    refused = [index for index, answer in enumerate(answers) if isinstance(answer, BaseException)]
    assert refused == [bad]
    error = answers[bad]
    assert isinstance(error, Fault)
    assert error.code == "unique_violation"
    assert await world.count() == 32


async def test_every_second_request_bad(world: World) -> None:
    """Many errors in one pipeline are told apart, and the good ones stand once each."""
    await world.lanes.submit(insert(-1))
    answers = await settle(*(world.lanes.submit(insert(n if n % 2 else -1)) for n in range(64)))
    assert [isinstance(answer, Fault) for answer in answers] == [n % 2 == 0 for n in range(64)]
    assert await world.count() == 33


async def test_first_in_first_out(world: World) -> None:
    """Requests of one lane take effect in the order in which they came."""
    await settle(*(world.lanes.submit(insert(n)) for n in range(200)))
    assert [n for (n,) in await world.rows("SELECT n FROM t ORDER BY id")] == list(range(200))


async def test_atomic_plan_rolls_back_whole(world: World) -> None:
    """A plan of several statements happens wholly or not at all, and its neighbours are untouched."""
    once = ("INSERT INTO t (n) VALUES ($1::bigint)", (5,))
    both = work(once, once, writes=True, atomic=True)
    answers = await settle(
        world.lanes.submit(insert(1)), world.lanes.submit(both), world.lanes.submit(insert(2))
    )
    assert isinstance(answers[1], Fault)
    assert [n for (n,) in await world.rows("SELECT n FROM t ORDER BY n")] == [1, 2]


async def test_a_refusal_after_the_statement_undoes_it(world: World) -> None:
    """A plan whose reply is refused has written nothing."""
    refused = insert(7, atomic=False)

    def finish(_: object) -> bytes:
        raise Fault("reply_too_large", "Too large.")

    plan = work(("INSERT INTO t (n) VALUES (7)", ()), writes=True, atomic=True).plan
    refused.plan = replace(plan, finish=finish)
    (answer,) = await settle(world.lanes.submit(refused))
    assert isinstance(answer, Fault)
    assert answer.code == "reply_too_large"
    assert await world.count() == 0


async def test_deadline_cancels_and_the_lane_lives_on(world: World) -> None:
    """Past its deadline a statement is stopped in the server, and the connection serves the next."""
    await world.lanes.submit(work(COUNT))
    before = time.monotonic()
    answers = await settle(*(world.lanes.submit(work("SELECT pg_sleep(30)", timeout=0.3)) for _ in range(2)))
    assert time.monotonic() - before < 10
    assert [getattr(answer, "code", None) for answer in answers] == ["timeout", "timeout"]
    assert await world.lanes.submit(work(COUNT)) == b'{"result":[[(0,)]]}'
    running = await world.rows("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"
                               " AND state = 'active'")  # fmt: skip
    assert running == [(0,)]


async def test_cancelled_write_wrote_nothing_and_says_so(world: World) -> None:
    """A write past its deadline is undone, its neighbours in the pipeline are done."""
    await world.lanes.submit(insert(100))
    slow = world.lanes.submit(work(SLOW_WRITE, writes=True, timeout=0.5))
    answers = await settle(slow, *(world.lanes.submit(insert(n)) for n in range(101, 110)))
    assert isinstance(answers[0], Fault)
    assert answers[0].code == "timeout"
    assert "nothing was written" in answers[0].message
    assert not any(isinstance(answer, BaseException) for answer in answers[1:])
    assert await world.count() == 10


async def test_deadline_passes_in_the_queue(world: World) -> None:
    """Who waits behind slow work is answered at its own deadline, not when the work ends."""
    slow = [world.lanes.submit(work("SELECT pg_sleep(3)", timeout=20)) for _ in range(2)]
    await asyncio.sleep(0.1)
    before = time.monotonic()
    (answer,) = await settle(world.lanes.submit(work(COUNT, timeout=0.3)))
    assert isinstance(answer, Fault)
    assert answer.code == "timeout"
    assert time.monotonic() - before < 2
    await settle(*slow)


async def test_write_on_a_lost_connection_is_of_unknown_outcome(world: World) -> None:
    """A connection killed in mid-batch: writes are told that they may have happened."""
    futures = [world.lanes.submit(work("SELECT pg_sleep(30)", writes=True)), world.lanes.submit(insert(1))]
    await _kill_when(world, "SELECT pg_sleep(30)")
    for answer in await settle(*futures):
        assert isinstance(answer, Fault)
        assert answer.code == "unavailable"
        assert "may have happened" in answer.message
    assert await world.lanes.submit(insert(2)) == b'{"result":[[(2,)]]}' or await world.count() == 1


async def test_read_on_a_lost_connection_runs_again(world: World) -> None:
    """A read that a lost connection interrupted is answered from a new one."""
    future = world.lanes.submit(work("SELECT 7 FROM pg_sleep(1)"))
    await _kill_when(world, "SELECT 7 FROM pg_sleep(1)")
    assert await future == b'{"result":[[(7,)]]}'


async def test_idle_connection_lost(world: World) -> None:
    """A connection that ended while idle costs no request an error."""
    await settle(world.lanes.submit(insert(1)), world.lanes.submit(work(COUNT)))
    await world.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        f" WHERE usename = 'plugin_{world.plugin}' AND state = 'idle'"
    )
    await asyncio.sleep(0.2)
    assert await world.lanes.submit(insert(2))
    assert await world.lanes.submit(work(COUNT)) == b'{"result":[[(2,)]]}'


async def test_changed_column_type_is_stale_once(world: World) -> None:
    """After ALTER TYPE a prepared statement fails as stale, never with a wrong shape, and then works."""
    select = "SELECT n FROM t"
    await world.lanes.submit(work(select, writes=True))
    await world.rows("ALTER TABLE t ALTER COLUMN n TYPE text")
    (answer,) = await settle(world.lanes.submit(work(select, writes=True)))
    assert isinstance(answer, StaleSchemaError)
    assert await world.lanes.submit(work(select, writes=True)) == b'{"result":[[]]}'


async def test_many_shapes_do_not_pile_up(world: World) -> None:
    """Prepared statements of one connection are bounded, and forgetting them harms no request."""
    for start in range(0, 1200, 100):
        answers = await settle(
            *(world.lanes.submit(work(f"SELECT {n}", writes=True)) for n in range(start, start + 100))
        )
        assert [a for a in answers if isinstance(a, BaseException)] == []
    asked = await world.lanes.submit(work("SELECT count(*) FROM pg_prepared_statements", writes=True))
    (((kept,),),) = eval(asked)["result"]
    assert kept <= 600


async def test_cap_closes_the_least_recently_used(world: World) -> None:
    """More plugins than connections: all are answered, the cap holds, idle connections change hands."""
    connections = Connections(world.connections._connect, 2)
    plugins = [PluginLanes(connections, world.plugin) for _ in range(5)]
    try:
        for _ in range(3):
            answers = await settle(*(lanes.submit(work(COUNT)) for lanes in plugins))
            assert answers == [b'{"result":[[(0,)]]}'] * 5
            assert connections.count <= 2
    finally:
        for lanes in plugins:
            await lanes.close()
    assert connections.count == 0


async def test_every_connection_busy_is_overloaded(world: World) -> None:
    """With every connection at work until the deadline the answer is `overloaded`, with a time to wait."""
    connections = Connections(world.connections._connect, 1)
    first, second = (PluginLanes(connections, world.plugin) for _ in range(2))
    try:
        slow = first.submit(work("SELECT pg_sleep(2)"))
        await asyncio.sleep(0.3)
        (answer,) = await settle(second.submit(work(COUNT, timeout=0.5)))
        assert isinstance(answer, Fault)
        assert answer.code == "overloaded"
        assert answer.retry_after is not None
        await slow
        assert await second.submit(work(COUNT)) == b'{"result":[[(0,)]]}'
    finally:
        await first.close()
        await second.close()


async def test_server_away(world: World) -> None:
    """A server that does not answer gives `unavailable` within the request's time."""

    async def refuse(_: str, timeout: float) -> object:
        raise Fault("unavailable", "The database does not answer.")

    lanes = PluginLanes(Connections(refuse, 5), "q")  # type: ignore[arg-type]
    answers = await settle(lanes.submit(work(COUNT)), lanes.submit(insert(1)))
    assert [getattr(answer, "code", None) for answer in answers] == ["unavailable", "unavailable"]
    await lanes.close()


async def _kill_when(world: World, query: str) -> None:
    """Terminate the backend once it runs `query`."""
    for _ in range(200):
        killed = await world.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE usename = 'plugin_{world.plugin}' AND state = 'active' AND query = '{query}'"
        )
        if killed:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the query never ran")
