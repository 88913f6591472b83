"""`rosey-storage migrations …`: a plugin's schema, forward and back.

With the database at hand (`ROSEY_STORAGE_DATABASE`, `--database`, or local mode) the command runs the
migrations itself and shows each revision while it runs; otherwise it asks the row service over NATS.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol

import attrs
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rosey_kvstore.errors import InvalidRequest
from rosey_rowstore.plugins import Plugin, Plugins
from rosey_rowstore.protocol import (
    ApplyReply,
    ApplyRequest,
    RollbackReply,
    RollbackRequest,
    StatusReply,
    check_plugin,
)
from rosey_storage import Storage
from rosey_storage.local import local_target
from rosey_storage.settings import Settings

__all__ = ["migrations_app"]

migrations_app = typer.Typer(
    name="migrations",
    help="Show, write, apply and roll back the migrations of a plugin.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Name = Annotated[str, typer.Argument(metavar="PLUGIN", help="The plugin's name.", show_default=False)]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--folder", help="The plugin's migrations; default: as plugins.toml says.", show_default=False
    ),
]
PluginsFile = Annotated[
    Path | None,
    typer.Option("--plugins", help="plugins.toml; default: ROSEY_STORAGE_PLUGINS.", show_default=False),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database", help="Run on this database; default: ROSEY_STORAGE_DATABASE.", show_default=False
    ),
]
Url = Annotated[
    str | None,
    typer.Option("--url", help="nats://… or sqlite:…; default: ROSEY_STORAGE_URL.", show_default=False),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Run it and undo it; show what would be run.")]
Target = Annotated[str, typer.Argument(help="A revision, or head.")]


class _Caller(Protocol):
    """Migrations of one plugin, here or by the service."""

    async def status(self) -> StatusReply: ...
    async def apply(self, request: ApplyRequest) -> ApplyReply: ...
    async def rollback(self, request: RollbackRequest, *, allowed: bool) -> RollbackReply: ...
    async def autogenerate(self, tables: str) -> Mapping[str, Any]: ...


@migrations_app.command("status")
def show_status(
    plugin: Name,
    check: Annotated[
        bool, typer.Option("--check", help="Exit status 1 when something is pending or drifted.")
    ] = False,
    folder: Folder = None,
    plugins: PluginsFile = None,
    database: DatabaseUrl = None,
    url: Url = None,
) -> None:
    """Show what is applied, what is pending, and how the schema differs from what was made."""

    async def work(caller: _Caller, console: Console) -> None:
        found = await caller.status()
        table = Table(title=f"{plugin} stands at {found.current or 'base'}", title_justify="left", box=None)
        for name in ("Revision", "Message", "Applied", "Seconds"):
            table.add_column(name, header_style="bold", justify="right" if name == "Seconds" else "left")
        for applied in found.applied:
            table.add_row(
                applied.revision,
                Text(applied.message),
                applied.applied_at[:19].replace("T", " "),
                f"{applied.seconds:.3f}",
            )
        for pending in found.pending:
            table.add_row(pending.revision, Text(pending.message), Text("pending", style="yellow"), "")
        console.print(table)
        for sentence in found.drift:
            console.print(Text("drift  ", style="bold yellow").append(sentence, style="default"))
        if check and (found.pending or found.drift):
            raise typer.Exit(1)

    _run(plugin, folder, plugins, database, url, work)


@migrations_app.command("apply")
def apply(  # noqa: PLR0917 - typer reads options off the parameters
    plugin: Name,
    target: Target = "head",
    dry_run: DryRun = False,
    allow_destructive: Annotated[
        bool, typer.Option("--allow-destructive", help="Dropping and narrowing are meant.")
    ] = False,
    folder: Folder = None,
    plugins: PluginsFile = None,
    database: DatabaseUrl = None,
    url: Url = None,
) -> None:
    """Apply what is pending up to TARGET, all of it or nothing."""

    async def work(caller: _Caller, console: Console) -> None:
        began = time.monotonic()
        reply = await caller.apply(
            ApplyRequest(target=target, dry_run=dry_run, allow_destructive=allow_destructive)
        )
        _tell_end(console, plugin, "applied", len(reply.applied), reply.sql, time.monotonic() - began)

    _run(plugin, folder, plugins, database, url, work)


@migrations_app.command("rollback")
def rollback(  # noqa: PLR0917 - typer reads options off the parameters
    plugin: Name,
    target: Annotated[str, typer.Argument(help="The revision to go back to, or base.", show_default=False)],
    dry_run: DryRun = False,
    allow_rollback: Annotated[
        bool, typer.Option("--allow-rollback", help="Meant in production too; needs the database at hand.")
    ] = False,
    folder: Folder = None,
    plugins: PluginsFile = None,
    database: DatabaseUrl = None,
    url: Url = None,
) -> None:
    """Go back to TARGET, by the revisions as they were applied."""

    async def work(caller: _Caller, console: Console) -> None:
        began = time.monotonic()
        reply = await caller.rollback(RollbackRequest(target=target, dry_run=dry_run), allowed=allow_rollback)
        _tell_end(console, plugin, "rolled back", len(reply.rolled_back), reply.sql, time.monotonic() - began)

    _run(plugin, folder, plugins, database, url, work)


@migrations_app.command("sql")
def show_sql(
    plugin: Name,
    target: Target = "head",
    folder: Folder = None,
    plugins: PluginsFile = None,
    database: DatabaseUrl = None,
    url: Url = None,
) -> None:
    """Print the SQL that `apply` would run; everything is run, and undone."""

    async def work(caller: _Caller, console: Console) -> None:
        del console
        reply = await caller.apply(ApplyRequest(target=target, dry_run=True, allow_destructive=True))
        if reply.sql:
            typer.echo(reply.sql)

    _run(plugin, folder, plugins, database, url, work, quiet=True)


@migrations_app.command("new")
def new(
    plugin: Name,
    message: Annotated[str, typer.Argument(help="What the revision does, one line.", show_default=False)],
    autogenerate: Annotated[
        bool, typer.Option("--autogenerate", help="Write what makes the schema what tables.py declares.")
    ] = False,
    folder: Folder = None,
    plugins: PluginsFile = None,
    database: DatabaseUrl = None,
    url: Url = None,
) -> None:
    """Write a revision that follows the last one."""
    from rosey_rowstore.migrations.template import write_revision  # noqa: PLC0415 - only here

    place = _folder(plugin, folder, plugins)
    console = Console(highlight=False, soft_wrap=True)
    if not autogenerate:
        _tell_written(console, write_revision(place, message))
        return
    declared = place / "tables.py"
    try:
        tables = declared.read_text("utf-8")
    except OSError as error:
        raise InvalidRequest(
            f"{declared} could not be read: {error.strerror}.",
            hint="It declares `metadata = sqlalchemy.MetaData()` with the tables as they should be.",
        ) from error

    async def work(caller: _Caller, console: Console) -> None:
        found = await caller.status()
        if found.pending:
            raise InvalidRequest(
                f"{len(found.pending)} revisions are pending; the schema would be compared too early.",
                hint=f"rosey-storage migrations apply {plugin}",
            )
        generated = await caller.autogenerate(tables)
        if generated["empty"]:
            console.print("The schema is what tables.py declares; nothing was written.")
            return
        _tell_written(console, await asyncio.to_thread(write_revision, place, message, generated))

    _run(plugin, place, None, database, url, work)


# what is shown


def _tell_written(console: Console, path: Path) -> None:
    console.print(Text("wrote  ", style="bold green").append(str(path), style="default"))


def _tell_end(console: Console, plugin: str, verb: str, count: int, sql: str | None, seconds: float) -> None:
    if sql is not None:
        typer.echo(sql)
        console.print(Text(f"{count} revisions would be {verb}; nothing was changed.", style="bold"))
    elif count:
        console.print(Text(f"{plugin}: {count} revisions {verb} in {seconds:.2f} s", style="bold green"))
    else:
        console.print(f"{plugin}: nothing to do.")


def _progress(console: Console) -> Callable[[Mapping[str, Any]], None]:
    def told(event: Mapping[str, Any]) -> None:
        if event["event"] == "start":
            console.print(Text("  …    ", style="dim").append(str(event["revision"]), style="default"))
        elif event["event"] == "done":
            console.print(
                Text("  done ", style="green").append(
                    f"{event['revision']}  {event['seconds']:.3f} s", style="default"
                )
            )
        elif event["event"] == "failed":
            console.print(Text("  failed; undone", style="red"))

    return told


# where it runs


def _run(
    plugin: str,
    folder: Path | None,
    plugins: Path | None,
    database: str | None,
    url: str | None,
    work: Callable[[_Caller, Console], Awaitable[None]],
    *,
    quiet: bool = False,
) -> None:
    check_plugin(plugin)
    settings = Settings.load(url=url, plugins=plugins)
    console = Console(highlight=False, soft_wrap=True)

    async def main() -> None:
        async with _caller(
            plugin, folder, settings, database, None if quiet else _progress(console)
        ) as caller:
            await work(caller, console)

    asyncio.run(main())


@asynccontextmanager
async def _caller(
    plugin: str,
    folder: Path | None,
    settings: Settings,
    database: str | None,
    progress: Callable[[Mapping[str, Any]], None] | None,
) -> AsyncIterator[_Caller]:
    database = database or os.environ.get("ROSEY_STORAGE_DATABASE") or None
    if database is None and settings.local:
        database = f"sqlite:{local_target(plugin, settings)}"
    if database is None:
        async with Storage.connect(plugin, url=settings.url, credentials=settings.credentials) as storage:
            yield _ByService(storage)
        return
    # Late: a caller of the service needs no database library.
    from rosey_rowstore.migrations.direct import open_migrations  # noqa: PLC0415

    known = Plugins.load(settings.plugins)
    async with open_migrations(
        database, provision=not settings.production, allow_rollback=not settings.production
    ) as migrations:
        found = known.get(plugin)
        place = folder or (found.migrations if found else None)
        yield _Here(migrations, plugin, known.limits_for(plugin), place, found, progress)


@attrs.frozen
class _ByService:
    """By the row service."""

    storage: Storage

    async def status(self) -> StatusReply:
        return await self.storage.migrations.status()

    async def apply(self, request: ApplyRequest) -> ApplyReply:
        return await self.storage.migrations.apply(
            request.target, dry_run=request.dry_run, allow_destructive=request.allow_destructive
        )

    async def rollback(self, request: RollbackRequest, *, allowed: bool) -> RollbackReply:
        if allowed:
            raise InvalidRequest(
                "--allow-rollback needs the database at hand.",
                hint="Give --database, or set it in plugins.toml.",
            )
        return await self.storage.migrations.rollback(request.target, dry_run=request.dry_run)

    async def autogenerate(self, tables: str) -> Mapping[str, Any]:
        del tables
        raise InvalidRequest(
            "--autogenerate needs the database at hand.",
            hint="Give --database, or --url sqlite: for local mode.",
        )


@attrs.frozen
class _Here:
    """In this process, on the database."""

    migrations: Any
    plugin: str
    limits: Any
    folder: Path | None
    found: Plugin | None
    progress: Callable[[Mapping[str, Any]], None] | None

    async def status(self) -> StatusReply:
        reply: StatusReply = await self.migrations.status(self.plugin, self.limits, self.folder)
        return reply

    async def apply(self, request: ApplyRequest) -> ApplyReply:
        reply: ApplyReply = await self.migrations.apply(
            self.plugin, self.limits, self.folder, request, **self._terms()
        )
        return reply

    async def rollback(self, request: RollbackRequest, *, allowed: bool) -> RollbackReply:
        said = self.found.allow_rollback if self.found else None
        reply: RollbackReply = await self.migrations.rollback(
            self.plugin, self.limits, self.folder, request, allowed=True if allowed else said, **self._terms()
        )
        return reply

    async def autogenerate(self, tables: str) -> Mapping[str, Any]:
        written: Mapping[str, Any] = await self.migrations.autogenerate(self.plugin, self.limits, tables)
        return written

    def _terms(self) -> dict[str, Any]:
        return {
            "who": f"{getpass.getuser()}@{socket.gethostname()}",
            "deadline": asyncio.get_running_loop().time() + self.limits.migration_timeout,
            "progress": self.progress,
        }


def _folder(plugin: str, folder: Path | None, plugins: Path | None) -> Path:
    check_plugin(plugin)
    if folder is not None:
        return folder
    path = Settings.load(plugins=plugins).plugins
    if path is None:
        raise InvalidRequest(
            "Where the migrations of the plugin are is not known.",
            hint="Give --folder, or --plugins plugins.toml.",
        )
    found = Plugins.load(path).get(plugin)
    return found.migrations if found and found.migrations else path.parent / plugin / "migrations"
