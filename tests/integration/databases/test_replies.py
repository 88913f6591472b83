"""One `Nats-Msg-Id` has one effect, however often and wherever it arrives."""

from __future__ import annotations

import asyncio

import pytest

from integration.databases.world import World, insert, work
from rosey_rowstore.protocol import Fault


async def test_same_id_gives_the_stored_reply(world: World) -> None:
    """The second request with an id gets the first one's reply, and has no effect of its own."""
    first = await world.lanes.submit(insert(1, message_id="a"))
    assert await world.lanes.submit(insert(1, message_id="a")) == first
    assert await world.count() == 1


async def test_effect_without_a_unique_column(world: World) -> None:
    """A repeated effect that no constraint would stop is stopped by its id."""
    await world.lanes.submit(insert(1))
    add = "UPDATE t SET n = n + 1 RETURNING n"
    first = await world.lanes.submit(work(add, writes=True, message_id="inc"))
    for _ in range(5):
        assert await world.lanes.submit(work(add, writes=True, message_id="inc")) == first
    assert await world.rows("SELECT n FROM t") == [(2,)]


async def test_many_ids_and_their_repeats_in_one_pipeline(world: World) -> None:
    """Repeats beside new requests in one batch are told apart."""
    await asyncio.gather(*(world.lanes.submit(insert(n, message_id=f"m{n}")) for n in range(0, 40, 2)))
    replies = await asyncio.gather(*(world.lanes.submit(insert(n, message_id=f"m{n}")) for n in range(40)))
    assert len(set(replies)) == 40
    assert await world.count() == 40


async def test_other_payload_under_the_same_id(world: World) -> None:
    """An id that comes with another request is refused, and nothing is written."""
    await world.lanes.submit(insert(1, message_id="a"))
    with pytest.raises(Fault) as caught:
        await world.lanes.submit(insert(2, message_id="a", digest=b"fedcba9876543210"))
    assert caught.value.code == "invalid_request"
    assert await world.count() == 1


async def test_duplicates_of_two_processes_serialise(world: World) -> None:
    """The same ids at once through two processes: one effect each, the same reply for both."""
    others = world.more_lanes()
    try:
        for start in range(0, 300, 30):
            pairs = [
                asyncio.gather(
                    *(lanes.submit(insert(n, message_id=f"m{n}")) for n in range(start, start + 30))
                )
                for lanes in (world.lanes, others)
            ]
            first, second = await asyncio.gather(*pairs)
            assert first == second
    finally:
        await others.close()
    assert await world.count() == 300


async def test_refusals_are_not_stored(world: World) -> None:
    """A write that failed may be repeated under its id once the reason is gone."""
    await world.lanes.submit(insert(1))
    with pytest.raises(Fault):
        await world.lanes.submit(insert(1, message_id="a"))
    await world.rows("DELETE FROM t")
    assert await world.lanes.submit(insert(1, message_id="a"))
    assert await world.count() == 1


async def test_after_ten_minutes_an_id_is_new(world: World) -> None:
    """A reply past its time counts for nothing, cleaned away or not."""
    await world.lanes.submit(insert(1, message_id="a"))
    await world.rows("UPDATE _rosey_replies SET at = at - interval '11 minutes'")
    await world.rows("DELETE FROM t")
    await world.lanes.submit(insert(1, message_id="a", digest=b"fedcba9876543210"))
    assert await world.count() == 1


async def test_old_replies_are_cleaned(world: World) -> None:
    """Replies past their time leave with a later write, in a new process at the latest."""
    await asyncio.gather(*(world.lanes.submit(insert(n, message_id=f"m{n}")) for n in range(20)))
    await world.rows("UPDATE _rosey_replies SET at = at - interval '11 minutes'")
    others = world.more_lanes()
    await others.submit(insert(100, message_id="new"))
    await others.close()
    assert await world.rows("SELECT id FROM _rosey_replies") == [("new",)]
