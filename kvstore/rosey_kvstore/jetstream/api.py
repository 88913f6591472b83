"""Calls to JetStream's own API, and writes to the bucket: sent again while nobody answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from rosey_kvstore.connection import Connection, Interrupted, NoResponders, Reply
from rosey_kvstore.errors import InternalError, StorageTimeout, Unavailable
from rosey_kvstore.jetstream.faults import WRONG_REVISION, WrongRevisionError, fault_of

__all__ = ["Api"]

_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5
_LOOK = 0.5


class Api:
    """One bucket's side of JetStream; `timeout` is what a call may take, in seconds."""

    def __init__(self, connection: Connection, bucket: str, timeout: float) -> None:
        self.connection = connection
        self.bucket = bucket
        self.stream = f"KV_{bucket}"
        self.prefix = f"$KV.{bucket}."
        self.direct = f"$JS.API.DIRECT.GET.{self.stream}"
        self.timeout = timeout
        # Several servers hold the bucket: a direct get may be answered by one that is a moment behind.
        self.replicated = False
        # What stands before a key's subject in the copies of its changes; None where the bucket sends none.
        self.copies: str | None = None
        # Awaited when nobody answers; raises where there is no bucket.
        self.missing: Callable[[], Any] | None = None

    async def call(self, operation: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the answer of `$JS.API.<operation>`.

        Raises:
            StorageError: What JetStream's error means, or what the connection met.
        """
        payload = b"" if body is None else json.dumps(body).encode()
        reply = await self.send(f"$JS.API.{operation}", payload, None)
        return _answer(reply.data)

    async def info(self, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return what the server knows of the stream."""
        payload = b"" if body is None else json.dumps(body).encode()
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self.timeout
        while True:
            try:
                return _answer((await self.send(f"$JS.API.STREAM.INFO.{self.stream}", payload, None)).data)
            except Interrupted:
                if loop.time() >= give_up:
                    raise

    async def read(self, subject: str, payload: bytes = b"") -> Reply:
        """Do what `send` does for a request that changes nothing: it is asked again after a break."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self.timeout
        while True:
            try:
                return await self.send(subject, payload, None, self.missing)
            except Interrupted:
                if loop.time() >= give_up:
                    raise

    async def send(
        self,
        subject: str,
        payload: bytes,
        block: bytes | None,
        missing: Callable[[], Any] | None = None,
    ) -> Reply:
        """Send until somebody answers; during an election nobody does for a while, and nothing is done.

        `missing` is awaited after a first try without responders: it raises where there is no stream.
        """
        try:
            return await self.connection.request_raw(subject, payload, block, self.timeout)
        except NoResponders as error:
            first = error
        loop = asyncio.get_running_loop()
        give_up, pause = loop.time() + self.timeout, _FIRST_PAUSE
        while (left := give_up - loop.time()) > 0:
            if missing is not None:
                # Without a leader nobody answers that either: a look, and the call itself again.
                with contextlib.suppress(TimeoutError, StorageTimeout):
                    async with asyncio.timeout(min(left, _LOOK)):
                        await missing()
            try:
                return await self.connection.request_raw(subject, payload, block, left)
            except NoResponders:
                await asyncio.sleep(min(pause, left))
                pause = min(2 * pause, _LONGEST_PAUSE)
        raise Unavailable(
            f"JetStream did not answer for {self.timeout:g} s; nothing was done.",
            hint="Is JetStream on, and does the cluster have a leader?",
            retry_after=1.0,
        ) from first


def revision_of(reply: Reply) -> int:
    """Return the revision that a write was given.

    Raises:
        WrongRevisionError: A compare-and-set met another revision.
        StorageError: What JetStream's error means.
    """
    data = reply.data
    number = data[data.find(b'"seq":') + 6 : -1]
    # Nearly every answer is {"stream":"KV_x","seq":5}.
    if number.isdigit() and data.startswith(b'{"stream":'):
        return int(number)
    return int(_answer(data)["seq"])


def _answer(data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data)
        error = answer.get("error")
    except (ValueError, AttributeError) as failure:
        raise InternalError("JetStream's answer cannot be read.") from failure
    if error:
        if error.get("err_code") in WRONG_REVISION:
            raise WrongRevisionError
        raise fault_of(error)
    found: dict[str, Any] = answer
    return found
