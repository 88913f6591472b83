"""NATS headers: written with what could break out of a line refused, read only when asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping

from rosey_kvstore.errors import InvalidRequest

__all__ = ["HEADER_LINE", "encode_headers", "parse_headers", "status_of"]

HEADER_LINE = b"NATS/1.0\r\n"

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BREAKS = re.compile(r"[\r\n]")


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Return the header block of a message, with the empty line that ends it.

    Raises:
        InvalidRequest: A name is no header token, or a value holds a line break or a lone surrogate.
    """
    lines = [HEADER_LINE]
    for name, value in headers.items():
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                f"{name!r} is no header name.", hint="ASCII letters, digits and - are always right."
            )
        if _BREAKS.search(value):
            raise InvalidRequest(f"The header {name} holds a line break.", path=name)
        try:
            lines.append(f"{name}: {value}\r\n".encode())
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"The header {name} holds a lone surrogate.", path=name) from error
    lines.append(b"\r\n")
    return b"".join(lines)


def status_of(block: bytes) -> str | None:
    """Return the inline status of a header block, as `404`, or None when it has none."""
    if block[8:9] != b" ":
        return None
    status = block[9:12]
    return status.decode("ascii") if status.isdigit() else None


def parse_headers(block: bytes) -> dict[str, str]:
    """Return the headers of a block; `Status` and `Description` hold an inline status, as in nats-py."""
    first, _, rest = block.partition(b"\r\n")
    found = {}
    if first[8:9] == b" ":
        found["Status"] = first[9:12].decode("ascii", "replace")
        if description := first[13:].strip():
            found["Description"] = description.decode("utf-8", "replace")
    for line in rest.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            found[name.strip().decode("ascii", "replace")] = value.strip().decode("utf-8", "replace")
    return found
