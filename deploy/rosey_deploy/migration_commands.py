"""`rosey-storage migrations …`: a plugin's schema, forward and back.

With the database at hand (`--database`, `ROSEY_STORAGE_DATABASE`, or local mode) the command runs the
migrations itself; otherwise the row service does, asked over NATS. Both show each revision while they run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from attrs import evolve

from rosey_deploy.migration_callers import MigrationsOf, Place, open_caller
from rosey_deploy.migration_output import Output
from rosey_kvstore.errors import InvalidRequest
from rosey_rowstore.protocol import ApplyRequest, RollbackRequest

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
        "--database",
        help="Run on this database, without the row service; default: ROSEY_STORAGE_DATABASE.",
        show_default=False,
    ),
]
Url = Annotated[
    str | None,
    typer.Option("--url", help="nats://… or sqlite:…; default: ROSEY_STORAGE_URL.", show_default=False),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Run it, undo it, and print its SQL.")]
Target = Annotated[str, typer.Argument(metavar="TARGET", help="A revision, or head.")]

Work = Callable[[MigrationsOf, Output], Awaitable[None]]


@migrations_app.command("status")
def show_status(  # noqa: PLR0917 - typer reads options off the parameters
    plugin: Name,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with status 1 when something is pending or drifted.")
    ] = False,
    folder: Folder = None,
    plugins: PluginsFile = None,
    database: DatabaseUrl = None,
    url: Url = None,
) -> None:
    """Show what is applied and pending, and how the schema differs from what was made; piped, as JSON."""

    async def work(caller: MigrationsOf, output: Output) -> None:
        found = await caller.status()
        output.status(found)
        if check and (found.pending or found.drift):
            raise typer.Exit(1)

    _run(Place(plugin=plugin, folder=folder, plugins=plugins, database=database, url=url), work)


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
    request = ApplyRequest(target=target, dry_run=dry_run, allow_destructive=allow_destructive)

    async def work(caller: MigrationsOf, output: Output) -> None:
        if dry_run:
            reply = await caller.apply(request)
            output.sql("applied", len(reply.applied), reply.sql or "")
            return
        began = time.monotonic()
        with output.run():
            reply = await caller.apply(request)
        if reply.applied:
            output.ended("applied", len(reply.applied), time.monotonic() - began)
        else:
            output.nothing_to_do(await caller.status())

    _run(
        Place(plugin=plugin, folder=folder, plugins=plugins, database=database, url=url), work, quiet=dry_run
    )


@migrations_app.command("rollback")
def rollback(  # noqa: PLR0917 - typer reads options off the parameters
    plugin: Name,
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="The revision to go back to, or base.", show_default=False),
    ],
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
    request = RollbackRequest(target=target, dry_run=dry_run)

    async def work(caller: MigrationsOf, output: Output) -> None:
        if dry_run:
            reply = await caller.rollback(request, allowed=allow_rollback)
            output.sql("rolled back", len(reply.rolled_back), reply.sql or "")
            return
        began = time.monotonic()
        with output.run():
            reply = await caller.rollback(request, allowed=allow_rollback)
        if reply.rolled_back:
            output.ended("rolled back", len(reply.rolled_back), time.monotonic() - began)
        else:
            output.nothing_to_do(await caller.status())

    _run(
        Place(plugin=plugin, folder=folder, plugins=plugins, database=database, url=url), work, quiet=dry_run
    )


@migrations_app.command("sql")
def show_sql(  # noqa: PLR0917 - typer reads options off the parameters
    plugin: Name,
    target: Target = "head",
    folder: Folder = None,
    plugins: PluginsFile = None,
    database: DatabaseUrl = None,
    url: Url = None,
) -> None:
    """Print the SQL that `apply` would run, by running it and undoing it."""

    async def work(caller: MigrationsOf, output: Output) -> None:
        reply = await caller.apply(ApplyRequest(target=target, dry_run=True, allow_destructive=True))
        output.sql("applied", len(reply.applied), reply.sql or "")

    _run(Place(plugin=plugin, folder=folder, plugins=plugins, database=database, url=url), work, quiet=True)


@migrations_app.command("new")
def new(  # noqa: PLR0917 - typer reads options off the parameters
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
    """Write a revision that follows the last one.

    With --autogenerate the plugin's tables.py is compared with its schema; without a database at hand, with
    what its revisions make of an empty one.
    """
    from rosey_rowstore.migrations.template import write_revision  # noqa: PLC0415 - only here

    place = Place(plugin=plugin, folder=folder, plugins=plugins, database=database, url=url)
    into, output = place.to_write(), Output(plugin)
    if not autogenerate:
        output.written(write_revision(into, message))
        return
    generated = asyncio.run(_generated(place, into, _declared(into)))
    if generated["empty"]:
        output.console.print("The schema is what tables.py declares; nothing was written.")
    else:
        output.written(write_revision(into, message, generated))


def _declared(folder: Path) -> str:
    path = folder / "tables.py"
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise InvalidRequest(
            f"{path} could not be read: {error.strerror}.",
            hint="It declares `metadata = sqlalchemy.MetaData()` with the tables as they should be.",
        ) from error


async def _generated(place: Place, folder: Path, tables: str) -> Mapping[str, Any]:
    if place.database_at_hand() is None:
        scratch = evolve(place, folder=folder, database="sqlite::memory:")
        async with open_caller(scratch, None) as caller:
            await caller.apply(ApplyRequest(target="head", allow_destructive=True))
            return await caller.autogenerate(tables)
    async with open_caller(place, None) as caller:
        found = await caller.status()
        if found.pending:
            raise InvalidRequest(
                f"{len(found.pending)} revisions are pending; the schema would be compared too early.",
                hint=f"rosey-storage migrations apply {place.plugin}",
            )
        return await caller.autogenerate(tables)


def _run(place: Place, work: Work, *, quiet: bool = False) -> None:
    output = Output(place.plugin)

    async def main() -> None:
        async with open_caller(place, None if quiet else output.progress) as caller:
            await work(caller, output)

    asyncio.run(main())
