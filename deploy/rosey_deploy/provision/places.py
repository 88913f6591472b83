"""How an installation is reached: by an operator's commands, and by its row services.

`credentials/installation.toml`, written by `rosey-storage init --compose` and free to be edited, is what the
commands take where no option and no variable says otherwise:

    url = "nats://127.0.0.1:4222"
    database = "postgresql://postgres:…@127.0.0.1:5432/rosey"
    plugins = "/srv/rosey/plugins/plugins.toml"
    replicas = 3                              # servers that hold each bucket

    [service]                                 # what differs for a row service in a container
    url = "nats://nats:4222"
    database = "postgres:5432"
    credentials = "/run/secrets/service.creds"
    plugins = "/etc/rosey/plugins.toml"
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

from attrs import asdict, field, fields, frozen
from psycopg.conninfo import conninfo_to_dict

from rosey_deploy.provision.files import read_secret, write_private
from rosey_kvstore.errors import InvalidRequest
from rosey_rowstore.protocol import nearest

__all__ = ["FILE_NAME", "Places", "ServicePlaces", "database_url", "moved"]

FILE_NAME: Final = "installation.toml"

_HOST: Final = re.compile(r"[A-Za-z0-9._-]+")


@frozen(kw_only=True)
class ServicePlaces:
    """What a row service sees otherwise; None for what it sees as the operator does.

    Attributes:
        url: NATS.
        database: `HOST:PORT` of Postgres.
        credentials, plugins: Paths of its files.
    """

    url: str | None = None
    database: str | None = None
    credentials: str | None = None
    plugins: str | None = None


@frozen(kw_only=True)
class Places:
    """What `installation.toml` says.

    Attributes:
        url: NATS, comma-separated servers.
        database: `postgresql://…` of a login that may make roles, or `sqlite:FOLDER`.
        plugins: The path of `plugins.toml`.
        replicas: How many servers hold a bucket.
        tls_ca, tls_cert, tls_key: As the settings `ROSEY_STORAGE_TLS_…`.
        service: What row services see otherwise.
    """

    url: str | None = None
    database: str | None = None
    plugins: str | None = None
    replicas: int | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    service: ServicePlaces = field(factory=ServicePlaces)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the file of a credentials folder; without one nothing is said.

        Raises:
            InvalidRequest: It cannot be read, others may read it, or it says what nobody knows.
        """
        path = folder / FILE_NAME
        text = read_secret(path)
        if text is None:
            return cls()
        try:
            found = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InvalidRequest(f"{path} is no TOML: {error}.") from error
        service = found.pop("service", {})
        if not isinstance(service, dict):
            raise InvalidRequest(f"{path}: service is a table, [service].")
        return cls(
            **_members(cls, found, path, ""),
            service=ServicePlaces(**_members(ServicePlaces, service, path, "service.")),
        )

    def save(self, folder: Path) -> Path:
        """Write the file, and return its path."""
        members = asdict(self)
        service = members.pop("service")
        lines = ["# How `rosey-storage apply` and row services reach this installation. It holds a password."]
        lines += [f"{name} = {json.dumps(value)}" for name, value in members.items() if value is not None]
        lines += ["", "[service]"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in service.items() if value is not None]
        write_private(folder / FILE_NAME, "\n".join(lines) + "\n")
        return folder / FILE_NAME


def _members(kind: type[Any], found: Mapping[str, Any], path: Path, prefix: str) -> dict[str, Any]:
    known = [member.name for member in fields(kind) if member.name != "service"]
    for name, value in found.items():
        if name not in known:
            near = nearest(name, known)
            raise InvalidRequest(
                f"{path}: there is no member {prefix}{name}" + (f"; did you mean {near}?" if near else "."),
                hint=f"Its members are {', '.join(known)}.",
            )
        wanted = int if name == "replicas" else str
        if type(value) is not wanted:
            raise InvalidRequest(f"{path}: {prefix}{name} is {'a number' if wanted is int else 'a text'}.")
    return dict(found)


def moved(database: str, place: str | None) -> str:
    """Return a Postgres URL at another `HOST:PORT`; unchanged without one, or for another database."""
    if place is None or not database.startswith(("postgresql://", "postgres://")):
        return database
    host, _, port = place.rpartition(":")
    members = _told(database)
    members.pop("hostaddr", None)
    return database_url({**members, "host": host or port, "port": port if host else "5432"})


def database_url(members: Mapping[str, str]) -> str:
    """Return a Postgres URL that says `members`, named as libpq names them."""
    rest = dict(members)
    user, password = rest.pop("user", ""), rest.pop("password", "")
    database = quote(rest.pop("dbname", "postgres"), safe="")
    place, host, port = "", rest.get("host", ""), rest.get("port", "")
    if _HOST.fullmatch(host) and (not port or port.isdigit()):  # neither a socket's folder nor several hosts
        place = rest.pop("host") + (f":{rest.pop('port')}" if port else "")
    query = urlencode(rest, quote_via=quote, safe="")
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return f"postgresql://{login}@{place}/{database}" + (f"?{query}" if query else "")


def _told(database: str) -> dict[str, str]:
    return {name: str(value) for name, value in conninfo_to_dict(database).items() if value is not None}
