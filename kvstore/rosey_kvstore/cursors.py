"""Cursors of key lists: opaque to the caller, tied to their prefix, good while keys come and go."""

from __future__ import annotations

import base64
import binascii
import json

from rosey_kvstore.errors import InvalidRequest, TypeMismatch

__all__ = ["dump_cursor", "load_cursor"]


def dump_cursor(prefix: str, last: str) -> str:
    """Return the cursor that goes on after the key `last`."""
    text = json.dumps([prefix, last], ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode("utf-8")).decode("ascii").rstrip("=")


def load_cursor(cursor: str, prefix: str) -> str:
    """Return the key that a cursor goes on after.

    Raises:
        InvalidRequest: It is no cursor, or one of another prefix.
        TypeMismatch: It is no text.
    """
    if not isinstance(cursor, str):
        raise TypeMismatch(f"A cursor is text, not {type(cursor).__name__}.", path="cursor")
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        read = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True).decode("utf-8"))
        of_prefix, last = read
        if type(of_prefix) is not str or type(last) is not str or dump_cursor(of_prefix, last) != cursor:
            raise ValueError("it was not made here")
    except (ValueError, TypeError, binascii.Error, RecursionError) as error:
        raise InvalidRequest(
            "The cursor cannot be read.", path="cursor", hint="Give the next_cursor of a page, unchanged."
        ) from error
    if of_prefix != prefix:
        raise InvalidRequest(
            f"The cursor belongs to the prefix {of_prefix!r}, not to {prefix!r}.", path="cursor"
        )
    return last
