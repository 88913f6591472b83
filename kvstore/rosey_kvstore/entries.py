"""What the KV API hands out."""

from __future__ import annotations

import datetime as dt
from typing import Any

from attrs import frozen

from rosey_kvstore.backend import Operation

__all__ = ["Change", "Entry", "InvalidValue", "Page"]


@frozen(kw_only=True)
class Entry:
    """A live value with what the bucket knows of it.

    Attributes:
        key: The key, as text.
        value: The value, of JSON's kinds or of the type that was asked for.
        revision: Its number in the bucket; rises with every write of any key.
        created: When it was written, aware.
        expires: When its TTL ends, aware; None without a TTL.
    """

    key: str
    value: Any
    revision: int
    created: dt.datetime
    expires: dt.datetime | None


@frozen(kw_only=True)
class Change:
    """One change of a key, told by `watch` and `history`.

    Attributes:
        key: The key, as text.
        value: What was set; None for `delete` and `expire`; an `InvalidValue` where no JSON was put.
        revision: Its number in the bucket.
        operation: `set`, `delete` or `expire`.
        created: When it happened, aware.
    """

    key: str
    value: Any
    revision: int
    operation: Operation
    created: dt.datetime


@frozen(kw_only=True)
class Page:
    """Some keys in order, and where to go on; `next_cursor` is None at the end."""

    keys: list[str]
    next_cursor: str | None


@frozen(kw_only=True)
class InvalidValue:
    """Stands for a value that was put by hand and cannot be read: no JSON, or not of the type asked for."""

    data: bytes
    reason: str
