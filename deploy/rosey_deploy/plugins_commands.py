"""`rosey-storage plugins …`: look at provisioned plugins; rotate, suspend, resume or remove one."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from rosey_deploy.provision import actions
from rosey_deploy.provision.parts import World
from rosey_deploy.provision.reconcile import Target, opened
from rosey_deploy.provision.users import read_credentials
from rosey_deploy.provision_options import (
    DATA,
    FILE,
    URL,
    Data,
    Database,
    File,
    Name,
    Subject,
    Url,
    target_of,
)
from rosey_deploy.provision_output import Screen, shown_path, standing_members
from rosey_kvstore.errors import InvalidRequest, NotProvisioned
from rosey_rowstore.plugins import Plugin, Plugins
from rosey_rowstore.protocol import DEFAULT_SUBJECT_ROOT, check_plugin

__all__ = ["plugins_app"]

T = TypeVar("T")

plugins_app = typer.Typer(
    name="plugins",
    help="Look at provisioned plugins, and rotate, suspend or remove one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@plugins_app.command("ls")
def list_plugins(
    data: Data = DATA,
    url: Url = URL,
    database: Database = None,
    plugins: File = FILE,
    subject: Subject = DEFAULT_SUBJECT_ROOT,
) -> None:
    """List the plugins, declared or provisioned, with what they hold."""
    target = target_of(data, url, database, plugins, subject)
    screen = Screen()

    async def work() -> None:
        async with opened(target, write=False) as world:
            names = await _names(world, target.plugins)
            screen.standings(
                await asyncio.gather(*(actions.standing(world, target.plugins, name) for name in names))
            )

    asyncio.run(work())


@plugins_app.command("show")
def show_plugin(  # noqa: PLR0917 - as above
    name: Name,
    data: Data = DATA,
    url: Url = URL,
    database: Database = None,
    plugins: File = FILE,
    subject: Subject = DEFAULT_SUBJECT_ROOT,
) -> None:
    """Show one plugin: its account, credentials, limits, and what it holds."""
    target = target_of(data, url, database, plugins, subject)
    check_plugin(name)

    async def work() -> None:
        async with opened(target, write=False) as world:
            if name not in await _names(world, target.plugins):
                actions.declared(target.plugins, name)
            _show(world, await actions.standing(world, target.plugins, name), target)

    asyncio.run(work())


@plugins_app.command("rotate")
def rotate_plugin(  # noqa: PLR0917 - as above
    name: Name,
    data: Data = DATA,
    url: Url = URL,
    database: Database = None,
    plugins: File = FILE,
    subject: Subject = DEFAULT_SUBJECT_ROOT,
) -> None:
    """Give a plugin new credentials and passwords; every earlier one is refused from then on."""
    target = target_of(data, url, database, plugins, subject)
    screen = Screen()
    plugin = actions.declared(target.plugins, name)

    async def work(world: World) -> list[Path]:
        return await actions.rotate(world, plugin)

    files = _with_world(target, work)
    if not screen.for_people:
        screen.line({"plugin": name, "rotated": [str(path) for path in files]})
    for path in files:
        screen.done("new", shown_path(path))
    screen.say(
        "Every earlier credential of the plugin is revoked. A plugin that reads its file again when it"
    )
    screen.say("reconnects, as rosey_storage does, goes on by itself; copy the file to where it runs.")


@plugins_app.command("suspend")
def suspend_plugin(  # noqa: PLR0917 - as above
    name: Name,
    data: Data = DATA,
    url: Url = URL,
    database: Database = None,
    plugins: File = FILE,
    subject: Subject = DEFAULT_SUBJECT_ROOT,
) -> None:
    """Shut a plugin out at once; its data stay, and `plugins resume` lets it in again."""
    _set_suspended(target_of(data, url, database, plugins, subject), name, suspended=True)


@plugins_app.command("resume")
def resume_plugin(  # noqa: PLR0917 - as above
    name: Name,
    data: Data = DATA,
    url: Url = URL,
    database: Database = None,
    plugins: File = FILE,
    subject: Subject = DEFAULT_SUBJECT_ROOT,
) -> None:
    """Let a suspended plugin in again, with the credentials it has."""
    _set_suspended(target_of(data, url, database, plugins, subject), name, suspended=False)


@plugins_app.command("remove")
def remove_plugin(  # noqa: PLR0917 - as above
    name: Name,
    export: Annotated[
        Path | None,
        typer.Option("--export", file_okay=False, help="First write its keys and rows below this folder."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    data: Data = DATA,
    url: Url = URL,
    database: Database = None,
    plugins: File = FILE,
    subject: Subject = DEFAULT_SUBJECT_ROOT,
) -> None:
    """Remove a plugin's bucket, account, schema, logins and credentials, with everything in them."""
    target = target_of(data, url, database, plugins, subject, contexts=True)
    check_plugin(name)
    screen = Screen()

    async def work(world: World) -> None:
        if name not in await _names(world, target.plugins):
            raise NotProvisioned(f"There is nothing of a plugin {name!r}.")
        found = await actions.standing(world, target.plugins, name)
        if not yes:
            _confirm(screen, found)
        if export is not None:
            written = await actions.export(world, found.plugin, export)
            _tell_export(screen, name, written)
        await actions.remove(world, found.plugin, lambda what: screen.done("removed", what))

    _with_world(target, work)
    if not screen.for_people:
        screen.line({"plugin": name, "removed": True})
    if target.plugins.get(name) is not None:
        declared_in = shown_path(target.plugins.path or Path("plugins.toml"))
        screen.say(f"{declared_in} still names {name}: the next apply would make it again, empty.")


