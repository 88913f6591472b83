"""One call of the row service: encoded, sent, sent again where that is safe, decoded."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from attrs import define

from rosey_kvstore.errors import InvalidRequest, OutOfRange, StorageError, StorageTimeout, Unavailable
from rosey_rowstore.protocol import (
    MESSAGE_ID_HEADER,
    TIMEOUT_HEADER,
    Fault,
    Operation,
    decode_reply,
    encode_request,
)
from rosey_storage.faults import error_from
from rosey_storage.transport import NotDelivered, Transport

__all__ = ["Calls"]

Request = TypeVar("Request")
Reply = TypeVar("Reply")

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5
_LONGEST_KEY: Final = 255


@define
class Calls:
    """Makes a plugin's calls: what may be repeated is repeated until its time is over.

    Attributes:
        plugin: Whose calls these are, for the errors.
        transport: The way to the row service.
        timeout: Seconds that a call may take unless it says otherwise.
    """

    plugin: str
    transport: Transport
    timeout: float

    async def __call__(
        self,
        operation: Operation[Request, Reply],
        build: Callable[[], Request],
        *,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> Reply:
        """Return the reply, or raise the error that the service replied.

        Args:
            operation: What to do.
            build: Makes the request; what it raises is this call's error too.
            timeout: Seconds this call may take.
            idempotency_key: A name of this write: the service does what carries the same name once
                within 10 minutes, and so the call may be repeated after a lost connection.

        Raises:
            StorageError: With the plugin and the operation set.
        """
        try:
            payload = _encoded(build())
            seconds = _checked_timeout(self.timeout if timeout is None else timeout)
            _check_key(idempotency_key)
            reply = await self._delivered(operation, payload, seconds, idempotency_key)
            return decode_reply(operation, reply)
        except Fault as fault:
            raise error_from(fault, plugin=self.plugin, operation=operation.tail) from fault
        except StorageError as error:
            error.plugin, error.operation = self.plugin, operation.tail
            raise

    async def _delivered(
        self, operation: Operation[Request, Reply], payload: bytes, seconds: float, key: str | None
    ) -> bytes:
        """Return the reply's bytes; a refusal that a repetition may cure is repeated."""
        repeatable = not operation.writes or key is not None
        deadline = time.monotonic() + seconds
        pause = _FIRST_PAUSE
        doubtful = False  # an earlier attempt of this write may have happened
        while True:
            failure: Unavailable | None = None
            try:
                reply = await self._sent(operation.tail, payload, deadline - time.monotonic(), key)
                if not (repeatable and _says_unavailable(reply)):
                    return reply
            except StorageTimeout as error:
                raise _too_late(operation.writes, seconds) from error
            except Unavailable as error:
                if not (repeatable or isinstance(error, NotDelivered)):
                    raise
                failure = error
            left = deadline - time.monotonic()
            if left < _FIRST_PAUSE:
                if failure is None:
                    return reply
                if doubtful:
                    failure.message += " An earlier attempt of this call may have happened."
                raise failure
            doubtful = doubtful or (operation.writes and not isinstance(failure, NotDelivered))
            wait = pause * random.uniform(0.5, 1)  # noqa: S311 - spreads callers, guards nothing
            await asyncio.sleep(min(wait, left / 2))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _sent(self, tail: str, payload: bytes, left: float, key: str | None) -> Awaitable[bytes]:
        # The service gives up a little before the caller does, so that its own word arrives: it knows
        # whether the statement was cancelled or done.
        told = max(1, round((left - min(0.1, left / 10)) * 1000))
        headers = {TIMEOUT_HEADER: str(told)}
        if key is not None:
            headers[MESSAGE_ID_HEADER] = key
        return self.transport.request(tail, payload, headers, timeout=left)


def _encoded(request: object) -> bytes:
    try:
        return encode_request(request)
    except RecursionError as error:
        raise Fault("type_mismatch", "A value nests without end.") from error
    except (TypeError, ValueError) as error:
        raise Fault("type_mismatch", f"The request is no JSON: {error}.") from error


def _checked_timeout(seconds: float) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise Fault("type_mismatch", f"timeout= takes seconds, not {type(seconds).__name__}.", path="timeout")
    if not 0 < seconds <= 24 * 3600:
        raise OutOfRange(f"timeout= is {seconds}.", hint="Seconds, more than 0 and at most a day.")
    return seconds


def _check_key(key: str | None) -> None:
    if key is None:
        return
    if not isinstance(key, str) or not key.isascii() or not key.isprintable() or not key.strip():
        raise InvalidRequest(f"{key!r} is no idempotency key.", hint="Printable ASCII text, as a UUID.")
    if len(key) > _LONGEST_KEY:
        raise InvalidRequest(
            f"The idempotency key has {len(key)} characters.", hint=f"At most {_LONGEST_KEY}."
        )


def _says_unavailable(reply: bytes) -> bool:
    """Tell whether the service answered that its database is away, without decoding what is no error."""
    return reply.startswith(b'{"error":') and b'"code":"unavailable"' in reply[:64]


def _too_late(writes: bool, seconds: float) -> StorageTimeout:
    if writes:
        return StorageTimeout(
            f"No answer within {seconds:g} s; the write may have happened.",
            hint="Read before writing again, or write with an idempotency_key=.",
        )
    return StorageTimeout(f"No answer within {seconds:g} s; it was a read, nothing has changed.")
