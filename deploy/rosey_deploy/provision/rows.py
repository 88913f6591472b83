"""Where rows live, as the provisioner sees it: schemas and logins on Postgres, a file a plugin on SQLite."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict

from rosey_deploy.provision.places import database_url
from rosey_kvstore.errors import InvalidRequest, PermissionDenied, Unavailable
from rosey_rowstore.databases.postgres import inspection, lockdown, logins, removal
from rosey_rowstore.databases.postgres.export import copy_tables
from rosey_rowstore.plugins import Plugin
from rosey_rowstore.protocol import owned_name

__all__ = ["PostgresRows", "Rows", "SqliteRows", "open_rows"]

_CONNECT_SECONDS: Final = 10


class Rows(Protocol):
    """The database of an installation."""

    async def look(self, plugins: Sequence[Plugin]) -> None:
        """Read what stands for these plugins, once; `faults` answers from it."""

    def faults(self, plugin: str) -> list[str]:
        """Return what is missing or different of a plugin, as words."""

    async def provision(self, plugin: Plugin) -> None:
        """Make it so."""

    async def installation_faults(self, service_url: str | None) -> list[str]:
        """Return what is open or missing of the database itself; `service_url` is what services use."""

    async def provision_installation(self, service_url: str | None) -> str:
        """Close what is open, and return the URL that row services use."""

    async def known(self) -> list[str]:
        """Return every plugin that has anything there."""

    async def export(self, plugin: str, folder: Path) -> dict[str, int]:
        """Write every table as `<table>.ndjson` into `folder`; return the rows of each."""

    async def new_passwords(self, plugin: Plugin) -> None:
        """Give the plugin's logins new passwords; what runs goes on."""

    async def remove(self, plugin: str) -> None:
        """Remove everything of a plugin; what is gone already is no error."""


@contextlib.asynccontextmanager
async def open_rows(url: str | None) -> AsyncIterator[Rows | None]:
    """Open the database of a URL; None without one.

    Raises:
        Unavailable: It does not answer.
        PermissionDenied: It takes no such login.
        InvalidRequest: The URL is neither of Postgres nor of a folder of SQLite files.
    """
    if url is None:
        yield None
    elif url.startswith(("postgresql://", "postgres://")):
        with _translated():
            connection = await AsyncConnection.connect(
                url, autocommit=True, connect_timeout=_CONNECT_SECONDS, application_name="rosey-storage"
            )
        try:
            yield PostgresRows(connection, url)
        finally:
            await connection.close()
    elif url.startswith("sqlite:") and (place := url.removeprefix("sqlite:").removeprefix("//")):
        if place == ":memory:" or Path(place).suffix:
            raise InvalidRequest(
                "A database of several plugins in SQLite is a folder.", hint="As sqlite:FOLDER."
            )
        yield SqliteRows(Path(place), url)
    else:
        raise InvalidRequest(
            "The URL of the database cannot be read.",
            path="ROSEY_STORAGE_DATABASE",
            hint="As postgresql://admin:password@host/database, or sqlite:FOLDER.",
        )


