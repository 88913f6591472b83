"""What an operator does to one plugin: look, rotate, suspend, resume, export, remove."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from attrs import field, frozen

from rosey_deploy.provision.buckets import Bucket, BucketState
from rosey_deploy.provision.export import export_keys, new_folder
from rosey_deploy.provision.parts import CredentialsPart, World, credential_files, push_account
from rosey_deploy.provision.users import issue, read_credentials
from rosey_kvstore.errors import NotProvisioned, StorageError
from rosey_rowstore.plugins import Plugin, Plugins
from rosey_rowstore.protocol import nearest, owned_name

__all__ = [
    "Standing",
    "declared",
    "export",
    "remove",
    "rotate",
    "set_suspended",
    "standing",
]

State = Literal["ready", "suspended", "not applied", "not in plugins.toml"]


@frozen(kw_only=True)
class Standing:
    """A plugin as it stands.

    Attributes:
        plugin: The plugin; with every default where the file does not name it.
        state: In a word or two.
        account: The account's public key, None without one.
        bucket: The bucket, None without one.
        rows: What is missing of its rows, as words; None where it has none by declaration.
        trouble: Why the bucket could not be looked at.
    """

    plugin: Plugin
    state: State
    account: str | None = None
    bucket: BucketState | None = None
    rows: list[str] | None = None
    trouble: str | None = field(default=None)


def declared(plugins: Plugins, name: str) -> Plugin:
    """Return a plugin of the file.

    Raises:
        NotProvisioned: The file does not name it.
    """
    plugin = plugins.get(name)
    if plugin is None:
        near = nearest(name, plugins.plugins)
        raise NotProvisioned(
            f"{plugins.path} names no plugin {name!r}" + (f"; did you mean {near!r}?" if near else "."),
            hint=f"As [plugins.{name}], and then rosey-storage apply.",
        )
    return plugin


async def standing(world: World, plugins: Plugins, name: str) -> Standing:
    """Return how one plugin stands; `world.rows` was looked at before."""
    plugin, account = plugins.get(name), world.account(name)
    state: State = "ready"
    if plugin is None:
        plugin, state = Plugin(name=name, rows=world.rows is not None), "not in plugins.toml"
    elif account is None:
        state = "not applied"
    if account is not None and account.suspended:
        state = "suspended"
    bucket, trouble = None, None
    if account is not None and plugin.kv:
        try:
            async with (
                world.connections,
                Bucket.open(
                    world.servers,
                    world.authority.admin_credentials(name),
                    name,
                    tls=world.tls,
                    timeout=world.timeout,
                ) as opened,
            ):
                bucket = await opened.state()
        except StorageError as error:
            trouble = error.message
    rows = world.rows.faults(name) if world.rows is not None and plugin.rows else None
    if state == "ready" and ((plugin.kv and bucket is None) or rows):
        state = "not applied"
    return Standing(
        plugin=plugin,
        state=state,
        account=None if account is None else account.public,
        bucket=bucket,
        rows=rows,
        trouble=trouble,
    )


async def rotate(world: World, plugin: Plugin) -> list[Path]:
    """Give the plugin new credentials and passwords, and revoke every earlier one; return the files.

    The new ones stand in the same files before the old ones are refused: a plugin that reads its file when
    it reconnects goes on by itself. A run that was killed is run again.

    Raises:
        NotProvisioned: The plugin has no account yet.
    """
    account, signer = world.account(plugin.name), world.key(plugin.name)
    if account is None or signer is None:
        raise _not_applied(plugin.name)
    files = credential_files(world, plugin)
    before = [found.issued_at for path, _, _ in files if (found := read_credentials(path))]
    until = max([int(time.time()), account.revoked_until, *before])
    for path, user, permissions in files:
        issue(path, user, signer=signer, account=account.public, permissions=permissions, after=until)
    await push_account(world, plugin, revoked_until=until)
    if plugin.rows and world.rows is not None:
        await world.rows.new_passwords(plugin)
    return [path for path, _, _ in files]


async def set_suspended(world: World, plugin: Plugin, *, suspended: bool) -> bool:
    """Shut the plugin's own user out, or let it in again; say whether that changed anything.

    What it has stored stays, and the administrator of its account can look at it.
    """
    account = world.account(plugin.name)
    if account is None:
        raise _not_applied(plugin.name)
    if account.suspended == suspended:
        return False
    await push_account(world, plugin, suspended=suspended)
    return True


async def export(world: World, plugin: Plugin, folder: Path) -> Mapping[str, Any]:
    """Write the plugin's keys and rows into a new folder below `folder`, and return what was written."""
    target = new_folder(folder, owned_name(plugin.name))
    told: dict[str, Any] = {"folder": str(target)}
    if plugin.kv and world.account(plugin.name) is not None:
        credentials = world.authority.admin_credentials(plugin.name)
        told["keys"] = await export_keys(
            world.servers,
            credentials,
            plugin.name,
            target / "kv.ndjson",
            tls=world.tls,
            timeout=world.timeout,
        )
    if world.rows is not None and plugin.name in await world.rows.known():
        rows = target / "rows"
        rows.mkdir()
        told["rows"] = await world.rows.export(plugin.name, rows)
    return told


async def remove(world: World, plugin: Plugin, told: Callable[[str], None]) -> None:
    """Remove everything the plugin has; what is gone already is no error.

    Keys and credentials go last: a run that was killed still has them when it is run again.
    """
    name, authority = owned_name(plugin.name), world.authority
    account = world.account(plugin.name)
    if account is not None:
        # Without credentials that count nobody could delete the bucket.
        await CredentialsPart().settle(world, plugin, write=True)
        key = world.key(plugin.name)
        if key is not None and key.public not in account.issuers:
            await push_account(world, plugin)
        if (account.nats.get("limits") or {}).get("disk_storage"):
            async with Bucket.open(
                world.servers,
                authority.admin_credentials(plugin.name),
                plugin.name,
                tls=world.tls,
                timeout=world.timeout,
            ) as bucket:
                if await bucket.delete():
                    told(f"bucket {name}")
        await world.resolver.delete([account.public], authority.operator)
        del world.accounts[name]
        told(f"account {name}")
    if world.rows is not None and plugin.name in await world.rows.known():
        await world.rows.remove(plugin.name)
        told("rows")
    if world.contexts is not None and world.contexts.remove(name):
        told("context of the nats tool")
    for path in (
        authority.plugin_credentials(plugin.name),
        authority.admin_credentials(plugin.name),
        authority.plugin_key(plugin.name),
    ):
        if path.exists():
            path.unlink()
            told(path.name)


def _not_applied(name: str) -> NotProvisioned:
    return NotProvisioned(f"The plugin {name!r} has no account yet.", hint="rosey-storage apply makes it.")
