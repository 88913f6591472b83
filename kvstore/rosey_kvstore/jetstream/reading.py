"""Many messages in one request: batched direct get, by subject or by key, without a consumer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from rosey_kvstore.connection import Interrupted
from rosey_kvstore.connection.headers import status_of
from rosey_kvstore.errors import InternalError
from rosey_kvstore.jetstream.api import Api
from rosey_kvstore.jetstream.leader import next_at_leader
from rosey_kvstore.jetstream.messages import field, place_of

__all__ = ["last_of", "messages_of", "messages_until"]

# The server answers for at most 1,024 subjects; a part is well below what a message may hold.
_PART: Final = 250
_AT_ONCE: Final = 4
_BEHIND: Final = 0.01

Take = Callable[[str, bytes, bytes], None]


async def last_of(api: Api, tails: Sequence[str], take: Take) -> None:
    """Give the last message of each of `tails` (encoded keys) to `take(tail, data, block)`."""
    parts = list(_parts(tails))
    for start in range(0, len(parts), _AT_ONCE):
        # The server looks up one part while another is read here.
        together = parts[start : start + _AT_ONCE]
        await asyncio.gather(
            *(_all(api, {"multi_last": [api.prefix + tail for tail in part]}, take) for part in together)
        )


async def messages_of(api: Api, subject_tail: str, take: Take, *, start: int = 1, most: int = 1000) -> None:
    """Give the messages of a subject or wildcard, from sequence `start`, in order; `most` at a time."""
    await _all(api, {"next_by_subj": api.prefix + subject_tail, "seq": start, "batch": most}, take)


async def messages_until(api: Api, subject_tail: str, take: Take, upto: Callable[[], int], last: int) -> None:
    """Give every message after `upto()` to `take`, which moves it on, up to `last` at least.

    `last` is the leader's; a server that is a moment behind is asked again until it has what the leader has.
    """
    while True:
        await messages_of(api, subject_tail, take, start=upto() + 1)
        if not api.replicated or upto() >= last or not await next_at_leader(api, subject_tail, upto() + 1):
            return
        await asyncio.sleep(_BEHIND)


def _parts(tails: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(tails), _PART):
        yield tails[start : start + _PART]


async def _all(api: Api, body: dict[str, Any], take: Take) -> None:
    """Ask until nothing is pending; the server ends a batch early when it gets large."""
    skip = len(api.prefix)
    last = int(body.get("seq", 1)) - 1
    end, again = b"", False

    def receive(data: bytes, block: bytes | None) -> bool:
        nonlocal last, end
        if block is None or block.startswith(b"NATS/1.0 "):
            end = block or b""
            return True
        subject, last, _ = place_of(block)
        take(subject[skip:], data, block)
        return False

    while True:
        before = last
        try:
            await api.connection.request_many(api.direct, json.dumps(body).encode(), receive, api.timeout)
        except Interrupted:
            if again:
                raise
            again = True  # a read may be asked again, from where it stopped
            body["seq"] = last + 1
            continue
        status = status_of(end)
        if status == "404":
            return
        if status != "204":
            raise InternalError(f"JetStream refuses a batched read: {end[9:60].decode('ascii', 'replace')}.")
        if int(field(end, b"Nats-Num-Pending") or 0) == 0 or last == before:
            return
        body["seq"] = last + 1
        if "multi_last" in body and (up_to := field(end, b"Nats-UpTo-Sequence")):
            body["up_to_seq"] = int(up_to)
