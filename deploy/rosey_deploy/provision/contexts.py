"""Contexts of the `nats` command line tool, so that `nats --context plugin_quotes kv ls` works."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from rosey_deploy.provision.files import write_private
from rosey_kvstore.connection import TlsFiles
from rosey_kvstore.errors import InvalidRequest

__all__ = ["Contexts", "context_folder"]

_OURS: Final = "Rosey storage: "


def context_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the tool looks for contexts."""
    base = environment.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "nats" / "context"


@frozen
class Contexts:
    """The contexts in a folder; only those that this command made are changed or removed.

    Attributes:
        folder: See `context_folder`.
        url: The servers, as the tool takes them.
        tls: The files by which they are reached.
    """

    folder: Path
    url: str
    tls: TlsFiles | None = None

    def fault(self, name: str, credentials: Path, what: str) -> str | None:
        """Say what is wrong with a context, None when it is as wanted.

        Raises:
            InvalidRequest: Somebody else's context has this name.
        """
        found = self._read(name)
        if found is None:
            return "is missing"
        if not str(found.get("description", "")).startswith(_OURS):
            raise InvalidRequest(
                f"There is another nats context named {name}.",
                hint=f"Rename it ({self.folder / name}.json), or give --no-contexts.",
            )
        wanted = self._wanted(credentials, what)
        different = [key for key, value in wanted.items() if found.get(key) != value]
        return f"{', '.join(different)} of the context differ" if different else None

    def write(self, name: str, credentials: Path, what: str) -> None:
        """Make a context, or set what differs; further members of it stay."""
        members = {**(self._read(name) or {}), **self._wanted(credentials, what)}
        write_private(self.folder / f"{name}.json", json.dumps(members, indent=2) + "\n")

    def remove(self, name: str) -> bool:
        """Remove a context that this command made; say whether there was one."""
        found = self._read(name)
        if found is None or not str(found.get("description", "")).startswith(_OURS):
            return False
        (self.folder / f"{name}.json").unlink(missing_ok=True)
        return True

    def _wanted(self, credentials: Path, what: str) -> dict[str, Any]:
        tls = self.tls or TlsFiles()
        files = {"ca": tls.ca, "cert": tls.cert, "key": tls.key}
        return {
            "description": _OURS + what,
            "url": self.url,
            "creds": str(credentials),
            **{name: str(path.absolute()) for name, path in files.items() if path is not None},
        }

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.folder / f"{name}.json"
        try:
            found = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InvalidRequest(f"The nats context {path} cannot be read: {error}.") from error
        return found if isinstance(found, dict) else None