@contextlib.contextmanager
def _translated() -> Any:
    """Say in our codes what Postgres refuses; its own words never hold a password."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise PermissionDenied(
            f"The database does not allow it: {error.diag.message_primary}.",
            hint="apply needs a login that may make roles and owns the database, as its superuser.",
        ) from error
    except psycopg.OperationalError as error:
        words = " ".join(str(error).split())
        if "authentication failed" in words or "no password" in words:
            raise PermissionDenied(
                "The database refuses the login.", hint="Are user and password of its URL right?"
            ) from error
        raise Unavailable(f"The database does not answer: {words}.") from error
    except psycopg.Error as error:
        raise Unavailable(f"The database failed: {' '.join(str(error).split())}.") from error


class PostgresRows:
    """A Postgres, reached by a login that may make roles."""

    def __init__(self, connection: AsyncConnection[Any], url: str) -> None:
        self._connection = connection
        self._url = url
        self._faults: Mapping[str, list[str]] = {}
        self._turn = asyncio.Lock()  # transactions of one connection do not nest

    async def look(self, plugins: Sequence[Plugin]) -> None:
        """See `Rows`."""
        for plugin in plugins:
            logins.check_rows_plugin(plugin.name)
        async with self._turn:
            with _translated():
                self._faults = await inspection.shortcomings(
                    self._connection, [(plugin.name, plugin.limits) for plugin in plugins]
                )

    def faults(self, plugin: str) -> list[str]:
        """See `Rows`."""
        return self._faults.get(plugin, [])

    async def provision(self, plugin: Plugin) -> None:
        """See `Rows`."""
        async with self._turn:
            with _translated():
                await logins.provision(self._connection, plugin.name, plugin.limits)

    async def installation_faults(self, service_url: str | None) -> list[str]:
        """See `Rows`."""
        async with self._turn:
            with _translated():
                found = await lockdown.openings(self._connection)
        if service_url is None or not await self._works(service_url):
            found.append(f"the login {logins.SERVICE_ROLE} of the row service")
        return found

    async def provision_installation(self, service_url: str | None) -> str:
        """See `Rows`."""
        # The password of the settings stays where it can: running services, and those that wait for their
        # login, have it already.
        if service_url is None or (password := self._known_password(service_url)) is None:
            password = secrets.token_urlsafe(24)
            service_url = _with_login(self._url, logins.SERVICE_ROLE, password)
        async with self._turn:
            with _translated():
                await lockdown.make_service_login(self._connection, password)
                await lockdown.lock_down(self._connection)
        return service_url

    async def _works(self, service_url: str) -> bool:
        """Whether row services can connect by this URL, to this very database."""
        if self._known_password(service_url) is None:
            return False
        try:
            connection = await AsyncConnection.connect(
                service_url, autocommit=True, connect_timeout=_CONNECT_SECONDS
            )
        except psycopg.OperationalError:
            return False
        try:
            await logins.find_logins(connection, "")
        except psycopg.Error:
            return False
        finally:
            await connection.close()
        return True

    def _known_password(self, service_url: str) -> str | None:
        """Return the password of a URL of the row service; None when it is that of another database."""
        wanted = conninfo_to_dict(_with_login(self._url, logins.SERVICE_ROLE, ""))
        found = conninfo_to_dict(service_url)
        password = found.get("password")
        same = {**wanted, "password": None} == {**found, "password": None}
        return str(password) if same and password else None

    async def known(self) -> list[str]:
        """See `Rows`."""
        async with self._turn:
            with _translated():
                return await inspection.provisioned_plugins(self._connection)

    async def export(self, plugin: str, folder: Path) -> dict[str, int]:
        """See `Rows`."""
        async with self._turn:
            with _translated():
                return await copy_tables(self._connection, owned_name(plugin), folder)

    async def new_passwords(self, plugin: Plugin) -> None:
        """See `Rows`."""
        async with self._turn:
            with _translated():
                await removal.forget_passwords(self._connection, plugin.name)
                await logins.provision(self._connection, plugin.name, plugin.limits)

    async def remove(self, plugin: str) -> None:
        """See `Rows`."""
        async with self._turn:
            with _translated():
                await removal.remove(self._connection, plugin)


class SqliteRows:
    """A folder with one file for each plugin."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url

    async def look(self, plugins: Sequence[Plugin]) -> None:
        """See `Rows`; files are looked at when they are asked for."""

    def faults(self, plugin: str) -> list[str]:
        """See `Rows`."""
        return [] if self._file(plugin).exists() else [f"the file {self._file(plugin).name}"]

    async def provision(self, plugin: Plugin) -> None:
        """See `Rows`."""
        from rosey_rowstore.databases.sqlite.database import SqliteDatabase  # noqa: PLC0415 - one of two

        database = SqliteDatabase(self._folder, may_provision=True)
        await database.open()
        try:
            await database.tables(plugin.name, plugin.limits)
        finally:
            await database.close()

    async def installation_faults(self, service_url: str | None) -> list[str]:
        """See `Rows`."""
        return [] if service_url == self._url else ["the settings of the row service"]

    async def provision_installation(self, service_url: str | None) -> str:
        """See `Rows`."""
        del service_url
        return self._url

    async def known(self) -> list[str]:
        """See `Rows`."""
        return sorted(path.stem for path in self._folder.glob("*.sqlite3"))

    async def export(self, plugin: str, folder: Path) -> dict[str, int]:
        """See `Rows`."""
        from rosey_rowstore.databases.sqlite.export import copy_tables as copy  # noqa: PLC0415 - one of two

        return await asyncio.to_thread(copy, self._file(plugin), folder)

    async def new_passwords(self, plugin: Plugin) -> None:
        """See `Rows`; a file has none."""

    async def remove(self, plugin: str) -> None:
        """See `Rows`."""
        for suffix in ("", "-wal", "-shm"):
            path = self._file(plugin)
            path.with_name(path.name + suffix).unlink(missing_ok=True)

    def _file(self, plugin: str) -> Path:
        return self._folder / f"{plugin}.sqlite3"


def _with_login(url: str, user: str, password: str) -> str:
    """Return a Postgres URL with another login; what else it says stays."""
    members = {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}
    return database_url({**members, "user": user, "password": password})
