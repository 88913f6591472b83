"""NATS JWTs, as nats-server reads them: claims signed with an nkey."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any, Final

from rosey_deploy.provision.keys import Key

__all__ = ["claims_of", "encode"]

_HEADER: Final = b'{"typ":"JWT","alg":"ed25519-nkey"}'


def encode(
    signer: Key, subject: str, name: str, nats: Mapping[str, Any], *, issued_at: int | None = None
) -> str:
    """Return the token that `signer` gives `subject`.

    Args:
        signer: Whose word it is.
        subject: The public key that the claims are about.
        name: What operators read.
        nats: The claims themselves.
        issued_at: Seconds since 1970; None for now.
    """
    claims: dict[str, Any] = {
        "iat": int(time.time()) if issued_at is None else issued_at,
        "iss": signer.public,
        "name": name,
        "sub": subject,
        "nats": {**nats, "version": 2},
    }
    digest = hashlib.sha256(json.dumps(claims, sort_keys=True).encode()).digest()
    claims["jti"] = base64.b32encode(digest).decode().rstrip("=")
    head, body = _base64(_HEADER), _base64(json.dumps(claims, separators=(",", ":")).encode())
    signature = _base64(signer.sign(f"{head}.{body}".encode()))
    return f"{head}.{body}.{signature}"


def claims_of(token: str) -> dict[str, Any]:
    """Return what a token says; its signature is the server's to check.

    Raises:
        ValueError: It is no token.
    """
    parts = token.strip().split(".")
    if len(parts) != 3:
        raise ValueError("no JWT")
    claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    if not isinstance(claims, dict) or not isinstance(claims.get("nats"), dict):
        raise ValueError("no JWT of NATS")
    return claims


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
