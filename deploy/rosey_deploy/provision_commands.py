"""`rosey-storage init | plan | apply`: from nothing to what `plugins.toml` declares."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import attrs
import typer

from rosey_deploy.plugins_commands import plugins_app
from rosey_deploy.provision.authority import Authority, credentials_folder
from rosey_deploy.provision.compose import ComposeOptions, lay_out, route_password, server_options
from rosey_deploy.provision.files import hold, write_private
from rosey_deploy.provision.parts import Change
from rosey_deploy.provision.reconcile import Target, reconcile
from rosey_deploy.provision.server_config import ServerOptions, server_config
from rosey_deploy.provision_options import (
    DATA,
    FILE,
    URL,
    Data,
    Database,
    File,
    MakeContexts,
    Subject,
    Url,
    target_of,
)
from rosey_deploy.provision_output import Screen, shown_path
from rosey_kvstore.errors import InvalidRequest
from rosey_rowstore.protocol import DEFAULT_SUBJECT_ROOT

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("init")(init)
    app.command("plan")(plan)
    app.command("apply")(apply)
    app.add_typer(plugins_app, name="plugins")


def init(  # noqa: PLR0917 - typer reads them by name
    data: Data = DATA,
    host: Annotated[str, typer.Option(help="Where nats-server listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Its port.")] = 4222,
    store: Annotated[
        Path | None, typer.Option(help="Folder of its data; default: nats/ in the data folder.")
    ] = None,
    server_name: Annotated[str, typer.Option(help="The server's name in a cluster and its log.")] = "rosey",
    route: Annotated[
        list[str] | None,
        typer.Option(help="HOST:PORT of a server of the cluster; once for each, this one included."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate of the server, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    tls_ca: Annotated[Path | None, typer.Option(help="Clients must show a certificate of these.")] = None,
    compose: Annotated[
        Path | None,
        typer.Option(help="Lay everything out for this compose file, as deploy/compose.yaml."),
    ] = None,
    plugins: Annotated[Path | None, typer.Option(help="With --compose: which plugins there are.")] = None,
    servers: Annotated[int, typer.Option(help="With --compose: how many NATS servers, 1 or 3.")] = 1,
    postgres_port: Annotated[
        int, typer.Option(min=1, max=65535, help="With --compose: port of Postgres on this host.")
    ] = 5432,
    force: Annotated[
        bool, typer.Option("--force", help="Write the configuration anew where it was changed.")
    ] = False,
    subject: Subject = DEFAULT_SUBJECT_ROOT,
) -> None:
    """Make operator, system account and storage account, and the configuration of nats-server.

    Keys that are there already are kept: running it again mends what is missing.
    """
    screen = Screen()
    contained = None
    if compose is not None:
        if tls_cert or tls_key or tls_ca or route or store:
            raise InvalidRequest(
                "--compose decides about routes, store and TLS itself.",
                hint="docs/deploy.md says how its containers get certificates.",
            )
        contained = ComposeOptions(
            file=compose,
            plugins=plugins or Path("plugins.toml"),
            servers=servers,
            port=port,
            postgres_port=postgres_port,
        )
        contained.check(data)
    folder = credentials_folder(data)
    fresh = not (folder / "keys" / "operator.nk").exists()
    options = ServerOptions(
        host=host,
        port=port,
        store=(store or data / "nats").absolute(),
        name=server_name,
        certificate=tls_cert,
        key=tls_key,
        authority=tls_ca,
        routes=route or (),
    )
    options.check()
    with hold(folder):
        authority = Authority.make(folder, subject)
        if contained is not None:
            options = server_options(contained, route_password(authority) if servers > 1 else "")
        elif options.routes:
            options = attrs.evolve(options, route_password=route_password(authority))
        laid_out = {} if contained is None else lay_out(data, authority, contained, force=force)
    screen.done("keys", f"{shown_path(folder / 'keys')}/ ({'made' if fresh else 'kept'})")
    screen.done("credentials", f"{shown_path(folder)}/operator.creds, service.creds")
    path = data.absolute() / "nats-server.conf"
    laid_out[path] = force or not path.exists()
    if laid_out[path]:
        if contained is None:
            options.store.mkdir(parents=True, exist_ok=True)
        write_private(path, server_config(authority, options), mode=0o600 if options.routes else 0o644)
    for file, written in laid_out.items():
        screen.done(
            "configuration", shown_path(file) + ("" if written else " (kept; --force writes it anew)")
        )
    if not screen.for_people:
        screen.line(
            {
                "keys": "made" if fresh else "kept",
                "credentials": str(folder),
                "configuration": str(path),
                "written": laid_out[path],
                **({} if contained is None else {"compose": str(data.absolute() / "compose.env")}),
            }
        )
        return
    screen.say()
    screen.say("Next:")
    if contained is None:
        screen.say(f"  nats-server --config {shown_path(path)}")
        screen.say("  rosey-storage plan      # what plugins.toml would make")
        screen.say("  rosey-storage apply     # make it so")
    else:
        screen.say(f"  docker compose --env-file {shown_path(data / 'compose.env')} up -d")
        screen.say(f"  rosey-storage apply{'' if data == DATA else f' --data {shown_path(data)}'}")
    screen.say()
    screen.say(
        f"Keep a copy of {shown_path(folder / 'keys')}/ in a safe place: without these keys no account"
    )
    screen.say("can be changed any more, and whoever has them may do everything.")


def plan(  # noqa: PLR0917 - as above
    data: Data = DATA,
    url: Url = URL,
    database: Database = None,
    plugins: File = FILE,
    replicas: Annotated[
        int | None, typer.Option(min=1, max=5, help="Servers that hold each bucket.", show_default=False)
    ] = None,
    contexts: MakeContexts = True,
    check: Annotated[
        bool, typer.Option("--check", help="End with status 3 when something would change.")
    ] = False,
    subject: Subject = DEFAULT_SUBJECT_ROOT,
) -> None:
    """Show what `apply` would make or change; nothing is."""
    target = target_of(data, url, database, plugins, subject, replicas=replicas, contexts=contexts)
    outcome = _run(target, write=False)
    if outcome and check:
        raise typer.Exit(3)


def apply(  # noqa: PLR0917 - as above
    data: Data = DATA,
    url: Url = URL,
    database: Database = None,
    plugins: File = FILE,
    replicas: Annotated[
        int | None, typer.Option(min=1, max=5, help="Servers that hold each bucket.", show_default=False)
    ] = None,
    contexts: MakeContexts = True,
    subject: Subject = DEFAULT_SUBJECT_ROOT,
) -> None:
    """Make accounts, credentials, buckets, schemas and logins as plugins.toml declares them.

    It may be run again at any time, also after it was killed; what is as declared is left alone. Nothing is
    deleted: a plugin that left the file keeps its storage until `plugins remove`.
    """
    _run(
        target_of(data, url, database, plugins, subject, replicas=replicas, contexts=contexts),
        write=True,
    )


def _run(target: Target, *, write: bool) -> int:
    """Plan or apply, show it, and return how many changes there were."""
    screen = Screen()
    began = time.monotonic()
    count = len(target.plugins.plugins)
    with screen.progress() as progress:
        task = progress.add_task("applying" if write else "comparing", total=count + 1)

        def told(owner: str, changes: Sequence[Change]) -> None:
            screen.changes(owner, changes)
            progress.advance(task)

        outcome = asyncio.run(reconcile(target, write=write, told=told))
    screen.outcome(outcome, written=write, seconds=time.monotonic() - began, plugins=count)
    if outcome.failures:
        raise typer.Exit(1)
    return len(outcome.changes)
