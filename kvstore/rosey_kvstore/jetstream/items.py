"""Live values of many keys, in the order of the keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from rosey_kvstore.backend import Stored
from rosey_kvstore.connection import Batch
from rosey_kvstore.jetstream.api import Api
from rosey_kvstore.jetstream.listing import Listing
from rosey_kvstore.jetstream.messages import is_dead, sequence_of, stored_of
from rosey_kvstore.jetstream.push import place_of_reply
from rosey_kvstore.jetstream.reading import last_of, messages_of, messages_until
from rosey_kvstore.jetstream.scan import scan
from rosey_kvstore.keys import decode_key, decode_keys, encode_key

__all__ = ["items_of", "values_of"]

_PART: Final = 1000
_IN_MEMORY: Final = 32 * 1024 * 1024


async def values_of(api: Api, keys: Sequence[str]) -> Mapping[str, Stored]:
    """Return the live ones of `keys`."""
    tails = {encode_key(key): key for key in keys}
    found: dict[str, Stored] = {}

    def take(tail: str, data: bytes, block: bytes) -> None:
        if not is_dead(block):
            key = tails[tail]
            found[key] = stored_of(key, data, block)

    await last_of(api, list(tails), take)
    return found


async def items_of(api: Api, listing: Listing, prefix: str) -> AsyncIterator[tuple[str, bytes]]:
    """Yield live values, sorted by key; of a large bucket each as it is when its turn comes."""
    info = await api.info()
    if int(info["state"]["bytes"]) <= _IN_MEMORY:
        for value in await _read_whole(api, listing, prefix, info):
            yield value
        return
    keys = await listing.keys(prefix, _PART, None)
    coming = _fetch(api, keys)
    try:
        while keys:
            found, read = await coming, keys
            # The next part is on its way while the reader looks at this one.
            keys = await listing.keys(prefix, _PART, keys[-1]) if len(keys) == _PART else []
            coming = _fetch(api, keys)
            await asyncio.sleep(0)
            for key in read:
                if (stored := found.get(key)) is not None:
                    yield key, stored.data
    finally:
        if not coming.cancel() and not coming.cancelled():
            coming.exception()  # looked at: nobody reads on


async def _read_whole(
    api: Api, listing: Listing, prefix: str, info: Mapping[str, Any]
) -> list[tuple[str, bytes]]:
    """Read a small bucket in one go: a third of the time that asking for its keys takes."""
    found: dict[str, bytes | None] = {}

    newest = 0

    def take(tail: str, data: bytes, block: bytes) -> None:
        nonlocal newest
        newest = max(newest, sequence_of(block))
        key = decode_key(tail)
        if key is not None and key.startswith(prefix):
            found[key] = None if is_dead(block) else data

    def receive(batch: Batch) -> None:
        nonlocal newest
        if batch.reply:  # known of most; what is read again then does no harm
            newest = max(newest, place_of_reply(batch.reply)[0])
        for key, (_, data, block) in zip(decode_keys(batch.tails), batch, strict=True):
            if key is not None and key.startswith(prefix):
                found[key] = None if is_dead(block) else data

    last, messages = int(info["state"]["last_seq"]), int(info["state"]["messages"])
    tail = await listing.filter_of(prefix)
    whole = await scan(api, tail, last, receive, expect=messages, headers_only=False)
    if api.replicated:  # the server that pushed them may be a moment behind
        await messages_until(api, tail, take, lambda: newest, last)
    elif not whole:
        await messages_of(api, tail, take, start=last + 1)
    return [(key, data) for key, data in sorted(found.items()) if data is not None]


def _fetch(api: Api, keys: Sequence[str]) -> asyncio.Task[Mapping[str, Stored]]:
    return asyncio.get_running_loop().create_task(values_of(api, keys))
