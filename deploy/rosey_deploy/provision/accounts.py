"""The claims of accounts: what the storage account exports, what a plugin's account imports and may use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

from rosey_deploy.provision.jwt import claims_of, encode
from rosey_deploy.provision.keys import Key
from rosey_rowstore.plugins import Plugin
from rosey_rowstore.protocol import API_VERSION, owned_name

__all__ = [
    "AREAS",
    "CONNECTIONS",
    "CONSUMERS",
    "SUBSCRIPTIONS",
    "Account",
    "Wanted",
    "differences",
    "storage_claims",
    "system_claims",
]

AREAS: Final = ("rows", "tables", "migrations", "reports")
"""What of the service plugins may call; `admin` is the inspector's alone, `events` nobody's."""

CONNECTIONS: Final = 32
SUBSCRIPTIONS: Final = 1024
CONSUMERS: Final = 128
"""What a plugin's account may have at once: its processes, an operator's tools, watches and lists."""

_FOR_EVER: Final = 2**53 - 1
_SECOND: Final = 1_000_000_000
_HOUR: Final = 3600 * _SECOND
_ANYBODY: Final = "*"
_UNLIMITED: Final = {
    "subs": -1,
    "data": -1,
    "payload": -1,
    "imports": -1,
    "exports": -1,
    "wildcards": True,
    "conn": -1,
    "leaf": -1,
}


def system_claims() -> dict[str, Any]:
    """Return the claims of the system account, through which accounts are made."""
    return _account(_UNLIMITED)


def storage_claims(subject: str) -> dict[str, Any]:
    """Return the claims of the storage account: four areas for every plugin, one for the inspector.

    Every export is private: an account that imports one shows a token that the storage account signed for
    it and that subject. A reply is let through as long as the longest call may take; NATS' own two
    minutes would lose that of a long migration.
    """
    plugins = f"{subject}.{API_VERSION}.*"
    exports = [
        _export(area, f"{plugins}.{area}.>", 24 * _HOUR if area == "migrations" else _HOUR) for area in AREAS
    ]
    return _account(_UNLIMITED, exports=[*exports, _export("admin", f"{subject}.admin.>", _HOUR)])


def _export(name: str, subject: str, threshold: int) -> dict[str, Any]:
    return {
        "name": name,
        "subject": subject,
        "type": "service",
        "token_req": True,
        "response_type": "Singleton",
        "response_threshold": threshold,
    }


def _account(limits: Mapping[str, Any], **members: Any) -> dict[str, Any]:
    return {
        "type": "account",
        "limits": dict(limits),
        "default_permissions": {"pub": {}, "sub": {}},
        **members,
    }


@frozen(kw_only=True)
class Account:
    """An account as the server has it."""

    public: str
    name: str
    nats: Mapping[str, Any]

    @classmethod
    def of(cls, token: str) -> Account:
        """Return the account of a JWT; `ValueError` when it is none."""
        claims = claims_of(token)
        return cls(public=str(claims["sub"]), name=str(claims.get("name") or ""), nats=claims["nats"])

    @property
    def revoked_until(self) -> int:
        """Credentials issued at this moment (seconds since 1970) or before are revoked; 0 when none are."""
        return int((self.nats.get("revocations") or {}).get(_ANYBODY) or 0)

    @property
    def suspended(self) -> bool:
        """Whether the plugin's own user is shut out."""
        return "suspended" in (self.nats.get("tags") or [])

    @property
    def issuers(self) -> set[str]:
        """The keys whose users it trusts."""
        return {self.public, *(key for key in self.nats.get("signing_keys") or [] if isinstance(key, str))}


