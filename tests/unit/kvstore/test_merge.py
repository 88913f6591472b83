"""A consumer's messages and the copies of the same changes, put together."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosey_kvstore.jetstream import merge
from rosey_kvstore.jetstream.merge import Merge, Message


class Watch:
    """What is told, and how often a buffer was full."""

    def __init__(self, *, most: int = 1000) -> None:
        self.told: list[int] = []
        self.full = 0
        self.merge = Merge(lambda message: self.told.append(message.revision), most=most, full=self._full)

    def _full(self) -> None:
        self.full += 1

    def consumer(self, *revisions: int) -> None:
        for revision in revisions:
            self.merge.take(Message(revision, "a", b"", None, 0))

    def copies(self, *revisions: int) -> None:
        for revision in revisions:
            self.merge.take_copy(Message(revision, "a", b"", None))


async def test_what_the_consumer_skipped_is_told():
    """Before the consumer's message come the copies that are older; its own copy is not told again."""
    watch = Watch()
    watch.merge.expect_copies(after=0)
    watch.copies(1, 2, 3, 4, 5, 6)
    assert watch.told == []
    watch.consumer(4)
    assert watch.told == [1, 2, 3, 4]
    watch.consumer(6)
    assert watch.told == [1, 2, 3, 4, 5, 6]


async def test_a_consumer_that_is_ahead_waits():
    """In a cluster it may be: only when the message's own copy is there, the skipped ones are too."""
    watch = Watch()
    watch.merge.expect_copies(after=0)
    watch.consumer(3, 5)
    assert watch.told == []
    watch.copies(1, 2)
    assert watch.told == []
    watch.copies(3)
    assert watch.told == [1, 2, 3]
    watch.copies(4, 5)
    assert watch.told == [1, 2, 3, 4, 5]


async def test_what_is_from_before_waits_for_nothing():
    """After a break the consumer tells what nobody has copies of."""
    watch = Watch()
    watch.merge.expect_copies(after=10)
    watch.consumer(8, 9, 10, 11)
    assert watch.told == [8, 9, 10]
    watch.copies(11)
    assert watch.told == [8, 9, 10, 11]


async def test_lost_copies_hold_nothing_up_for_long(monkeypatch: pytest.MonkeyPatch):
    """A change whose copy never comes is told after a while; the next one has its copy again."""
    monkeypatch.setattr(merge, "PATIENCE", 0.05)
    watch = Watch()
    watch.merge.expect_copies(after=0)
    watch.consumer(1)
    async with asyncio.timeout(30):
        while not watch.told:
            await asyncio.sleep(0.01)
    watch.consumer(4)
    assert watch.told == [1]
    watch.copies(2, 3, 4)
    assert watch.told == [1, 2, 3, 4]


async def test_patience_is_for_each(monkeypatch: pytest.MonkeyPatch):
    """Where copies are always a little late the first that waits counts, not that some always wait."""
    monkeypatch.setattr(merge, "PATIENCE", 0.2)
    watch = Watch()
    watch.merge.expect_copies(after=0)
    loop = asyncio.get_running_loop()
    end, number = loop.time() + 0.5, 0
    while loop.time() < end:
        number += 3
        watch.consumer(number)
        watch.copies(*range(max(number - 5, 1), number - 2))  # those of the message before
        await asyncio.sleep(0.01)
    watch.copies(number - 2, number - 1, number)
    assert watch.told == list(range(1, number + 1))


async def test_without_copies():
    """A bucket that sends none, or credentials that may not hear them: told as it comes."""
    watch = Watch()
    watch.consumer(1, 5)
    assert watch.told == [1, 5]
    watch.merge.expect_copies(after=5)
    watch.consumer(7)
    watch.merge.expect_none()
    assert watch.told == [1, 5, 7]


async def test_the_buffers_are_bounded():
    """One more than may wait on either side is told, and not kept."""
    watch = Watch(most=3)
    watch.merge.expect_copies(after=0)
    watch.copies(1, 2, 3)
    assert watch.full == 0
    watch.copies(4)
    assert watch.full == 1
    other = Watch(most=3)
    other.merge.expect_copies(after=0)
    other.consumer(1, 2, 3, 4)
    assert other.full == 1
    other.merge.clear()


async def test_another_bucket_begins_anew():
    """After the bucket was made again its small revisions count."""
    watch = Watch()
    watch.merge.expect_copies(after=0)
    watch.copies(99, 100)
    watch.consumer(100)
    watch.merge.clear()
    watch.copies(1, 2)
    watch.consumer(2)
    assert watch.told == [99, 100, 1, 2]


@given(st.data())
def test_every_change_once_and_in_order(data: st.DataObject):
    """However late either side is, and whatever the consumer skipped."""
    last = data.draw(st.integers(1, 30))
    kept = data.draw(st.sets(st.integers(1, last))) | {last}
    crossed = data.draw(st.booleans())

    async def run() -> list[int]:
        watch = Watch()
        watch.merge.expect_copies(after=0)
        sides = [sorted(kept), list(range(1, last + 1))]
        while any(sides):
            side = data.draw(st.sampled_from([number for number in (0, 1) if sides[number]]))
            (watch.consumer if side == 0 else watch.copies)(sides[side].pop(0))
        if crossed:
            watch.copies(*range(1, last + 1))  # those of another leader
        assert watch.merge._timer is None
        return watch.told

    assert asyncio.run(run()) == list(range(1, last + 1))
