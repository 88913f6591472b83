"""The last message of every key below a filter, pushed in one go by a consumer that ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from rosey_kvstore.connection import Batch
from rosey_kvstore.errors import StorageTimeout, Unavailable
from rosey_kvstore.jetstream.api import Api
from rosey_kvstore.jetstream.push import PushConsumer, place_of_reply

__all__ = ["scan"]

# So many messages wait at the server, or on the way, without it minding.
_UNPACED: Final = 50_000
# After so many seconds without a message the server is asked what it still has.
_SILENCE: Final = 0.1


class _Scan:
    """One pass: counts what comes, and knows when it is over."""

    def __init__(self, api: Api, last: int, receive: Callable[[Batch], None]) -> None:
        self._api = api
        self._last = last
        self._receive = receive
        self._got = 0
        self._promised = -1
        self._newest: bytes = b""  # the reply subject of the last message
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._consumer = PushConsumer(api, receive_many=self._take, denied=self._fail)

    async def run(self, tails: list[str], finish: Callable[[], object], **policy: Any) -> bool:
        forget = self._api.connection.on_lost(
            lambda: self._fail(Unavailable("The connection broke while keys were read."))
        )
        try:
            made = await self._consumer.open(tails, **policy)
            self._promised = int(made["num_pending"]) + int(made["delivered"]["consumer_seq"])
            self._check()
            await self._wait()
            removing = self._consumer.begin_close()
            await asyncio.sleep(0)  # the request leaves; the server removes it while we go on
            finish()
            if removing is not None:
                await asyncio.shield(removing)
        finally:
            forget()
            if not self._done.cancel() and not self._done.cancelled():
                self._done.exception()  # looked at, where opening failed before it was awaited
            await self._consumer.close()
        # One that was removed and one that came instead count the same: none may be newer than asked for.
        newest = self._newest_revision()
        return self._promised == 0 or (self._got == self._promised and 0 < newest <= self._last)

    def _take(self, batch: Batch) -> None:
        if self._done.done():
            return
        self._receive(batch)
        self._got += len(batch)
        self._newest = batch.reply
        self._check()

    def _check(self) -> None:
        complete = self._got >= self._promised >= 0
        if (complete or self._newest_revision() > self._last) and not self._done.done():
            self._done.set_result(None)

    def _newest_revision(self) -> int:
        return place_of_reply(self._newest)[0] if self._newest else 0

    def _fail(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)

    async def _wait(self) -> None:
        """Wait for the last message; what was removed meanwhile never comes, and nothing tells so."""
        loop = asyncio.get_running_loop()
        before, give_up = -1, 0.0
        while not self._done.done():
            await asyncio.wait((self._done,), timeout=_SILENCE)
            if self._done.done():
                break
            if self._got != before:
                before, give_up = self._got, loop.time() + self._api.timeout
                continue
            if loop.time() > give_up:
                raise StorageTimeout("The list of keys did not end in time; nothing was changed.")
            if await self._consumer.progress() == (self._got, 0):
                return
        self._done.result()


async def scan(
    api: Api,
    tail: str,
    last: int,
    receive: Callable[[Batch], None],
    finish: Callable[[], object] = lambda: None,
    *,
    expect: int,
    headers_only: bool,
    older_too: bool = False,
) -> bool:
    """Give every key's last message, in the order of revisions, markers included.

    Args:
        api: The bucket.
        tail: The filter, behind the bucket's prefix.
        last: The stream's last revision; what comes later is not waited for.
        receive: Takes what has come; it does not raise.
        finish: Called after the last message, while the consumer is being removed.
        expect: About how many messages there are.
        headers_only: Leave the values out.
        older_too: Give every message of the whole bucket instead of every key's last; that is faster, where
            few keys have more than one.

    Returns:
        Whether that was all. Otherwise something was written on the way, and what comes after `last` has to
        be looked at as well: what is written anew goes from where it stood to the end.

    Raises:
        StorageTimeout: Nothing more came for the time that a call may take.
        Unavailable: The connection broke.
    """
    policy: dict[str, Any] = {"paced": expect > _UNPACED}
    if headers_only:
        policy["headers_only"] = True
    policy["deliver_policy"] = "all" if older_too else "last_per_subject"
    return await _Scan(api, last, receive).run([] if older_too else [tail], finish, **policy)
