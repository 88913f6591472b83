"""The development stack as production is: accounts, credentials, narrow rights, a closed database."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from rosey_deploy.provision.authority import Authority, credentials_folder
from rosey_deploy.provision.files import hold
from rosey_deploy.provision.installation import service_settings
from rosey_deploy.provision.reconcile import Target, reconcile
from rosey_kvstore.errors import InvalidRequest
from rosey_rowstore.plugins import Plugins

__all__ = ["Secured"]


class Secured:
    """The keys of a data folder, and what is provisioned with them.

    Args:
        data: The data folder.
        plugins: `plugins.toml`: the plugins that exist.
        subject: The first token of the row service's subjects.

    Raises:
        InvalidRequest: There are no plugins.
    """

    def __init__(self, data: Path, plugins: Plugins, subject: str) -> None:
        if not plugins.plugins:
            raise InvalidRequest(
                "--secure serves the plugins of plugins.toml, and there are none.",
                hint="Give the file with --plugins; [plugins.quotes] names one.",
            )
        self._data = data
        self._plugins = plugins
        self._subject = subject
        self.credentials = credentials_folder(data)
        with hold(self.credentials):
            self._authority = Authority.make(self.credentials, subject)

    @property
    def server_settings(self) -> dict[str, Any]:
        """What nats-server needs in its configuration."""
        return self._authority.trust(self._data / "nats" / "accounts")

    @property
    def service_credentials(self) -> Path:
        """The row service's credentials file."""
        return self._authority.service_credentials

    @property
    def database_url(self) -> str:
        """The row service's database, as the provisioner told it."""
        return service_settings(self._authority)["ROSEY_STORAGE_DATABASE"]

    @property
    def context_home(self) -> Path:
        """What `XDG_CONFIG_HOME` has to be for the `nats` tool to see the stack's contexts."""
        return self._data / "nats-cli"

    def apply(self, url: str, database: str) -> None:
        """Make what the plugins need.

        Raises:
            StorageError, Fault: Of the first plugin that could not be made.
        """
        target = Target(
            data=self._data,
            url=url,
            database=database,
            plugins=self._plugins,
            subject=self._subject,
            contexts=self.context_home / "nats" / "context",
        )
        outcome = asyncio.run(reconcile(target, write=True))
        if outcome.failures:
            raise outcome.failures[0].error
