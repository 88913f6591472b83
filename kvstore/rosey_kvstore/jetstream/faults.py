"""JetStream's errors in our tree: the one place where they are translated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rosey_kvstore.errors import (
    InternalError,
    NotProvisioned,
    OutOfRange,
    Overloaded,
    QuotaExceeded,
    RequestTooLarge,
    StorageError,
    Unavailable,
    ValueTooLarge,
)

__all__ = ["NO_STREAM", "WRONG_REVISION", "WrongRevisionError", "fault_of"]

NO_STREAM = 10059
# On several servers the second: another write of the key is on its way through them.
WRONG_REVISION = (10071, 10164)

_Make = Callable[[str], StorageError]


class WrongRevisionError(Exception):
    """A compare-and-set met another revision than it expected; inside the backend only."""


def _quota(text: str) -> StorageError:
    return QuotaExceeded(
        f"The bucket is full: {text}.", hint="Deleting keys makes room; the limit bucket_size says how much."
    )


def _consumers(text: str) -> StorageError:
    return QuotaExceeded(
        f"No more watches and lists at once: {text}.", hint="Close watches that are not read."
    )


def _too_large(text: str) -> StorageError:
    return ValueTooLarge(
        f"The server refuses the value: {text}.", hint="The limit value_size says how large."
    )


def _away(text: str) -> StorageError:
    return Unavailable(f"JetStream cannot answer now: {text}.", retry_after=1.0)


def _missing(text: str) -> StorageError:
    return NotProvisioned(
        f"The plugin has no bucket: {text}.", hint="An operator makes it: rosey-storage apply."
    )


_MAKERS: Mapping[int, _Make] = {
    10002: _quota,  # resource limits exceeded for account
    10023: _quota,  # insufficient resources
    10047: _quota,  # insufficient storage resources available
    10077: _quota,  # maximum bytes exceeded
    10026: _consumers,
    10054: _too_large,  # message size exceeds maximum allowed
    10165: lambda text: OutOfRange(f"The server refuses the TTL: {text}.", path="ttl"),
    10166: lambda text: OutOfRange(f"The bucket takes no TTL: {text}.", path="ttl"),
    10199: lambda text: RequestTooLarge(f"Too many keys at once: {text}."),
    NO_STREAM: _missing,
    10008: _away,  # JetStream system temporarily unavailable
    10009: _away,
    10014: _away,  # consumer not found: lost with the server that led it
    10035: _away,
    10039: _away,  # JetStream not enabled for account
    10076: _away,  # JetStream not enabled
    10074: _away,
    10118: _away,
    10167: lambda text: Overloaded(f"JetStream has too much to do: {text}.", retry_after=0.5),
}


def fault_of(error: Mapping[str, Any]) -> StorageError:
    """Return the error of a reply's `error` member."""
    number = int(error.get("err_code") or 0)
    text = str(error.get("description") or "no description")
    make = _MAKERS.get(number)
    if make is not None:
        return make(text)
    if error.get("code") == 503:
        return _away(text)
    return InternalError(f"JetStream refuses the call: {text} ({number}).")
