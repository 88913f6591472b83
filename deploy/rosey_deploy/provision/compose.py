"""What the compose files beside this package need: settings, secrets and the servers' configuration."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from attrs import frozen

from rosey_deploy.provision.authority import Authority
from rosey_deploy.provision.files import read_secret, write_private
from rosey_deploy.provision.installation import service_settings, write_service_settings
from rosey_deploy.provision.places import Places, ServicePlaces, database_url, moved
from rosey_deploy.provision.server_config import ServerOptions
from rosey_kvstore.errors import InvalidRequest
from rosey_rowstore.databases.postgres.logins import SERVICE_ROLE
from rosey_rowstore.plugins import Plugins
from rosey_rowstore.protocol import DEFAULT_SUBJECT_ROOT

__all__ = ["ComposeOptions", "lay_out", "route_password", "server_options"]

DATABASE: Final = "rosey"
_SECRETS: Final = "/run/secrets"
_SHOWN: Final = "/etc/rosey"
# The image's own user; whoever is root here gives the service's files to it, for it must not run as root.
_IMAGE_USER: Final = 10001


@frozen(kw_only=True)
class ComposeOptions:
    """What an operator decides about the containers.

    Attributes:
        file: The compose file.
        plugins: `plugins.toml`; the service sees its folder.
        servers: How many NATS servers the file starts: 1, or 3 of a cluster.
        port: Port of NATS on this host; a cluster takes the ones after it as well.
        postgres_port: Port of Postgres on this host.
    """

    file: Path
    plugins: Path
    servers: int = 1
    port: int = 4222
    postgres_port: int = 5432

    @property
    def names(self) -> list[str]:
        """The servers as they call each other."""
        return ["nats"] if self.servers == 1 else [f"nats-{n}" for n in range(1, self.servers + 1)]

    def check(self, data: Path) -> None:
        """Raise `InvalidRequest` for files that are not there, or that containers may not see."""
        if not self.file.is_file():
            raise InvalidRequest(f"There is no file {self.file}.", hint="As deploy/compose.yaml of a clone.")
        if self.servers not in (1, 3):
            raise InvalidRequest("A cluster here has 3 servers.", path="--servers", hint="1 or 3.")
        Plugins.load(self.plugins)
        folder = self.plugins.resolve().parent
        if data.resolve().is_relative_to(folder):
            raise InvalidRequest(
                f"Containers see the folder of {self.plugins.name}, and the secrets in {data} with it.",
                path="--plugins",
                hint="Keep plugins.toml, and the plugins' migrations, in a folder of their own.",
            )
        if os.geteuid() == 0 and not (
            self.plugins.stat().st_mode & stat.S_IROTH and folder.stat().st_mode & stat.S_IXOTH
        ):
            raise InvalidRequest(
                f"The container's user may not read {self.plugins}.",
                path="--plugins",
                hint=f"chmod -R o+rX {folder}; it holds no secret.",
            )


def server_options(options: ComposeOptions, password: str) -> ServerOptions:
    """Return the configuration of NATS as its container sees it; the command names the server."""
    return ServerOptions(
        host="0.0.0.0",  # noqa: S104 - of the container; compose publishes it on loopback alone
        store=Path("/data"),
        monitor="127.0.0.1:8222",
        routes=[f"{name}:6222" for name in options.names] if options.servers > 1 else (),
        route_password=password,
    )


def route_password(authority: Authority) -> str:
    """Return the password of the cluster's routes, made once."""
    return _kept(authority.folder / "routes.password")


def lay_out(data: Path, authority: Authority, options: ComposeOptions, *, force: bool) -> dict[Path, bool]:
    """Write what is missing, or everything with `force`; secrets that are there are kept in any case.

    Returns:
        The files that an operator may want to know, and whether each was written.
    """
    password = _kept(authority.folder / "postgres.password")
    urls = [f"nats://127.0.0.1:{options.port + n}" for n in range(options.servers)]
    service = ServicePlaces(
        url=",".join(f"nats://{name}:4222" for name in options.names),
        database="postgres:5432",
        credentials=f"{_SECRETS}/service.creds",
        plugins=f"{_SHOWN}/{options.plugins.name}",
    )
    places = Places(
        url=",".join(urls),
        database=_database("postgres", password, f"127.0.0.1:{options.postgres_port}"),
        plugins=str(options.plugins.absolute()),
        replicas=options.servers,
        service=service,
    )
    written: dict[Path, bool] = {}
    where = authority.folder / "installation.toml"
    if written.setdefault(where, force or not where.exists()):
        places.save(authority.folder)
    settings = _service(authority, service)
    for path in (write_service_settings(authority, settings), authority.service_credentials):
        if os.geteuid() == 0:
            os.chown(path, _IMAGE_USER, _IMAGE_USER)
    path = data.absolute() / "compose.env"
    if written.setdefault(path, force or not path.exists()):
        write_private(path, _environment(data, options), mode=0o644)
    return written


def _service(authority: Authority, places: ServicePlaces) -> dict[str, str]:
    """Return the row service's settings; its login is made by `apply`, and has its password from now on."""
    before = service_settings(authority).get("ROSEY_STORAGE_DATABASE")
    database = before or _database(SERVICE_ROLE, secrets.token_urlsafe(24), "postgres:5432")
    found = {
        "ROSEY_STORAGE_URL": str(places.url),
        "ROSEY_STORAGE_CREDENTIALS": str(places.credentials),
        "ROSEY_STORAGE_PLUGINS": str(places.plugins),
        "ROSEY_STORAGE_DATABASE": moved(database, places.database),
    }
    if authority.subject != DEFAULT_SUBJECT_ROOT:
        found["ROSEY_STORAGE_SUBJECT"] = authority.subject
    return found


def _database(user: str, password: str, place: str) -> str:
    host, _, port = place.rpartition(":")
    return database_url({"user": user, "password": password, "dbname": DATABASE, "host": host, "port": port})


def _kept(path: Path) -> str:
    """Return the password of a file, made at random if there is none."""
    if (found := read_secret(path)) is None:
        found = secrets.token_urlsafe(24)
        write_private(path, found)  # without an end of line: Postgres' image takes the file as it is
    return found.strip()


def _environment(data: Path, options: ComposeOptions) -> str:
    user, group = (os.geteuid(), os.getegid()) if os.geteuid() else (_IMAGE_USER, _IMAGE_USER)
    members = {
        "COMPOSE_FILE": options.file.absolute(),
        "COMPOSE_PROJECT_NAME": "rosey",
        "ROSEY_DATA": data.absolute(),
        "ROSEY_PLUGINS": options.plugins.absolute().parent,
        # Who the row service runs as: it has to read its two secrets, which are closed to others.
        "ROSEY_UID": user,
        "ROSEY_GID": group,
        "ROSEY_POSTGRES_PORT": options.postgres_port,
        "ROSEY_NATS_PORT": options.port,
    }
    for n in range(1, options.servers + 1) if options.servers > 1 else ():
        members[f"ROSEY_NATS_{n}_PORT"] = options.port + n - 1
    lines = "".join(f"{name}={value}\n" for name, value in members.items())
    return (
        "# For `docker compose --env-file …`, written by `rosey-storage init --compose`; yours to change.\n"
        f"{lines}"
        "# ROSEY_NATS_IMAGE=nats:2.12-alpine\n"
        "# ROSEY_POSTGRES_IMAGE=postgres:18-alpine\n"
        "# ROSEY_SERVICE_IMAGE=rosey-storage\n"
    )