@frozen(kw_only=True)
class Wanted:
    """A plugin's account as it should be.

    Attributes:
        plugin: What `plugins.toml` says of it.
        subject: The first token of the service's subjects.
        account: The account's public key.
        signer: The key that signs its users; another than the account's own where that was lost.
        storage: The storage account's key, which signs what may be imported.
        replicas: How many servers hold the bucket.
        revoked_until: See `Account`.
        shut_out: The public key of the plugin's user while it is suspended.
    """

    plugin: Plugin
    subject: str
    account: str
    signer: str
    storage: Key
    replicas: int = 1
    revoked_until: int = 0
    shut_out: str | None = None

    def claims(self) -> dict[str, Any]:
        """Return the claims."""
        name = self.plugin.name
        revocations = {_ANYBODY: self.revoked_until} if self.revoked_until else {}
        if self.shut_out:
            revocations[self.shut_out] = _FOR_EVER
        claims = _account(
            self._limits(),
            imports=self._imports(),
            description=f"Storage of Rosey's plugin {name}",
            tags=["rosey-plugin", *(["suspended"] if self.shut_out else [])],
        )
        if revocations:
            claims["revocations"] = revocations
        if self.signer != self.account:
            claims["signing_keys"] = [self.signer]
        return claims

    def token(self, operator: Key) -> str:
        """Return the account's JWT."""
        return encode(operator, self.account, owned_name(self.plugin.name), self.claims())

    def _limits(self) -> dict[str, Any]:
        limits: dict[str, Any] = {
            "subs": SUBSCRIPTIONS,
            "data": -1,
            "payload": -1,
            "imports": len(self._subjects()),
            "exports": 0,
            "wildcards": True,
            "conn": CONNECTIONS,
            "leaf": 0,
            "disallow_bearer": True,
        }
        if self.plugin.kv:
            size = self.plugin.limits.bucket_size
            limits |= {
                "mem_storage": 0,
                "disk_storage": size * self.replicas,
                "streams": 1,
                "consumer": CONSUMERS,
                "disk_max_stream_bytes": size,
                "max_bytes_required": True,
            }
        return limits

    def _subjects(self) -> dict[str, str]:
        """Return what is imported: never more than the plugin's own name, in any area."""
        prefix = f"{self.subject}.{API_VERSION}.{self.plugin.name}"
        found = {area: f"{prefix}.{area}.>" for area in AREAS}
        if self.plugin.inspector:
            found["admin"] = f"{self.subject}.admin.>"
        return found

    def _imports(self) -> list[dict[str, Any]]:
        return [
            {
                "name": area,
                "subject": subject,
                "account": self.storage.public,
                "type": "service",
                "token": encode(
                    self.storage,
                    self.account,
                    subject,
                    {"type": "activation", "subject": subject, "kind": "service"},
                ),
            }
            for area, subject in self._subjects().items()
        ]


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return what differs between two accounts' claims, as words; empty when the server's will do."""
    told = []
    old, new = _plain(found), _plain(wanted)
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if name == "limits":
            told += _limit_differences(before or {}, after or {})
        else:
            told.append(name.replace("_", " "))
    return told


def _limit_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} {before.get(name, 0)} → {after.get(name, 0)}"
        for name in sorted({*before, *after})
        if before.get(name, 0) != after.get(name, 0)
    ]


def _plain(claims: Mapping[str, Any]) -> dict[str, Any]:
    """Return claims without what is empty, and with tokens read: they hold the time of their making."""
    plain = {name: value for name, value in claims.items() if value and name not in ("version", "type")}
    plain["imports"] = sorted(map(_import, claims.get("imports") or []))
    plain["limits"] = {name: value for name, value in (claims.get("limits") or {}).items() if value}
    plain.pop("default_permissions", None)
    return plain


def _import(found: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        token = claims_of(str(found.get("token") or ""))
        allowed = (str(token["iss"]), str(token["sub"]), str(token["nats"].get("subject")))
    except (ValueError, KeyError):
        allowed = ("", "", "")
    subject = re.sub(r"\s", "", str(found.get("subject")))
    return (str(found.get("name")), subject, str(found.get("account")), str(found.get("type")), *allowed)
