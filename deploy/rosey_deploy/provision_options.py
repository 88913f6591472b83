"""The options that an operator's commands share, and the target they make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rosey_deploy.provision.contexts import context_folder
from rosey_deploy.provision.reconcile import Target
from rosey_kvstore.errors import InvalidRequest
from rosey_rowstore.plugins import Plugins

__all__ = [
    "DATA",
    "FILE",
    "URL",
    "Data",
    "Database",
    "File",
    "MakeContexts",
    "Name",
    "Subject",
    "Url",
    "target_of",
]

Data = Annotated[
    Path,
    typer.Option("--data", envvar="ROSEY_STORAGE_DATA", help="Data folder; its credentials/ holds the keys."),
]
Url = Annotated[str, typer.Option("--url", envvar="ROSEY_STORAGE_URL", help="NATS: nats://HOST:PORT.")]
Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar="ROSEY_STORAGE_DATABASE",
        help="postgresql://… of a login that may make roles, or sqlite:FOLDER.",
        show_default=False,
    ),
]
File = Annotated[
    Path, typer.Option("--plugins", envvar="ROSEY_STORAGE_PLUGINS", help="Which plugins there are.")
]
Subject = Annotated[str, typer.Option("--subject", envvar="ROSEY_STORAGE_SUBJECT", hidden=True)]
MakeContexts = Annotated[
    bool,
    typer.Option(
        "--contexts/--no-contexts",
        envvar="ROSEY_STORAGE_CONTEXTS",
        help="Make contexts of the `nats` command line tool.",
    ),
]
Name = Annotated[str, typer.Argument(metavar="PLUGIN", help="The plugin's name.", show_default=False)]

DATA = Path(".rosey")
URL = "nats://127.0.0.1:4222"
FILE = Path("plugins.toml")


def target_of(
    data: Path,
    url: str,
    database: str | None,
    plugins: Path,
    subject: str,
    *,
    replicas: int | None = None,
    contexts: bool = False,
) -> Target:
    """Return where and what to provision.

    Raises:
        InvalidRequest: There is no `plugins.toml`, or it cannot be read.
    """
    if not plugins.exists():
        raise InvalidRequest(
            f"There is no file {plugins}.",
            path="ROSEY_STORAGE_PLUGINS",
            hint="It says which plugins there are: [plugins.quotes] on one line, rows = true on the next.",
        )
    return Target(
        data=data,
        url=url,
        database=database,
        plugins=Plugins.load(plugins.absolute()),
        subject=subject,
        replicas=replicas,
        contexts=context_folder() if contexts else None,
    )
