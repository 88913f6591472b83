"""A call takes the time of one call, however many requests it needs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rosey_kvstore import KV
from rosey_kvstore.errors import RevisionMismatch, StorageTimeout


class Leaderless:
    """A backend whose answers never come, as of a stream that looks for a leader; reads are answered."""

    async def open(self) -> None:
        return None

    async def get(self, key: str) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        if name == "limits":
            from rosey_kvstore.backend import BucketLimits

            return BucketLimits()

        async def never(*_: object, **__: object) -> None:
            await asyncio.sleep(3600)

        return never


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("create", ("a", 1)),
        ("delete", ("a",)),
        ("increment", ("a",)),
    ],
)
async def test_a_call_ends_in_its_time(call: str, words: tuple[Any, ...]):
    """With a code that says that the outcome is open, and whose call it was."""
    kv = KV(Leaderless(), plugin="quotes", timeout=0.2)
    async with asyncio.timeout(10):
        with pytest.raises(StorageTimeout, match="may have been done") as caught:
            await getattr(kv, call)(*words)
    assert caught.value.operation == f"kv.{call}"


async def test_increments_that_wait_for_one_another_end_in_their_time():
    """In one process they queue up; each has its own time, not that of all before it."""
    kv = KV(Leaderless(), plugin="quotes", timeout=0.3)
    async with asyncio.timeout(2):
        results = await asyncio.gather(*(kv.increment("a") for _ in range(50)), return_exceptions=True)
    assert {type(result) for result in results} == {StorageTimeout}


async def test_the_outer_time_is_the_callers():
    """A caller's own timeout is not taken for ours."""
    kv = KV(Leaderless(), plugin="quotes", timeout=5)
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.1):
            await kv.create("a", 1)
    assert not isinstance(caught.value, StorageTimeout)


async def test_an_error_of_the_call_stays_what_it_is():
    """Nothing else becomes a timeout."""

    class Refusing(Leaderless):
        async def update(self, *_: object, **__: object) -> int:
            raise RevisionMismatch("no")

    with pytest.raises(RevisionMismatch):
        await KV(Refusing(), plugin="quotes", timeout=5).update("a", 1, revision=3)
