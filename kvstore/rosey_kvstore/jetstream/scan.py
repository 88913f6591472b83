"""The last message of every key below a filter, pushed in one go by a consumer that ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from rosey_kvstore.errors import StorageTimeout, Unavailable
from rosey_kvstore.jetstream.api import Api
from rosey_kvstore.jetstream.push import Place, PushConsumer

__all__ = ["scan"]


async def scan(
    api: Api,
    tail: str,
    last: int,
    receive: Callable[[str, bytes, bytes | None, Place], None],
    *,
    headers_only: bool,
) -> None:
    """Give every key's last message, in the order of revisions, markers included.

    Args:
        api: The bucket.
        tail: The filter, behind the bucket's prefix.
        last: The stream's last revision; what comes later is not waited for.
        receive: As in `PushConsumer`.
        headers_only: Leave the values out; every message then has a header block, with its size.

    Raises:
        StorageTimeout: Nothing more came for the time that a call may take.
        Unavailable: The connection broke.
    """
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    got = 0

    def take(found: str, data: bytes, block: bytes | None, place: Place) -> None:
        nonlocal got
        got = place[1]
        receive(found, data, block, place)
        if (place[2] == 0 or place[0] > last) and not done.done():
            done.set_result(None)

    def fail(error: Exception) -> None:
        if not done.done():
            done.set_exception(error)

    consumer = PushConsumer(api, take, lambda _: None, fail)
    forget = api.connection.on_lost(lambda: fail(Unavailable("The connection broke while keys were read.")))
    try:
        made: dict[str, Any] = await consumer.open(
            [tail], deliver_policy="last_per_subject", headers_only=headers_only
        )
        if int(made["num_pending"]) + int(made["delivered"]["consumer_seq"]) > 0:
            before = -1
            while not done.done():
                await asyncio.wait((done,), timeout=api.timeout)
                if not done.done() and got == before:
                    raise StorageTimeout("The list of keys did not end in time; nothing was changed.")
                before = got
            done.result()
    finally:
        forget()
        if not done.cancel() and not done.cancelled():
            done.exception()  # looked at, where opening failed before it was awaited
        await consumer.close()
