"""Who may make accounts: the operator, the system account and the storage account, kept in one folder.

    credentials/
      keys/operator.nk          signs accounts; whoever holds it may do everything
      keys/system.nk            signs users of the system account
      keys/storage.nk           signs the row service's user, and what plugins may import
      keys/plugin_<name>.nk     signs the plugin's two users
      operator.creds            a user of the system account: pushes, lists and deletes accounts
      service.creds             the row service, in the storage account
      plugin_<name>.creds       the plugin
      plugin_<name>.admin.creds an administrator inside the plugin's account

The folder has mode 0700 and its files 0600. What the servers know is not repeated here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Self

from attrs import frozen

from rosey_deploy.provision.accounts import storage_claims, system_claims
from rosey_deploy.provision.files import private_folder
from rosey_deploy.provision.jwt import encode
from rosey_deploy.provision.keys import Key, kept_key
from rosey_deploy.provision.users import (
    EVERYTHING,
    Permissions,
    issue,
    read_credentials,
    service_permissions,
)
from rosey_kvstore.errors import NotProvisioned
from rosey_rowstore.protocol import owned_name

__all__ = ["STORAGE_ACCOUNT", "Authority", "credentials_folder"]

STORAGE_ACCOUNT: Final = "storage"
_SYSTEM_ACCOUNT: Final = "SYS"


def credentials_folder(data: Path) -> Path:
    """Return where a data folder keeps its credentials."""
    return data.absolute() / "credentials"


@frozen(kw_only=True)
class Authority:
    """The keys of one installation.

    Attributes:
        folder: The credentials folder.
        subject: The first token of the row service's subjects.
    """

    folder: Path
    subject: str
    operator: Key
    system: Key
    storage: Key

    @classmethod
    def load(cls, folder: Path, subject: str) -> Self:
        """Read the keys.

        Raises:
            NotProvisioned: There are none.
            InvalidRequest: A file holds something else, or others may read it.
        """
        return cls._keys(folder, subject, make=False)

    @classmethod
    def make(cls, folder: Path, subject: str) -> Self:
        """Read the keys and make those that are missing; then the operator's and the service's files."""
        authority = cls._keys(folder, subject, make=True)
        authority.mend_files()
        return authority

    @classmethod
    def _keys(cls, folder: Path, subject: str, *, make: bool) -> Self:
        if make:
            private_folder(folder)
        found: dict[str, Key] = {}
        for name, kind in (("operator", "operator"), ("system", "account"), ("storage", "account")):
            key = kept_key(folder / "keys" / f"{name}.nk", kind, make=make)  # type: ignore[arg-type]
            if key is None:
                raise NotProvisioned(
                    f"There are no keys in {folder}.",
                    hint="rosey-storage init makes them; --data names the folder they are in.",
                )
            found[name] = key
        return cls(folder=folder, subject=subject, **found)

    @property
    def operator_credentials(self) -> Path:
        """The file of the system account's user."""
        return self.folder / "operator.creds"

    @property
    def service_credentials(self) -> Path:
        """The row service's file."""
        return self.folder / "service.creds"

    def plugin_credentials(self, plugin: str) -> Path:
        """Return the file of the plugin's own user."""
        return self.folder / f"{owned_name(plugin)}.creds"

    def admin_credentials(self, plugin: str) -> Path:
        """Return the file of the administrator inside the plugin's account."""
        return self.folder / f"{owned_name(plugin)}.admin.creds"

    def plugin_key(self, plugin: str) -> Path:
        """Return the file of the key that signs the plugin's users."""
        return self.folder / "keys" / f"{owned_name(plugin)}.nk"

    def mend_files(self) -> None:
        """Write the operator's and the row service's credentials where they are missing or of no use."""
        for path, name, signer, permissions in self._files():
            if self._fault(path, signer, permissions) is not None:
                issue(path, name, signer=signer, account=signer.public, permissions=permissions)

    def service_fault(self) -> str | None:
        """Say what is wrong with the operator's or the service's file, None when nothing is."""
        for path, _, signer, permissions in self._files():
            if fault := self._fault(path, signer, permissions):
                return f"{path.name} {fault}"
        return None

    def trust(self, accounts: Path) -> dict[str, Any]:
        """Return the members of a nats-server's configuration by which it trusts this operator.

        Args:
            accounts: The folder in which the server keeps the accounts that are pushed to it.
        """
        operator = encode(
            self.operator,
            self.operator.public,
            "rosey",
            {"type": "operator", "system_account": self.system.public},
        )
        return {
            "operator": operator,
            "system_account": self.system.public,
            "resolver": {
                "type": "full",
                "dir": str(accounts),
                "allow_delete": True,
                # A removed plugin leaves no file behind.
                "hard_delete": True,
                "interval": "2m",
            },
            "resolver_preload": {
                self.system.public: encode(
                    self.operator, self.system.public, _SYSTEM_ACCOUNT, system_claims()
                ),
                self.storage.public: self.storage_token(),
            },
        }

    def storage_token(self) -> str:
        """Return the storage account's JWT."""
        return encode(self.operator, self.storage.public, STORAGE_ACCOUNT, storage_claims(self.subject))

    def _files(self) -> list[tuple[Path, str, Key, Permissions]]:
        return [
            (self.operator_credentials, "operator", self.system, EVERYTHING),
            (self.service_credentials, "rowstore", self.storage, service_permissions(self.subject)),
        ]

    @staticmethod
    def _fault(path: Path, signer: Key, permissions: Permissions) -> str | None:
        found = read_credentials(path)
        if found is None:
            return "is missing"
        return found.fault(issuers={signer.public}, account=signer.public, permissions=permissions, after=0)
