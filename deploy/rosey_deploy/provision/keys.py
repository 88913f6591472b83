"""nkeys: the key pairs of operator, accounts and users. A seed is never printed, logged or in a repr."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Final, Literal

import nkeys  # type: ignore[import-untyped] # it ships no types
from attrs import field, frozen

from rosey_deploy.provision.files import read_secret, write_private
from rosey_kvstore.errors import InvalidRequest

__all__ = ["Key", "Kind", "kept_key", "key_of", "new_key"]

Kind = Literal["operator", "account", "user"]

_PREFIXES: Final[dict[Kind, Any]] = {
    "operator": nkeys.PREFIX_BYTE_OPERATOR,
    "account": nkeys.PREFIX_BYTE_ACCOUNT,
    "user": nkeys.PREFIX_BYTE_USER,
}
_LETTERS: Final = {"operator": "O", "account": "A", "user": "U"}


@frozen
class Key:
    """A key pair; `public` names whom it stands for, as `ACZ…` for an account."""

    public: str
    seed: str = field(repr=False)

    def sign(self, data: bytes) -> bytes:
        """Return the signature of `data`."""
        signature: bytes = nkeys.from_seed(bytearray(self.seed.encode())).sign(data)
        return signature


def new_key(kind: Kind) -> Key:
    """Return a new key pair."""
    return key_of(nkeys.encode_seed(os.urandom(32), _PREFIXES[kind]).decode())


def key_of(seed: str) -> Key:
    """Return the key pair of a seed.

    Raises:
        ValueError: It is no seed; the message does not hold it.
    """
    try:
        return Key(nkeys.from_seed(bytearray(seed.encode())).public_key.decode(), seed)
    except Exception:  # noqa: BLE001 - nkeys raises its own, binascii's and nacl's errors
        raise ValueError("no nkey seed") from None


def kept_key(path: Path, kind: Kind, *, make: bool) -> Key | None:
    """Return the key of a file; a new one is written there first where `make` allows it.

    Raises:
        InvalidRequest: The file holds something else.
    """
    text = read_secret(path)
    if text is None:
        if not make:
            return None
        key = new_key(kind)
        write_private(path, key.seed + "\n")
        return key
    with contextlib.suppress(ValueError):
        key = key_of(text.strip())
        if key.public.startswith(_LETTERS[kind]):
            return key
    raise InvalidRequest(
        f"{path} holds no seed of an {kind}.", hint="Restore it from a copy; nothing replaces it."
    )
