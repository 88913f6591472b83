"""What the bytes of a stored message say: alive or not, since when, until when."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from functools import lru_cache
from typing import Final

from rosey_kvstore.backend import Operation, Record, Stored
from rosey_kvstore.connection.headers import HEADER_LINE
from rosey_kvstore.errors import InternalError
from rosey_kvstore.ttl import parse_ttl_header

__all__ = [
    "DEAD_HEADERS",
    "EXPIRES",
    "TOKEN",
    "block_of",
    "field",
    "is_dead",
    "moment",
    "moment_of",
    "operation_of",
    "place_of",
    "record_of_reply",
    "sequence_of",
    "stored_of",
    "ttl_lines",
]

# Set by `increment`: the moment that a kept TTL ends, which whole seconds could not hold.
EXPIRES: Final = "Rosey-Expires"
# Set by writes that compare revisions: a write whose answer was lost is recognised by it.
TOKEN: Final = "Rosey-Write"  # noqa: S105 - a header name

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_PLACE: Final = re.compile(
    rb"\r\nNats-Stream: [^\r]*\r\nNats-Subject: ([^\r]*)\r\n"
    rb"Nats-Sequence: (\d+)\r\nNats-Time-Stamp: ([^\r]*)\r\n"
)
_DELETED: Final = b"\r\nKV-Operation:"
_DELETES: Final = (b"DEL", b"PURGE")
_MARKER: Final = b"\r\nNats-Marker-Reason:"
# Without one of these no message is dead.
DEAD_HEADERS: Final = (_DELETED, _MARKER)


def field(block: bytes, name: bytes) -> bytes | None:
    """Return the value of the last header `name`: the server's own stand behind those of the writer."""
    start = block.rfind(b"\r\n%b:" % name)
    if start < 0:
        return None
    start += len(name) + 3
    return block[start : block.index(b"\r\n", start)].strip()


def is_dead(block: bytes | None) -> bool:
    """Say whether a message is a delete, purge or expiry marker."""
    if block is None:
        return False
    if _DELETED in block and field(block, b"KV-Operation") in _DELETES:
        return True
    return _MARKER in block


def operation_of(block: bytes | None) -> Operation:
    """Return what a message did to its key."""
    if block is None or not is_dead(block):
        return "set"
    return "expire" if field(block, b"Nats-Marker-Reason") == b"MaxAge" else "delete"


def sequence_of(block: bytes) -> int:
    """Return the revision of a message from direct get."""
    return int(field(block, b"Nats-Sequence") or 0)


def moment(text: str) -> dt.datetime:
    """Return an RFC 3339 time of the server; what is finer than a microsecond is cut."""
    return dt.datetime.fromisoformat(text)


def place_of(block: bytes) -> tuple[str, int, bytes]:
    """Return subject, revision and time of a message from direct get: the server writes them last."""
    found = _PLACE.search(block)
    if found is not None:
        return found[1].decode("utf-8", "replace"), int(found[2]), found[3]
    subject, time = field(block, b"Nats-Subject"), field(block, b"Nats-Time-Stamp")
    if subject is None or time is None:
        raise InternalError("JetStream's answer cannot be read.")
    return subject.decode("utf-8", "replace"), sequence_of(block), time


def stored_of(key: str, data: bytes, block: bytes) -> Stored:
    """Return a live value from the answer of a direct get."""
    _, revision, time = place_of(block)
    created = moment(time.decode())
    expires = _expires(created, block) if b"\r\nNats-TTL:" in block else None
    return Stored(key=key, data=data, revision=revision, created=created, expires=expires)


def moment_of(nanoseconds: int) -> dt.datetime:
    """Return a time that is given in nanoseconds since 1970."""
    return _EPOCH + dt.timedelta(microseconds=nanoseconds // 1000)


def _expires(created: dt.datetime, block: bytes) -> dt.datetime | None:
    if (exact := field(block, EXPIRES.encode())) is not None:
        # Another program may have written anything there; the TTL then stands as the server keeps it.
        with contextlib.suppress(ValueError):
            if (expires := moment(exact.decode())).tzinfo is not None:
                return expires
    if (ttl := field(block, b"Nats-TTL")) is None:
        return None
    seconds = parse_ttl_header(ttl.decode("ascii", "replace"))
    return None if seconds is None else created + dt.timedelta(seconds=seconds)


def record_of_reply(key: str, data: bytes, block: bytes) -> Record:
    """Return a change from the answer of a batched direct get."""
    operation = operation_of(block)
    return Record(
        key=key,
        data=data if operation == "set" else None,
        revision=sequence_of(block),
        operation=operation,
        created=moment((field(block, b"Nats-Time-Stamp") or b"").decode()),
    )


@lru_cache(maxsize=256)
def ttl_lines(ttl: int | None) -> bytes:
    """Return the header lines of a TTL.

    The rollup removes the older revisions: without it, where history is kept, the older value would come
    back when this one expires.
    """
    return b"" if ttl is None else b"Nats-TTL: %d\r\nNats-Rollup: sub\r\n" % ttl


def block_of(lines: bytes) -> bytes | None:
    """Return a header block of such lines, None for none."""
    return HEADER_LINE + lines + b"\r\n" if lines else None