def _confirm(screen: Screen, found: actions.Standing) -> None:
    name, bucket = found.plugin.name, found.bucket
    if not sys.stdin.isatty():
        raise InvalidRequest(
            f"Everything of {name} would go.", hint="Give --yes to remove it without asking."
        )
    screen.say(f"This removes everything of {name}, for good:")
    if bucket is not None:
        screen.say(f"  its bucket, {bucket.messages:,} messages, {bucket.bytes:,} bytes")
    if found.rows is not None:
        screen.say("  its tables and their rows")
    screen.say("  its account and credentials; what runs with them is disconnected")
    typer.confirm("Remove it?", abort=True)


def _tell_export(screen: Screen, name: str, written: Mapping[str, Any]) -> None:
    if not screen.for_people:
        screen.line({"plugin": name, "exported": written})
        return
    rows = written.get("rows") or {}
    screen.done(
        "exported",
        f"{written.get('keys', 0):,} keys, {sum(rows.values()):,} rows of {len(rows)} tables"
        f" to {shown_path(Path(written['folder']))}",
    )


def _set_suspended(target: Target, name: str, *, suspended: bool) -> None:
    plugin = actions.declared(target.plugins, name)

    async def work(world: World) -> bool:
        return await actions.set_suspended(world, plugin, suspended=suspended)

    changed = _with_world(target, work)
    screen = Screen()
    if not screen.for_people:
        screen.line({"plugin": name, "suspended": suspended, "changed": changed})
    word = "suspended" if suspended else "not suspended"
    screen.say(f"{name} is {word}{'' if changed else ' already'}.")


def _with_world(target: Target, work: Callable[[World], Awaitable[T]]) -> T:
    async def run() -> T:
        async with opened(target, write=True) as world:
            return await work(world)

    return asyncio.run(run())


async def _names(world: World, plugins: Plugins) -> list[str]:
    """Return every plugin there is, declared or provisioned, and look at the rows of all."""
    names = set(plugins.plugins)
    names |= {name.removeprefix("plugin_") for name in world.accounts if name.startswith("plugin_")}
    if world.rows is not None:
        names |= set(await world.rows.known())
        known: list[Plugin] = [
            plugins.get(name) or Plugin(name=name, rows=True, limits=plugins.default_limits)
            for name in sorted(names)
        ]
        await world.rows.look([plugin for plugin in known if plugin.rows])
    return sorted(names)


def _show(world: World, found: actions.Standing, target: Target) -> None:
    screen = Screen()
    plugin, bucket, authority = found.plugin, found.bucket, world.authority
    files = {
        "credentials": authority.plugin_credentials(plugin.name),
        "administrator": authority.admin_credentials(plugin.name),
    }
    settings = {
        "ROSEY_STORAGE_URL": target.url,
        "ROSEY_STORAGE_CREDENTIALS": str(files["credentials"]),
        "ROSEY_ENV": "production",
    }
    if not screen.for_people:
        screen.line(
            standing_members(found)
            | {
                "credentials": {what: str(path) for what, path in files.items() if path.exists()},
                "settings": settings,
            }
        )
        return
    screen.standings([found])
    screen.say()
    if found.trouble:
        screen.say(f"  trouble         {found.trouble}")
    screen.say(f"  account         {found.account or '-'}")
    for what, path in files.items():
        held = read_credentials(path)
        since = (
            "" if held is None else time.strftime(", since %Y-%m-%d %H:%M", time.localtime(held.issued_at))
        )
        screen.say(f"  {what:<15} {shown_path(path) if held else '-'}{since}")
    if bucket is not None:
        screen.say(
            f"  bucket          history {bucket.config.get('max_msgs_per_subject')},"
            f" {bucket.replicas} replica(s), {bucket.consumers} watches and lists now"
        )
    if found.rows:
        screen.say(f"  rows            missing: {', '.join(found.rows)}")
    elif found.rows is not None:
        screen.say("  rows            as declared")
    screen.say()
    screen.say("  What the plugin needs in its environment:")
    for variable, value in settings.items():
        screen.say(f"    {variable}={value}")


def _minute(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
