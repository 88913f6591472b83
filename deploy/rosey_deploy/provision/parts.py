"""What a plugin's storage consists of; each part tells what is not as declared, and makes it so.

`settle` is both: with `write` off it only tells. So `plan` and `apply` cannot disagree. Every part may be
settled again at any time, and each leaves behind what the next run can see: a command that was killed is
simply run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from attrs import define, field, frozen

from rosey_deploy.provision import accounts, buckets
from rosey_deploy.provision.accounts import Account, Wanted
from rosey_deploy.provision.authority import Authority
from rosey_deploy.provision.buckets import Bucket, shown_size
from rosey_deploy.provision.contexts import Contexts
from rosey_deploy.provision.keys import Key, kept_key
from rosey_deploy.provision.resolver import Resolver
from rosey_deploy.provision.rows import Rows
from rosey_deploy.provision.users import (
    EVERYTHING,
    Credentials,
    Permissions,
    issue,
    plugin_permissions,
    read_credentials,
)
from rosey_kvstore.connection import TlsFiles
from rosey_kvstore.errors import InvalidRequest, NotProvisioned
from rosey_rowstore.plugins import Plugin
from rosey_rowstore.protocol import owned_name

__all__ = ["PLUGIN_PARTS", "Change", "Part", "World"]

Verb = Literal["make", "change"]


@frozen(kw_only=True)
class Change:
    """Something that is not as declared.

    Attributes:
        owner: The plugin, or `rosey` for what belongs to the installation.
        part: As `account`, `bucket`.
        verb: `make` for what is missing, `change` for what differs.
        detail: What it will be, or what differs.
    """

    owner: str
    part: str
    verb: Verb
    detail: str


@define
class World:
    """What a run works on.

    Attributes:
        authority: The keys.
        servers: NATS, as URLs.
        resolver: The accounts that NATS knows.
        rows: The database, None where no plugin has rows.
        contexts: Contexts of the `nats` tool, None where none are wanted.
        replicas: How many servers hold a bucket; None for as many as now, 1 for a new one.
        timeout: Seconds that one request to a server may take.
        tls: The files by which NATS is reached.
        accounts: By name; kept up with what is pushed.
    """

    authority: Authority
    servers: Sequence[str]
    resolver: Resolver
    rows: Rows | None = None
    contexts: Contexts | None = None
    replicas: int | None = None
    timeout: float = 10.0
    tls: TlsFiles | None = None
    accounts: dict[str, Account] = field(factory=dict)
    connections: asyncio.Semaphore = field(factory=lambda: asyncio.Semaphore(16))

    async def read_accounts(self) -> None:
        """Learn which accounts the servers have.

        Raises:
            InvalidRequest: Two accounts have one name, so nobody can tell which is meant.
        """
        for account in await self.resolver.accounts():
            before = self.accounts.get(account.name)
            if before is not None and before.public != account.public:
                raise InvalidRequest(
                    f"NATS has two accounts named {account.name}: {before.public} and {account.public}.",
                    hint="Remove the one that is not used, with the nats or nsc tool.",
                )
            self.accounts[account.name] = account

    def account(self, plugin: str) -> Account | None:
        """Return the plugin's account as the servers have it."""
        return self.accounts.get(owned_name(plugin))

    def key(self, plugin: str, *, make: bool = False) -> Key | None:
        """Return the key that signs the plugin's users."""
        return kept_key(self.authority.plugin_key(plugin), "account", make=make)

    def replicas_of(self, account: Account | None) -> int:
        """Return how many servers the plugin's bucket should stand on."""
        if self.replicas is not None:
            return self.replicas
        limits = {} if account is None else account.nats.get("limits") or {}
        one = int(limits.get("disk_max_stream_bytes") or 0)
        return max(1, int(limits.get("disk_storage") or 0) // one) if one > 0 else 1


class Part(Protocol):
    """One part of a plugin's storage."""

    name: str

    async def settle(self, world: World, plugin: Plugin, *, write: bool) -> Change | None:
        """Return what is not as declared, None when all is; with `write`, make it so first."""


class CredentialsPart:
    """The plugin's key, and the files of its two users."""

    name = "credentials"

    async def settle(self, world: World, plugin: Plugin, *, write: bool) -> Change | None:
        """See `Part`."""
        key, account = world.key(plugin.name), world.account(plugin.name)
        public = account.public if account else key.public if key else ""
        after = account.revoked_until if account else 0
        faults: list[tuple[Path, str, Permissions, str, Credentials | None]] = []
        for path, user, permissions in credential_files(world, plugin):
            found = read_credentials(path)
            fault = "is missing"
            if found is not None and key is not None:
                fault = (
                    found.fault(issuers={key.public}, account=public, permissions=permissions, after=after)
                    or ""
                )
            if fault:
                faults.append((path, user, permissions, fault, found))
        if not faults:
            return None
        fresh = all(found is None for *_, found in faults)
        change = Change(
            owner=plugin.name,
            part=self.name,
            verb="make" if fresh else "change",
            detail=", ".join(
                path.name if fresh else f"{path.name} {fault}" for path, _, _, fault, _ in faults
            ),
        )
        if write:
            signer = world.key(plugin.name, make=True)
            assert signer is not None  # noqa: S101 - made above
            for path, user, permissions, fault, found in faults:
                issue(
                    path,
                    user,
                    signer=signer,
                    account=public or signer.public,
                    permissions=permissions,
                    after=after,
                    # A user that only gets other rights stays who it is, suspended or not.
                    user=found.user if found is not None and "permissions" in fault else None,
                )
        return change


def credential_files(world: World, plugin: Plugin) -> list[tuple[Path, str, Permissions]]:
    """Return path, user's name and permissions of the plugin's two files."""
    authority, name = world.authority, owned_name(plugin.name)
    narrow = plugin_permissions(plugin.name, authority.subject, kv=plugin.kv, inspector=plugin.inspector)
    return [
        (authority.plugin_credentials(plugin.name), name, narrow),
        (authority.admin_credentials(plugin.name), f"{name} admin", EVERYTHING),
    ]


class AccountPart:
    """The plugin's account on the NATS servers."""

    name = "account"

    async def settle(self, world: World, plugin: Plugin, *, write: bool) -> Change | None:
        """See `Part`."""
        account = world.account(plugin.name)
        key = world.key(plugin.name)
        if account is None or key is None:
            if write:
                await push_account(world, plugin)
            detail = owned_name(plugin.name) + (", inspector" if plugin.inspector else "")
            return Change(
                owner=plugin.name, part=self.name, verb="change" if account else "make", detail=detail
            )
        wanted = wanted_account(world, plugin, account, key)
        told = accounts.differences(wanted.claims(), account.nats)
        if not told:
            return None
        if write:
            await push_account(world, plugin)
        return Change(owner=plugin.name, part=self.name, verb="change", detail=", ".join(told))


def wanted_account(
    world: World,
    plugin: Plugin,
    account: Account | None,
    key: Key,
    *,
    suspended: bool | None = None,
    revoked_until: int | None = None,
) -> Wanted:
    """Return the plugin's account as it should be; what an operator has revoked stays so.

    Args:
        world: What the run works on.
        plugin: Whose account.
        account: As the servers have it.
        key: What signs its users.
        suspended: None for as it is.
        revoked_until: None for as it is.
    """
    shut_out = None
    if (account is not None and account.suspended) if suspended is None else suspended:
        user = read_credentials(world.authority.plugin_credentials(plugin.name))
        if user is None:
            raise NotProvisioned(
                f"The plugin {plugin.name!r} has no credentials.", hint="rosey-storage apply makes them."
            )
        shut_out = user.user.public
    before = 0 if account is None else account.revoked_until
    return Wanted(
        plugin=plugin,
        subject=world.authority.subject,
        account=key.public if account is None else account.public,
        signer=key.public,
        storage=world.authority.storage,
        replicas=world.replicas_of(account),
        revoked_until=before if revoked_until is None else revoked_until,
        shut_out=shut_out,
    )


async def push_account(
    world: World, plugin: Plugin, *, suspended: bool | None = None, revoked_until: int | None = None
) -> None:
    """Make or change the plugin's account on the servers."""
    key = world.key(plugin.name, make=True)
    assert key is not None  # noqa: S101 - made above
    wanted = wanted_account(
        world,
        plugin,
        world.account(plugin.name),
        key,
        suspended=suspended,
        revoked_until=revoked_until,
    )
    await world.resolver.push(wanted.token(world.authority.operator))
    name = owned_name(plugin.name)
    world.accounts[name] = Account(public=wanted.account, name=name, nats=wanted.claims())


class BucketPart:
    """The plugin's bucket."""

    name = "bucket"

    async def settle(self, world: World, plugin: Plugin, *, write: bool) -> Change | None:
        """See `Part`."""
        if not plugin.kv:
            return None
        limits = plugin.limits
        new = Change(
            owner=plugin.name,
            part=self.name,
            verb="make",
            detail=f"{shown_size(limits.bucket_size)}, values up to {shown_size(limits.value_size)},"
            f" history {limits.history}",
        )
        account = world.account(plugin.name)
        if account is None or world.key(plugin.name) is None:
            return new  # only ever in a plan: there is nobody to ask yet
        config = buckets.wanted_config(plugin, replicas=world.replicas_of(account))
        credentials = world.authority.admin_credentials(plugin.name)
        if not write and not credentials.exists():
            return new
        async with (
            world.connections,
            Bucket.open(
                world.servers, credentials, plugin.name, tls=world.tls, timeout=world.timeout
            ) as bucket,
        ):
            found = await bucket.state()
            if found is None:
                if write:
                    await bucket.make(config)
                return new
            told = buckets.differences(config, found.config)
            if not told:
                return None
            if write:
                await bucket.change(found, config)
        return Change(owner=plugin.name, part=self.name, verb="change", detail=", ".join(told))


class RowsPart:
    """The plugin's schema and logins, or its SQLite file."""

    name = "rows"

    async def settle(self, world: World, plugin: Plugin, *, write: bool) -> Change | None:
        """See `Part`."""
        if not plugin.rows:
            return None
        assert world.rows is not None  # noqa: S101 - checked before anything is settled
        told = world.rows.faults(plugin.name)
        if not told:
            return None
        if write:
            await world.rows.provision(plugin)
        verb: Verb = "make" if any(word.startswith(("the schema", "the file")) for word in told) else "change"
        return Change(owner=plugin.name, part=self.name, verb=verb, detail=", ".join(told))


class ContextPart:
    """The plugin's context of the `nats` tool."""

    name = "context"

    async def settle(self, world: World, plugin: Plugin, *, write: bool) -> Change | None:
        """See `Part`."""
        if world.contexts is None:
            return None
        name, credentials = owned_name(plugin.name), world.authority.admin_credentials(plugin.name)
        what = f"administrator of the plugin {plugin.name}"
        fault = world.contexts.fault(name, credentials, what)
        if fault is None:
            return None
        if write:
            world.contexts.write(name, credentials, what)
        missing = fault == "is missing"
        return Change(
            owner=plugin.name,
            part=self.name,
            verb="make" if missing else "change",
            detail=f"nats --context {name}" if missing else fault,
        )


PLUGIN_PARTS: tuple[Part, ...] = (
    # A plugin may find its credentials a moment before its account is there, never the other way round.
    CredentialsPart(),
    AccountPart(),
    BucketPart(),
    RowsPart(),
    ContextPart(),
)
