"""All keys or none: JetStream's atomic batch publish, which nats-py has no call for."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Final

from rosey_kvstore.connection.headers import HEADER_LINE
from rosey_kvstore.errors import Unavailable
from rosey_kvstore.jetstream.api import Api, revision_of
from rosey_kvstore.jetstream.messages import ttl_lines

__all__ = ["BatchWriter"]

# The server takes 50 open batches of a stream; other processes of the plugin have some too.
_OPEN_AT_ONCE: Final = 8
_TRIES: Final = 5


class BatchWriter:
    """Writes batches into one bucket."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._turns = asyncio.Semaphore(_OPEN_AT_ONCE)

    async def write(self, items: Sequence[tuple[str, bytes]], ttl: int | None) -> int:
        """Write (encoded key, data) pairs and return the revision of the first; the others follow it."""
        async with self._turns:
            for attempt in range(_TRIES):
                try:
                    return await self._write(items, ttl)
                except Unavailable as error:
                    # Abandoned whole, for another's open batches: nothing was written.
                    if attempt == _TRIES - 1 or "batch" not in error.message:
                        raise
                    await asyncio.sleep(0.02 * 2**attempt)
        raise AssertionError("unreachable")

    async def _write(self, items: Sequence[tuple[str, bytes]], ttl: int | None) -> int:
        # Stored with each message, and read with it: no longer than needed among a few open batches.
        batch = secrets.token_urlsafe(8)
        connection, prefix = self._api.connection, self._api.prefix
        lines = ttl_lines(ttl)
        start = b"%bNats-Batch-Id: %b\r\n%b" % (HEADER_LINE, batch.encode(), lines)
        for number, (tail, data) in enumerate(items[:-1], 1):
            connection.publish_raw(
                prefix + tail, b"%bNats-Batch-Sequence: %d\r\n\r\n" % (start, number), data
            )
        tail, data = items[-1]
        commit = b"%bNats-Batch-Sequence: %d\r\nNats-Batch-Commit: 1\r\n\r\n" % (start, len(items))
        # Not sent again without responders: the earlier messages would be missing then.
        reply = await connection.request_raw(prefix + tail, data, commit, self._api.timeout)
        return revision_of(reply) - len(items) + 1
