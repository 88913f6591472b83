"""What belongs to no plugin: the storage account, the row service's credentials, database login, settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attrs import field, frozen
from psycopg.conninfo import conninfo_to_dict

from rosey_deploy.provision import accounts
from rosey_deploy.provision.accounts import Account, storage_claims
from rosey_deploy.provision.authority import STORAGE_ACCOUNT, Authority
from rosey_deploy.provision.files import read_secret, write_private
from rosey_deploy.provision.parts import Change, World
from rosey_deploy.provision.places import ServicePlaces, moved
from rosey_rowstore.protocol import DEFAULT_SUBJECT_ROOT

__all__ = ["OWNER", "Installation", "service_settings", "write_service_settings"]

OWNER: Final = "rosey"


def service_settings(authority: Authority) -> dict[str, str]:
    """Return the settings of the row service as the last run wrote them; empty before the first."""
    text = read_secret(authority.folder / "service.env")
    lines = [line.partition("=") for line in (text or "").splitlines() if not line.startswith("#")]
    return {name: value for name, equals, value in lines if equals}


def write_service_settings(authority: Authority, settings: Mapping[str, str]) -> Path:
    """Write the settings of the row service, and return the path of the file."""
    path = authority.folder / "service.env"
    lines = "".join(f"{name}={value}\n" for name, value in settings.items())
    write_private(path, f"# The settings of `rosey-storage serve`, written by `rosey-storage`.\n{lines}")
    return path


@frozen(kw_only=True)
class Installation:
    """The parts of an installation.

    Attributes:
        world: What the run works on.
        url: `ROSEY_STORAGE_URL` of the row service.
        plugins: The path of `plugins.toml`.
        service: What row services see otherwise.
        database: The operator's URL of the database, None without rows.
        tls: Settings of a private certificate authority, by their variables.
    """

    world: World
    url: str
    plugins: Path
    service: ServicePlaces = field(factory=ServicePlaces)
    database: str | None = None
    tls: Mapping[str, str] = field(factory=dict)

    async def settle(self, *, write: bool) -> list[Change]:
        """Return what is not as declared; with `write`, make it so first."""
        found = [
            self._credentials(write=write),
            await self._account(write=write),
            await self._service(write=write),
            *self._contexts(write=write),
        ]
        return [change for change in found if change is not None]

    def _credentials(self, *, write: bool) -> Change | None:
        authority = self.world.authority
        fault = authority.service_fault()
        if fault is None:
            return None
        if write:
            authority.mend_files()
        return Change(owner=OWNER, part="credentials", verb="make", detail=fault)

    async def _account(self, *, write: bool) -> Change | None:
        world = self.world
        account = world.accounts.get(STORAGE_ACCOUNT)
        claims = storage_claims(world.authority.subject)
        if account is not None and account.public != world.authority.storage.public:
            account = None
        told = ["exports rows, tables, migrations, reports"] if account is None else []
        if account is not None:
            told = accounts.differences(claims, account.nats)
        if not told:
            return None
        if write:
            await world.resolver.push(world.authority.storage_token())
            public = world.authority.storage.public
            world.accounts[STORAGE_ACCOUNT] = Account(public=public, name=STORAGE_ACCOUNT, nats=claims)
        verb = "make" if account is None else "change"
        return Change(owner=OWNER, part="account", verb=verb, detail=", ".join(told))  # type: ignore[arg-type]

    async def _service(self, *, write: bool) -> Change | None:
        rows = self.world.rows
        before = service_settings(self.world.authority)
        database = before.get("ROSEY_STORAGE_DATABASE")
        here = None if database is None else self._seen_from_here(database)
        faults = [] if rows is None else await rows.installation_faults(here)
        if rows is not None and faults and write:
            here = await rows.provision_installation(here)
            database = moved(here, self.service.database)
        wanted = self._settings(database)
        if not faults and before == wanted:
            return None
        if write:
            write_service_settings(self.world.authority, wanted)
        told = [f"close {fault}" if fault.endswith("everybody") else fault for fault in faults]
        if before != wanted:
            told.append("service.env")
        verb = "change" if before else "make"
        return Change(owner=OWNER, part="service", verb=verb, detail=", ".join(told))  # type: ignore[arg-type]

    def _seen_from_here(self, database: str) -> str:
        """Return the row service's URL of the database as this command reaches it."""
        if self.service.database is None or self.database is None:
            return database
        members = conninfo_to_dict(self.database)
        return moved(database, f"{members.get('host') or 'localhost'}:{members.get('port') or 5432}")

    def _settings(self, database: str | None) -> dict[str, str]:
        authority = self.world.authority
        settings = {
            "ROSEY_STORAGE_URL": self.service.url or self.url,
            "ROSEY_STORAGE_CREDENTIALS": self.service.credentials or str(authority.service_credentials),
            "ROSEY_STORAGE_PLUGINS": self.service.plugins or str(self.plugins),
            **self.tls,
        }
        if authority.subject != DEFAULT_SUBJECT_ROOT:
            settings["ROSEY_STORAGE_SUBJECT"] = authority.subject
        if database is not None:
            settings["ROSEY_STORAGE_DATABASE"] = database
        return settings

    def _contexts(self, *, write: bool) -> list[Change]:
        contexts, authority = self.world.contexts, self.world.authority
        if contexts is None:
            return []
        found = []
        wanted = (
            ("rosey_operator", authority.operator_credentials, "the system account"),
            ("rosey_storage", authority.service_credentials, "the account of the row service"),
        )
        for name, credentials, what in wanted:
            fault = contexts.fault(name, credentials, what)
            if fault is None:
                continue
            if write:
                contexts.write(name, credentials, what)
            missing = fault == "is missing"
            detail = f"nats --context {name}" if missing else fault
            verb = "make" if missing else "change"
            found.append(Change(owner=OWNER, part="context", verb=verb, detail=detail))  # type: ignore[arg-type]
        return found
