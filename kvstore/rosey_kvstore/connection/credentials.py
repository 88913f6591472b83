"""A NATS credentials file, read anew at each connect, so that a rotated one is taken up."""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
from pathlib import Path

import nkeys  # type: ignore[import-untyped] # it ships no types
from nats.errors import Error

__all__ = ["CredentialsFile", "UnusableCredentialsError"]

_JWT = re.compile(rb"-----BEGIN NATS USER JWT-----\s+([\w\-.=]+)\s+-+END NATS USER JWT")
_SEED = re.compile(rb"-----BEGIN USER NKEY SEED-----\s+(\w+)\s+-+END USER NKEY SEED")


class UnusableCredentialsError(Error):
    """The credentials file is missing or holds no user JWT and seed; of nats-py's tree, so it retries."""


class CredentialsFile:
    """Where a user's JWT and seed stand.

    nats-py's own reader loops for ever on a file without a JWT, which stops the whole event loop.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self) -> None:
        """Raise `UnusableCredentialsError` when the file could not be used for connecting now."""
        self.jwt()
        self.sign("")

    def jwt(self) -> bytes:
        """Return the user JWT."""
        return self._read(_JWT, "user JWT")

    def sign(self, nonce: str) -> bytes:
        """Return the server's nonce signed with the user's seed, in base64."""
        seed = bytearray(self._read(_SEED, "user seed"))
        try:
            pair = nkeys.from_seed(seed)
            signature: bytes = base64.b64encode(pair.sign(nonce.encode()))
            pair.wipe()
        except Exception as error:  # nkeys raises binascii's, its own and nacl's errors
            raise UnusableCredentialsError(f"{self._path} holds no usable user seed.") from error
        return signature

    def expired(self) -> dt.datetime | None:
        """Return when the JWT expired, None when it has not, or does not say."""
        try:
            body = self.jwt().split(b".")[1]
            moment = json.loads(base64.urlsafe_b64decode(body + b"=" * (-len(body) % 4))).get("exp")
            expires = dt.datetime.fromtimestamp(moment, dt.UTC) if moment else None
        except (UnusableCredentialsError, ValueError, IndexError, TypeError, OverflowError):
            return None
        return expires if expires is not None and expires <= dt.datetime.now(dt.UTC) else None

    def _read(self, pattern: re.Pattern[bytes], what: str) -> bytes:
        try:
            content = self._path.read_bytes()
        except OSError as error:
            raise UnusableCredentialsError(
                f"{self._path} cannot be read: {error.strerror or error}."
            ) from error
        found = pattern.search(content)
        if found is None:
            raise UnusableCredentialsError(f"{self._path} holds no {what}.")
        return found[1]
