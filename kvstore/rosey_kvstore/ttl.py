"""Times to live: seconds or a timedelta in, whole seconds out, as JetStream keeps them."""

from __future__ import annotations

import datetime as dt
import math
import re
from typing import Final

from rosey_kvstore.errors import OutOfRange, TypeMismatch

__all__ = ["MAX_TTL", "parse_ttl_header", "whole_seconds"]

# The server counts in nanoseconds of 64 bits, from now; a hundred years stay well below that.
MAX_TTL: Final = 100 * 365 * 86400

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


def whole_seconds(ttl: float | dt.timedelta | None) -> int | None:
    """Return a TTL in whole seconds, rounded up.

    Raises:
        TypeMismatch: It is neither a number of seconds nor a timedelta.
        OutOfRange: It is below a second or above a hundred years.
    """
    if ttl is None:
        return None
    if isinstance(ttl, dt.timedelta):
        # From its integers: total_seconds() as a float would round 1 s and 1 µs of a long TTL away.
        seconds: float = ttl.days * 86400 + ttl.seconds + (1 if ttl.microseconds and ttl.days >= 0 else 0)
        exact = ttl.total_seconds()
    elif isinstance(ttl, bool) or not isinstance(ttl, int | float):
        raise TypeMismatch(
            f"A TTL is a number of seconds or a timedelta, not {type(ttl).__name__}.", path="ttl"
        )
    else:
        exact = seconds = ttl
    if not 1 <= exact <= MAX_TTL:  # NaN is neither
        raise OutOfRange(
            f"A TTL of {exact:g} s is impossible; from 1 s to 100 years.",
            path="ttl",
            hint="None means for ever.",
        )
    return math.ceil(seconds)


def parse_ttl_header(text: str) -> int | None:
    """Return the seconds of a `Nats-TTL` header, as the server reads it, or None for `never`.

    Operators write durations (`1m30s`); the server keeps whole seconds of them.
    """
    if text.isdigit():
        return int(text) or None
    parts = _PART.findall(text)
    if "".join(number + unit for number, unit in parts) != text or not parts:
        return None
    return int(sum(float(number) * _UNITS[unit] for number, unit in parts)) or None
