"""Cursors: the place after the last row of a page, sealed to the query it belongs to.

A cursor is base64url of 12 bytes of a hash over the query and the place, and the place itself: the values
of the sort columns in the last row, as JSON. It is no secret: a forged one reaches nothing but the
plugin's own rows. The hash tells a foreign, an old or a damaged one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

from rosey_rowstore.protocol import Fault

__all__ = ["open_cursor", "query_digest", "seal_cursor"]

_SEAL: Final = 12
_encode: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def query_digest(*parts: Any) -> bytes:
    """Return what tells a query from every other: its plugin, table, filter, order and search."""
    return hashlib.blake2b(_encode(parts).encode(), digest_size=16).digest()


def seal_cursor(digest: bytes, place: Sequence[Any]) -> str:
    """Return the cursor of a place in a query."""
    body = _encode(place).encode()
    return base64.urlsafe_b64encode(_seal(digest, body) + body).rstrip(b"=").decode()


def open_cursor(cursor: str, digest: bytes, length: int) -> list[Any]:
    """Return the place, one JSON value for each of `length` sort columns.

    Raises:
        Fault: `invalid_request` when the cursor is not one of this query.
    """
    try:
        sealed = base64.b64decode(cursor.encode() + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        sealed = b""
    seal, body = sealed[:_SEAL], sealed[_SEAL:]
    if seal and seal == _seal(digest, body):
        place = json.loads(body)
        if len(place) == length:
            return list(place)
    raise Fault(
        "invalid_request",
        "The cursor does not belong to this query.",
        path="cursor",
        hint="A cursor continues the query that gave it: same table, where, order_by and query.",
    )


def _seal(digest: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_SEAL, key=digest).digest()
