"""A call takes the time of one call, however many requests it needs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rosey_kvstore import KV
from rosey_kvstore.connection import NoResponders, Reply
from rosey_kvstore.errors import NotProvisioned, RevisionMismatch, StorageTimeout
from rosey_kvstore.jetstream.api import Api


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


async def test_a_write_waits_for_a_leader_and_not_for_news_of_its_bucket():
    """While a cluster elects, nobody answers for the bucket either; the write goes as soon as it can."""

    class Electing:
        def __init__(self) -> None:
            self.until = asyncio.get_running_loop().time() + 0.7

        async def request_raw(self, *_: object) -> Reply:
            if asyncio.get_running_loop().time() < self.until:
                raise NoResponders("nobody")
            return Reply(b"done", None)

    async def silent() -> None:
        await asyncio.sleep(3600)

    api = Api(Electing(), "plugin_quotes", 20)
    async with asyncio.timeout(10):
        reply = await api.send("$KV.plugin_quotes.a", b"1", None, silent)
    assert reply.data == b"done"


async def test_a_bucket_that_is_not_there_is_told_at_once():
    """What the look finds ends the call."""

    class Nobody:
        async def request_raw(self, *_: object) -> Reply:
            raise NoResponders("nobody")

    async def missing() -> None:
        raise NotProvisioned("There is no bucket.")

    async with asyncio.timeout(5):
        with pytest.raises(NotProvisioned):
            await Api(Nobody(), "plugin_quotes", 20).send("$KV.plugin_quotes.a", b"1", None, missing)
