"""An installation as production has it: NATS with accounts, a closed Postgres, row services, provisioning."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs

from rosey_deploy.provision.authority import Authority, credentials_folder
from rosey_deploy.provision.installation import service_settings
from rosey_deploy.provision.reconcile import Outcome, Target, reconcile
from rosey_deploy.stack.service import RowService
from rosey_rowstore.engine.model import Limits
from rosey_rowstore.plugins import Plugin, Plugins
from rosey_storage import Storage
from support.servers import Servers


class Installation:
    """Servers in a folder; a test adds the plugins it needs.

    Args:
        folder: The data folder.
        database: The admin's URL of the database, asked for when the first plugin has rows.
        servers: Makes NATS and the row services.
    """

    def __init__(self, folder: Path, database: Callable[[], str], servers: Servers) -> None:
        self.data = folder
        self.authority = Authority.make(credentials_folder(folder), "storage")
        trusted = self.authority.trust(folder / "nats" / "accounts")
        self.nats = servers.nats(folder / "nats", settings=trusted)
        self.plugins: dict[str, Plugin] = {}
        # In a folder of its own: a row service in a container sees that and nothing beside it.
        self.file = folder / "plugins" / "plugins.toml"
        self.contexts = folder / "config" / "nats" / "context"
        self._servers = servers
        self._database = database
        self._database_url: str | None = None
        self._service: RowService | None = None
        self._stack = ExitStack()

    def start(self) -> None:
        """Start NATS; the row service starts with the first plugin that has rows."""
        self.file.parent.mkdir()
        self._write()
        self._stack.callback(self._servers.discard, self.nats)
        self.nats.start()

    def stop(self) -> None:
        """Stop what was started."""
        self._stack.close()

    @property
    def database(self) -> str:
        """The admin's URL of the database."""
        if self._database_url is None:
            self._database_url = self._database()
        return self._database_url

    def target(self, plugins: dict[str, Plugin] | None = None, **members: Any) -> Target:
        """Where and what to provision; every plugin that was added, unless told otherwise."""
        found = self.plugins if plugins is None else plugins
        given = {
            "data": self.data,
            "url": self.nats.url,
            "plugins": Plugins(path=self.file, plugins=found),
            "contexts": self.contexts,
            "database": self.database if any(plugin.rows for plugin in found.values()) else None,
        }
        return Target(**{**given, **members})

    async def add(self, name: str, *, rows: bool = False, kv: bool = True, **members: Any) -> Plugin:
        """Declare one plugin and provision it; its `limits` are named as in `plugins.toml`."""
        inspector = members.pop("inspector", False)
        plugin = Plugin(name=name, kv=kv, rows=rows, inspector=inspector, limits=Limits(**members))
        self.plugins[name] = plugin
        self._write()
        outcome = await reconcile(self.target({name: plugin}), write=True)
        for failure in outcome.failures:
            raise failure.error
        if rows:
            await asyncio.to_thread(self.serve)
        return plugin

    async def apply(self, **members: Any) -> Outcome:
        """Settle everything that was added."""
        return await reconcile(self.target(**members), write=True)

    async def plan(self, **members: Any) -> Outcome:
        """Tell what is not as added."""
        return await reconcile(self.target(**members), write=False)

    def serve(self) -> RowService:
        """Start the row service, once."""
        if self._service is None:
            self._service = self.service(self.data / "service.log")
            self._stack.callback(self._servers.discard, self._service)
            self._service.start()
        return self._service

    def service(self, log: Path) -> RowService:
        """Return a row service with the settings that `apply` wrote; not started."""
        settings = service_settings(self.authority)
        return self._servers.row_service(
            log,
            url=self.nats.url,
            database=settings["ROSEY_STORAGE_DATABASE"],
            plugins=self.file,
            credentials=self.authority.service_credentials,
            provision=False,
        )

    def credentials(self, name: str) -> Path:
        """The file of a plugin's own user."""
        return self.authority.plugin_credentials(name)

    def admin(self, name: str) -> Path:
        """The file of the administrator in a plugin's account."""
        return self.authority.admin_credentials(name)

    def storage(self, name: str, *, credentials: Path | None = None, **settings: Any) -> Storage:
        """A plugin's storage as the plugin opens it in production."""
        return Storage.connect(
            name,
            url=self.nats.url,
            credentials=self.credentials(name) if credentials is None else credentials,
            env="production",
            **{"timeout": 10, **settings},
        )

    def _write(self) -> None:
        """Write `plugins.toml` for the row service, with every limit spelt out."""
        lines = []
        for name, plugin in self.plugins.items():
            lines.append(f"[plugins.{name}]")
            lines += [
                f"{flag} = {str(getattr(plugin, flag)).lower()}" for flag in ("kv", "rows", "inspector")
            ]
            lines.append(f"[plugins.{name}.limits]")
            lines += [f"{limit} = {value}" for limit, value in attrs.asdict(plugin.limits).items()]
        unfinished = self.file.with_suffix(".new")
        unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")
        unfinished.replace(self.file)
