"""The options that an operator's commands share, and the target they make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from rosey_deploy.provision.authority import credentials_folder
from rosey_deploy.provision.contexts import context_folder
from rosey_deploy.provision.places import Places
from rosey_deploy.provision.reconcile import Target
from rosey_kvstore.connection import TlsFiles
from rosey_kvstore.errors import InvalidRequest
from rosey_rowstore.plugins import Plugins
from rosey_storage.settings import Settings

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

_DEFAULT_URL: Final = "nats://127.0.0.1:4222"
_DEFAULT_FILE: Final = "plugins.toml"

Data = Annotated[
    Path,
    typer.Option("--data", envvar="ROSEY_STORAGE_DATA", help="Data folder; its credentials/ holds the keys."),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="ROSEY_STORAGE_URL",
        help="NATS: nats://HOST:PORT.",
        show_default=_DEFAULT_URL,
    ),
]
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
    Path | None,
    typer.Option(
        "--plugins",
        envvar="ROSEY_STORAGE_PLUGINS",
        help="Which plugins there are.",
        show_default=_DEFAULT_FILE,
    ),
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
# What `installation.toml` says stands behind an option and in front of these.
URL = None
FILE = None


def target_of(
    data: Path,
    url: str | None,
    database: str | None,
    plugins: Path | None,
    subject: str,
    *,
    replicas: int | None = None,
    contexts: bool = False,
) -> Target:
    """Return where and what to provision; what is not given is as `installation.toml` says.

    Raises:
        InvalidRequest: There is no `plugins.toml`, or one of the files cannot be read.
    """
    places = Places.load(credentials_folder(data))
    plugins = plugins or Path(places.plugins or _DEFAULT_FILE)
    given = Settings.load().tls
    if not plugins.exists():
        raise InvalidRequest(
            f"There is no file {plugins}.",
            path="ROSEY_STORAGE_PLUGINS",
            hint="It says which plugins there are: [plugins.quotes] on one line, rows = true on the next.",
        )
    return Target(
        data=data,
        url=url or places.url or _DEFAULT_URL,
        database=database or places.database,
        plugins=Plugins.load(plugins.absolute()),
        subject=subject,
        replicas=replicas or places.replicas,
        service=places.service,
        tls=TlsFiles(
            ca=given.ca or _path(places.tls_ca),
            cert=given.cert or _path(places.tls_cert),
            key=given.key or _path(places.tls_key),
        ),
        contexts=context_folder() if contexts else None,
    )


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
