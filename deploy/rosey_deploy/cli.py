"""The commands of `rosey-storage`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rosey_deploy.probe import DEFAULT_TIMEOUT, ask
from rosey_kvstore.errors import StorageError
from rosey_rowstore.protocol import Fault

__all__ = ["app", "run"]

app = typer.Typer(
    name="rosey-storage",
    help="Storage for Rosey's plugins: the development stack, the row service, and tools for operators.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


_LONGEST_STATEMENT = 200


class Database(StrEnum):
    """The databases of the development stack."""

    POSTGRES = "postgres"
    SQLITE = "sqlite"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rosey-storage {importlib.metadata.version('rosey-storage')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take the options before a command."""


@app.command()
def dev(  # noqa: PLR0917 - typer reads them by name
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND ...]", help="Run this, then stop everything.")
    ] = None,
    database: Annotated[
        Database | None,
        typer.Option(help="Where rows live; PostgreSQL where its wheel exists, otherwise SQLite."),
    ] = None,
    data: Annotated[
        Path, typer.Option(envvar="ROSEY_STORAGE_DATA", help="Folder that keeps the data between runs.")
    ] = Path(".rosey"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of NATS; 0 chooses a free one.")] = 0,
    env_file: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the settings there, as KEY=value lines.")
    ] = None,
    plugins: Annotated[
        Path | None,
        typer.Option(envvar="ROSEY_STORAGE_PLUGINS", help="plugins.toml: limits, and buckets to make."),
    ] = None,
    secure: Annotated[
        bool,
        typer.Option("--secure", help="As in production: only the plugins of plugins.toml, each by itself."),
    ] = False,
    subject: Annotated[str, typer.Option(envvar="ROSEY_STORAGE_SUBJECT", hidden=True)] = "storage",
) -> None:
    """Start NATS, a database and the row service, and keep them up until Ctrl-C.

    With a COMMAND: run it with the settings in its environment, stop everything, exit with its status.
    """
    from rosey_deploy.dev_command import run_dev  # noqa: PLC0415 - --help starts without servers' code
    from rosey_deploy.stack.dev import DevOptions, default_database  # noqa: PLC0415
    from rosey_storage.settings import Settings  # noqa: PLC0415

    Settings.load()  # a misspelt variable is told before anything starts
    options = DevOptions(
        data=data,
        database="postgres"
        if database is Database.POSTGRES
        else "sqlite"
        if database
        else default_database(),
        port=port,
        plugins=Path("plugins.toml") if secure and plugins is None else plugins,
        subject=subject,
        secure=secure,
    )
    raise typer.Exit(
        run_dev(options, command or [], env_file=env_file, database_was_chosen=database is not None)
    )


@app.command()
def serve(
    provision: Annotated[
        bool, typer.Option("--provision", help="Make a plugin's tables on first use, as in development.")
    ] = False,
) -> None:
    """Run the row service in the foreground; its settings are ROSEY_STORAGE_* variables."""
    from rosey_rowstore.service.process import run as run_service  # noqa: PLC0415 - needs an extra
    from rosey_rowstore.settings import ServiceSettings  # noqa: PLC0415

    raise typer.Exit(run_service(ServiceSettings.from_environment(os.environ), provision=provision))


@app.command()
def health(
    url: Annotated[
        str | None,
        typer.Argument(help="As http://127.0.0.1:8080/readyz; by default that of ROSEY_STORAGE_HEALTH."),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.")] = DEFAULT_TIMEOUT,
) -> None:
    """Ask a row service whether it is ready; the exit status is 0 or 1."""
    ready, line = ask(url, timeout)
    typer.echo(line)
    raise typer.Exit(0 if ready else 1)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status; errors are told on stderr."""
    _mount()
    command = typer.main.get_command(app)
    try:
        command.main(list(arguments), prog_name="rosey-storage")
    except SystemExit as ended:  # typer's way to give a status, its own usage errors included
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except (StorageError, Fault) as error:
        _tell(error)
        return 1
    return 0


def _mount() -> None:
    """Add the groups of commands that other modules hold."""
    if not any(group.name == "plugins" for group in app.registered_groups):
        from rosey_deploy.provision_commands import add_commands  # noqa: PLC0415 - --version starts without

        add_commands(app)
    if not any(group.name == "migrations" for group in app.registered_groups):
        from rosey_deploy.migration_commands import migrations_app  # noqa: PLC0415 - --help starts without it

        app.add_typer(migrations_app, name="migrations")
    if importlib.util.find_spec("rosey_deploy.kv_commands") is None:
        return
    if any(group.name == "kv" for group in app.registered_groups):
        return
    from rosey_deploy.kv_commands import kv_app  # noqa: PLC0415

    app.add_typer(kv_app, name="kv")


def _tell(error: StorageError | Fault) -> None:
    """Print an error as its code, what is wrong, and what to do."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    place = f" (at {error.path})" if error.path else ""
    console.print(f"[bold red]{error.code}[/]", end=": ")
    console.print(f"{error.message}{place}", markup=False)
    if place := _place(error.details):
        console.print(f"  At: {place}", markup=False)
    if error.hint:
        console.print(f"  Hint: {error.hint}", markup=False)


def _place(details: Mapping[str, Any]) -> str:
    """Say where in a migration it went wrong."""
    parts = [
        f"{word}{details[name]}"
        for name, word in (("revision", "revision "), ("line", "line "), ("sqlstate", "SQLSTATE "))
        if details.get(name) is not None
    ]
    statement = " ".join(str(details.get("statement") or "").split())
    if statement:
        parts.append(
            statement if len(statement) <= _LONGEST_STATEMENT else f"{statement[:_LONGEST_STATEMENT]}…"
        )
    return ", ".join(parts)
