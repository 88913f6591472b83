"""Keys: any text to a plugin, tokens of a NATS subject on the bus, one-to-one.

`user:bob` is `user=3Abob`, `a..b` is `a=2E=2Eb`. A dot between two other characters stays a dot, so the
server can filter by what stands before it.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from rosey_kvstore.errors import InvalidName, TypeMismatch

__all__ = [
    "EDGE_DOT",
    "MAX_ENCODED",
    "check_prefix",
    "decode_certain",
    "decode_key",
    "decode_keys",
    "encode_key",
    "filter_tokens",
]

MAX_ENCODED: Final = 512
EDGE_DOT: Final = "=2E"

_PLAIN: Final = re.compile(r"[A-Za-z0-9_/-]+(?:\.[A-Za-z0-9_/-]+)*")
_KEPT: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_/-")
_BYTES: Final = tuple(chr(byte) if byte in _KEPT else f"={byte:02X}" for byte in range(256))
_LONE_DOT: Final = re.compile(r"(?<=[^.])\.(?=[^.])")
_ESCAPE: Final = re.compile(rb"=([0-9A-F]{2})")
# What may stand in many keys at once, a line each: with these escapes a key is written in one way only,
# whatever stands around them. Of a dot that depends on its neighbours, and a line break would make two keys
# of one.
_ORDINARY: Final = bytes(_KEPT) + b".\n"
_CERTAIN: Final = frozenset(b"%02X" % byte for byte in range(256) if byte not in _ORDINARY)
_LINES_AS_TOKENS: Final = bytes.maketrans(b"\n", b".")


def encode_key(key: str) -> str:
    """Return a key as it stands on the bus, behind the bucket's prefix.

    Raises:
        InvalidName: The key is empty, longer than 512 bytes once encoded, or no Unicode text.
        TypeMismatch: The key is no text at all.
    """
    if type(key) is not str and not isinstance(key, str):
        raise TypeMismatch(f"A key is text, not {type(key).__name__}.", path="key")
    return _encode(key)


@lru_cache(maxsize=4096)
def _encode(key: str) -> str:
    if _PLAIN.fullmatch(key):
        encoded = key
    elif not key:
        raise InvalidName("A key has at least one character.", path="key")
    else:
        encoded = ".".join(_token(token) for token in _LONE_DOT.split(key))
    if len(encoded) > MAX_ENCODED:
        raise InvalidName(
            f"The key {key[:40]!r}… has {len(encoded)} bytes once encoded, the most is {MAX_ENCODED}.",
            path="key",
            hint="A character outside A-Z a-z 0-9 _ / - . takes three bytes for each of its UTF-8 bytes.",
        )
    return encoded


def _token(token: str) -> str:
    try:
        return "".join([_BYTES[byte] for byte in token.encode("utf-8")])
    except UnicodeEncodeError as error:
        raise InvalidName("A key holds a lone surrogate, which is no Unicode text.", path="key") from error


def decode_key(encoded: str) -> str | None:
    """Return the key of a subject's tail, or None when no key is written so.

    Such a tail was put by hand, as `user=3abob` or `a=zz`: no key of a plugin reaches it.
    """
    if _PLAIN.fullmatch(encoded):
        return encoded
    try:
        raw = _ESCAPE.sub(lambda found: bytes((int(found[1], 16),)), encoded.encode("utf-8"))
        key = raw.decode("utf-8")
        return key if encode_key(key) == encoded else None
    except (UnicodeError, InvalidName):
        return None


def decode_keys(tails: Sequence[bytes]) -> Sequence[str | None]:
    """Return what `decode_key` says of each, as it came over the wire."""
    if (keys := decode_certain(tails)) is not None:
        return keys
    # What is no UTF-8 is no key of ours.
    return [decode_key(tail.decode("utf-8", "replace")) for tail in tails]


def decode_certain(tails: Sequence[bytes]) -> list[str] | None:
    """Return the key of each in one pass over all of them, or None where one may be no key of a plugin.

    One by one, 10,000 keys with a colon would take longer to decode than to fetch.
    """
    if not tails or max(map(len, tails)) > MAX_ENCODED:
        return None
    joined = b"\n".join(tails)
    # No key has a token without a character, and neither has a list of them.
    tokens = joined.translate(_LINES_AS_TOKENS)
    if not tokens or tokens.startswith(b".") or tokens.endswith(b".") or b".." in tokens:
        return None
    if not _certain(joined):
        return None
    try:
        # Quoted-printable's escapes are ours; what else it knows has no way in.
        return binascii.a2b_qp(joined).decode("utf-8").split("\n")
    except UnicodeDecodeError:
        return None


def _certain(joined: bytes) -> bool:
    """Whether each escape in such lines stands for what is written so in one way only."""
    special = joined.translate(None, _ORDINARY)
    if special.strip(b"="):
        return False
    # A colon is what nearly all of them have.
    if len(special) == joined.count(b"=3A"):
        return True
    return {part[:2] for part in joined.split(b"=")[1:]} <= _CERTAIN


def check_prefix(prefix: str) -> str:
    """Return `prefix` when keys can begin with it.

    Raises:
        InvalidName: It is no Unicode text.
        TypeMismatch: It is no text at all.
    """
    if not isinstance(prefix, str):
        raise TypeMismatch(f"A prefix is text, not {type(prefix).__name__}.", path="prefix")
    try:
        prefix.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidName(
            "A prefix holds a lone surrogate, which is no Unicode text.", path="prefix"
        ) from error
    return prefix


def filter_tokens(prefix: str) -> tuple[str, bool]:
    """Return what every key beginning with `prefix` has as its first tokens, and whether that is certain.

    `("room.42", True)` means: every such key stands below the tokens `room.42`. False means that the
    last dot of the prefix may be a separator (`room.42.x`) or an escaped dot (`room.42.`, `room.42..x`):
    keys of the second kind stand beside these tokens, not below.
    """
    separators = [found.start() for found in _LONE_DOT.finditer(prefix)]
    certain = True
    if prefix.endswith(".") and len(prefix) > 1 and prefix[-2] != ".":
        separators.append(len(prefix) - 1)
        certain = False
    if not separators:
        return "", True
    head = prefix[: separators[-1]]
    return ".".join(_token(token) for token in _LONE_DOT.split(head)), certain
