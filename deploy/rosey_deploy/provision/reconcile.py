"""From declared to done: every part looked at, told or made so; one plugin's fault stops no other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

from attrs import field, frozen

from rosey_deploy.provision.authority import Authority, credentials_folder
from rosey_deploy.provision.contexts import Contexts
from rosey_deploy.provision.files import hold
from rosey_deploy.provision.installation import OWNER, Installation
from rosey_deploy.provision.parts import PLUGIN_PARTS, Change, World
from rosey_deploy.provision.places import ServicePlaces
from rosey_deploy.provision.resolver import Resolver
from rosey_deploy.provision.rows import open_rows
from rosey_kvstore.connection import TlsFiles
from rosey_kvstore.errors import InvalidRequest, StorageError
from rosey_rowstore.plugins import Plugin, Plugins
from rosey_rowstore.protocol import DEFAULT_SUBJECT_ROOT, Fault

__all__ = ["Failure", "Outcome", "Target", "Told", "opened", "reconcile"]

_AT_ONCE: Final = 16

Told = Callable[[str, Sequence[Change]], None]


@frozen(kw_only=True)
class Target:
    """Where to provision, and what.

    Attributes:
        data: The data folder; its `credentials/` holds the keys.
        url: NATS, comma-separated servers.
        database: `postgresql://…` of a login that may make roles, or `sqlite:FOLDER`.
        plugins: `plugins.toml`, read.
        subject: The first token of the row service's subjects.
        contexts: Where contexts of the `nats` tool go; None for none.
        replicas: How many servers hold a bucket; None for as many as now.
        timeout: Seconds that one request to NATS may take.
        service: What row services see otherwise.
        tls: The private certificate authority, and the own certificate, by which NATS is reached.
    """

    data: Path
    url: str
    plugins: Plugins
    database: str | None = None
    subject: str = DEFAULT_SUBJECT_ROOT
    contexts: Path | None = None
    replicas: int | None = None
    timeout: float = 10.0
    service: ServicePlaces = field(factory=ServicePlaces)
    tls: TlsFiles | None = None


@frozen(kw_only=True)
class Failure:
    """A plugin that could not be settled; the others were."""

    owner: str
    error: StorageError | Fault


@frozen(kw_only=True)
class Outcome:
    """What a run found.

    Attributes:
        changes: What was, or is, not as declared; in the order of the file.
        failures: What could not be settled.
        leftovers: Provisioned plugins that the file does not name; they are left alone.
    """

    changes: Sequence[Change] = ()
    failures: Sequence[Failure] = ()
    leftovers: Sequence[str] = field(factory=list)


@contextlib.asynccontextmanager
async def opened(target: Target, *, write: bool) -> AsyncIterator[World]:
    """Reach the servers, with the credentials folder held while something may be written.

    Raises:
        StorageError: There are no keys, a server is away, or it refuses.
    """
    folder = credentials_folder(target.data)
    authority = Authority.load(folder, target.subject)
    servers = [server.strip() for server in target.url.split(",")]
    async with contextlib.AsyncExitStack() as stack:
        if write:
            stack.enter_context(hold(folder))
            if authority.service_fault():
                authority.mend_files()  # the way in itself
        resolver = await Resolver.open(
            servers, authority.operator_credentials, tls=target.tls, timeout=target.timeout
        )
        stack.push_async_callback(resolver.close)
        world = World(
            authority=authority,
            servers=servers,
            resolver=resolver,
            rows=await stack.enter_async_context(open_rows(target.database)),
            contexts=None if target.contexts is None else Contexts(target.contexts, target.url, target.tls),
            replicas=target.replicas,
            timeout=target.timeout,
            tls=target.tls,
        )
        await world.read_accounts()
        yield world


def _silent(_owner: str, _changes: Sequence[Change]) -> None:
    return None


async def reconcile(target: Target, *, write: bool, told: Told = _silent) -> Outcome:
    """Tell what is not as `plugins.toml` declares; with `write`, make it so.

    Args:
        target: Where, and what.
        write: Off for a plan.
        told: Called when a plugin, or the installation, is through, with its changes.

    Raises:
        StorageError: Nothing could be looked at: no keys, a server away.
    """
    plugins = list(target.plugins.plugins.values())
    _check(target, plugins)
    async with opened(target, write=write) as world:
        path = target.plugins.path or Path("plugins.toml")
        installation = Installation(
            world=world,
            url=target.url,
            plugins=path,
            service=target.service,
            database=target.database,
            tls={} if target.tls is None else target.tls.variables(),
        )
        changes = await installation.settle(write=write)
        told(OWNER, changes)
        if world.rows is not None:
            await world.rows.look([plugin for plugin in plugins if plugin.rows])
        turns = asyncio.Semaphore(_AT_ONCE)
        failures: list[Failure] = []

        async def one(plugin: Plugin) -> list[Change]:
            found: list[Change] = []
            async with turns:
                try:
                    for part in PLUGIN_PARTS:
                        change = await part.settle(world, plugin, write=write)
                        if change is not None:
                            found.append(change)
                except (StorageError, Fault) as error:
                    failures.append(Failure(owner=plugin.name, error=error))
                told(plugin.name, found)
                return found

        for found in await asyncio.gather(*map(one, plugins)):
            changes += found
        return Outcome(changes=changes, failures=failures, leftovers=await _leftovers(world, target.plugins))


def _check(target: Target, plugins: Sequence[Plugin]) -> None:
    with_rows = [plugin.name for plugin in plugins if plugin.rows]
    if with_rows and target.database is None:
        raise InvalidRequest(
            f"{', '.join(with_rows[:3])}{' and others have' if len(with_rows) > 3 else ''} rows, and no"
            " database is given.",
            path="ROSEY_STORAGE_DATABASE",
            hint="--database postgresql://admin:password@host/database, or sqlite:FOLDER.",
        )


async def _leftovers(world: World, plugins: Plugins) -> list[str]:
    names = {name.removeprefix("plugin_") for name in world.accounts if name.startswith("plugin_")}
    if world.rows is not None:
        names |= set(await world.rows.known())
    return sorted(names - set(plugins.plugins))
