"""Credentials files: who may connect, with which subjects, and whether a file still says so."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from attrs import field, frozen

from rosey_deploy.provision.files import read_secret, write_private
from rosey_deploy.provision.jwt import claims_of, encode
from rosey_deploy.provision.keys import Key, key_of, new_key
from rosey_kvstore.jetstream import copies_config
from rosey_rowstore.protocol import API_VERSION, owned_name

__all__ = [
    "EVERYTHING",
    "Credentials",
    "Permissions",
    "issue",
    "plugin_permissions",
    "read_credentials",
    "service_permissions",
]

_JWT: Final = re.compile(r"-----BEGIN NATS USER JWT-----\s+([\w\-.=]+)\s+-+END NATS USER JWT")
_SEED: Final = re.compile(r"-----BEGIN USER NKEY SEED-----\s+(\w+)\s+-+END USER NKEY SEED")
_INBOX: Final = "_INBOX.>"


@frozen(kw_only=True)
class Permissions:
    """The subjects that a user may send to and subscribe to; None for every one of its account."""

    publish: tuple[str, ...] | None = None
    subscribe: tuple[str, ...] | None = None

    def claims(self) -> dict[str, Any]:
        """Return them as members of a user's claims."""
        return {
            "pub": {} if self.publish is None else {"allow": sorted(self.publish)},
            "sub": {} if self.subscribe is None else {"allow": sorted(self.subscribe)},
        }


EVERYTHING: Final = Permissions()


def plugin_permissions(plugin: str, subject: str, *, kv: bool, inspector: bool) -> Permissions:
    """Return what a plugin's own user needs: its bucket as the client uses it, and the row service."""
    bucket = owned_name(plugin)
    stream, api = f"KV_{bucket}", "$JS.API"
    keys = (
        f"$KV.{bucket}.>",
        f"{api}.STREAM.INFO.{stream}",
        f"{api}.STREAM.PURGE.{stream}",
        f"{api}.STREAM.MSG.GET.{stream}",
        f"{api}.DIRECT.GET.{stream}",
        f"{api}.DIRECT.GET.{stream}.$KV.{bucket}.>",
        f"{api}.CONSUMER.CREATE.{stream}",
        f"{api}.CONSUMER.CREATE.{stream}.>",
        f"{api}.CONSUMER.INFO.{stream}.*",
        f"{api}.CONSUMER.DELETE.{stream}.*",
        f"$JS.FC.{stream}.>",
    )
    publish = (
        *(keys if kv else ()),
        f"{subject}.{API_VERSION}.{plugin}.>",
        *((f"{subject}.admin.>",) if inspector else ()),
    )
    subscribe = (_INBOX, *((copies_config(bucket)["dest"],) if kv else ()))
    return Permissions(publish=publish, subscribe=subscribe)


def service_permissions(subject: str) -> Permissions:
    """Return what the row service needs in the storage account: requests, replies, events, discovery."""
    return Permissions(
        publish=("_R_.>", _INBOX, f"{subject}.>", "$SRV.>"),
        subscribe=(_INBOX, f"{subject}.>", "$SRV.>"),
    )


@frozen(kw_only=True)
class Credentials:
    """What a credentials file holds.

    Attributes:
        user: The user's key.
        claims: What its JWT says.
    """

    user: Key
    claims: Mapping[str, Any] = field(repr=False)

    @property
    def issued_at(self) -> int:
        """When the JWT was issued, in seconds since 1970."""
        return int(self.claims.get("iat") or 0)

    def fault(self, *, issuers: set[str], account: str, permissions: Permissions, after: int) -> str | None:
        """Say what is wrong with it, None when it is as wanted.

        Args:
            issuers: The keys that the account trusts.
            account: The account's public key.
            permissions: What it should allow.
            after: Credentials issued at this moment or before are revoked.
        """
        nats = self.claims["nats"]
        if self.claims.get("iss") not in issuers:
            return "signed by a key that is no longer the account's"
        if nats.get("issuer_account", account) != account or self.claims.get("sub") != self.user.public:
            return "of another account or user"
        if self.claims.get("exp"):
            return "limited in time"
        if self.issued_at <= after:
            return "revoked"
        wanted = permissions.claims()
        if any(_allowed(nats.get(way)) != _allowed(wanted[way]) for way in ("pub", "sub")):
            return "with other permissions"
        return None


def _allowed(way: Mapping[str, Any] | None) -> tuple[list[str], list[str]]:
    found = way or {}
    return sorted(found.get("allow") or []), sorted(found.get("deny") or [])


def read_credentials(path: Path) -> Credentials | None:
    """Return what a credentials file holds; None when there is none, or it is of no use.

    Raises:
        InvalidRequest: It cannot be read, or others may read it.
    """
    text = read_secret(path)
    if text is None:
        return None
    token, seed = _JWT.search(text), _SEED.search(text)
    if token is None or seed is None:
        return None
    try:
        return Credentials(user=key_of(seed[1]), claims=claims_of(token[1]))
    except ValueError:
        return None


def issue(
    path: Path,
    name: str,
    *,
    signer: Key,
    account: str,
    permissions: Permissions,
    after: int = 0,
    user: Key | None = None,
) -> Key:
    """Write a credentials file and return the user's key.

    Args:
        path: Where.
        name: What operators see as the user's name.
        signer: The account's key, or a signing key of it.
        account: The account's public key.
        permissions: What it allows.
        after: It is issued later than this moment, at which earlier ones were revoked.
        user: A key to keep; None for a new one.
    """
    key = user or new_key("user")
    nats: dict[str, Any] = {
        "type": "user",
        **permissions.claims(),
        "subs": -1,
        "data": -1,
        "payload": -1,
    }
    if signer.public != account:
        nats["issuer_account"] = account
    token = encode(signer, key.public, name, nats, issued_at=max(int(time.time()), after + 1))
    write_private(
        path,
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        "Whoever holds this file is this user: keep it as a password.\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{key.seed}\n------END USER NKEY SEED------\n",
    )
    return key
