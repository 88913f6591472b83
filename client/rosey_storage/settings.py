"""The client's settings: one frozen value, read from the environment at the edge and nowhere else."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from attrs import field, frozen

from rosey_kvstore.connection import TlsFiles
from rosey_kvstore.errors import InvalidRequest, TypeMismatch
from rosey_rowstore.protocol import nearest, owned_name

__all__ = ["DEFAULT_URL", "Settings"]

DEFAULT_URL: Final = "nats://127.0.0.1:4222"
PREFIX: Final = "ROSEY_STORAGE_"
ENVIRONMENT: Final = "ROSEY_ENV"

Environment = Literal["development", "production"]

_LONGEST_TIMEOUT: Final = 24 * 3600.0
_YES: Final = ("true", "1", "yes", "on")
_NO: Final = ("false", "0", "no", "off")
_SERVICE_ONLY: Final = ("database", "health", "read_cache", "contexts", "settings")
_SUBJECT_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def mask(url: str) -> str:
    """Return a URL, or several, without the password that it may hold."""
    return re.sub(r"://[^@/,]*@", "://***@", url)


@frozen(kw_only=True)
class Settings:
    """What the client needs to know; `Settings.load` reads it from the environment.

    Attributes:
        url: `nats://…` or `tls://…`, several with commas between, or `sqlite:`, `sqlite:FILE`,
            `sqlite::memory:` for local mode.
        credentials: The plugin's NATS credentials file, or the folder that holds it.
        tls_ca: The authorities that sign NATS' certificates, in place of the system's; a PEM file.
        tls_cert, tls_key: Who the plugin is, for servers that ask; PEM files.
        subject: The first token of the row service's subjects.
        timeout: Seconds a call may take.
        data: The folder in which local mode keeps its files.
        plugins: `plugins.toml`, whose limits local mode keeps to.
        env: `development` or `production`.
        allow_local: Local mode is allowed; None means that it is unless `env` is `production`.
    """

    url: str = field(default=DEFAULT_URL, repr=mask)
    credentials: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    subject: str = "storage"
    timeout: float = 5.0
    data: Path = Path(".rosey")
    plugins: Path | None = None
    env: Environment = "development"
    allow_local: bool | None = None

    @property
    def production(self) -> bool:
        """Nothing is made on first use, and local mode is refused."""
        return self.env == "production"

    @property
    def local(self) -> bool:
        """The storage is a SQLite file of this process, not a server."""
        return self.url.startswith("sqlite:")

    @property
    def local_allowed(self) -> bool:
        """Local mode may be used."""
        return not self.production if self.allow_local is None else self.allow_local

    def credentials_of(self, plugin: str) -> Path | None:
        """Return the plugin's credentials file; in a folder, the one that `rosey-storage apply` wrote."""
        found = self.credentials
        return found / f"{owned_name(plugin)}.creds" if found is not None and found.is_dir() else found

    @property
    def tls(self) -> TlsFiles:
        """The files of TLS."""
        return TlsFiles(ca=self.tls_ca, cert=self.tls_cert, key=self.tls_key)

    @property
    def servers(self) -> list[str]:
        """The NATS servers, in their order."""
        return [server.strip() for server in self.url.split(",")]

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, /, **arguments: Any) -> Settings:
        """Return the settings of the environment, with keyword arguments in front of it.

        An empty variable counts as absent, and so does an argument that is None.

        Args:
            environ: In place of `os.environ`.
            arguments: The settings' names in lower case without `ROSEY_STORAGE_`, as `url` or `timeout`.

        Raises:
            InvalidRequest: A name is unknown, or a value does not parse.
            TypeMismatch: An argument is of another type than its setting takes.
        """
        values = _from_environment(os.environ if environ is None else environ)
        for name, value in arguments.items():
            if name not in _PARSERS:
                raise _unknown(name, "argument", [*_PARSERS])
            if value is not None:
                values[name] = _checked_kind(name, value)
        return cls(**{name: _PARSERS[name](value, _spelt(name, arguments)) for name, value in values.items()})


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    known = {_variable(name): name for name in (*_PARSERS, *_SERVICE_ONLY)}
    values: dict[str, Any] = {}
    for variable, text in environ.items():
        if variable != ENVIRONMENT and not variable.startswith(PREFIX):
            continue
        if variable not in known:
            raise _unknown(variable, "variable", [*known])
        if text.strip() and known[variable] not in _SERVICE_ONLY:
            values[known[variable]] = text.strip()
    return values


def _variable(name: str) -> str:
    return ENVIRONMENT if name == "env" else PREFIX + name.upper()


def _spelt(name: str, arguments: Mapping[str, Any]) -> str:
    """Return the name of a setting as the reader of an error wrote it."""
    return f"{name}=" if arguments.get(name) is not None else _variable(name)


def _unknown(name: str, kind: str, known: list[str]) -> InvalidRequest:
    if kind == "argument" and name in _SERVICE_ONLY:
        return InvalidRequest(
            f"{name}= is a setting of the row service, not of the client.",
            hint=f"Set {_variable(name)} for the service.",
        )
    near = nearest(name, known)
    return InvalidRequest(
        f"There is no setting {name!r}" + (f"; did you mean {near!r}?" if near else "."),
        hint="The settings are " + ", ".join(known) + ".",
    )


def _checked_kind(name: str, value: Any) -> Any:
    takes = _KINDS[name]
    if isinstance(value, takes) and (takes is _BOOLEAN or not isinstance(value, bool)):
        return value
    expected = " or ".join(kind.__name__ for kind in takes)
    raise TypeMismatch(f"{name}= takes {expected}, not {type(value).__name__}.", path=name)


def _refused(spelt: str, value: Any, hint: str) -> InvalidRequest:
    return InvalidRequest(f"{spelt} is {str(value)[:80]!r}.", hint=hint)


def _url(value: str, spelt: str) -> str:
    if value.startswith("sqlite:"):
        return value
    for server in value.split(","):
        if not _is_server(server.strip()):
            raise _refused(
                spelt,
                mask(value),
                "nats://HOST:PORT or tls://HOST:PORT, several with commas between, or sqlite:, sqlite:FILE"
                " or sqlite::memory: for local mode.",
            )
    return value


def _is_server(server: str) -> bool:
    try:
        parts = urlsplit(server)
        return (
            parts.scheme in ("nats", "tls")
            and bool(parts.hostname)
            and parts.port != 0
            and parts.path in ("", "/")
        )
    except ValueError:
        return False


def _path(value: str | Path, spelt: str) -> Path:
    if "\0" in str(value):
        raise _refused(spelt, value, "The path of a file.")
    return Path(value)


def _subject(value: str, spelt: str) -> str:
    if not _SUBJECT_TOKEN.fullmatch(value):
        raise _refused(spelt, value, "One token of a NATS subject: A-Z, a-z, 0-9, _ and -.")
    return value


def _timeout(value: str | float, spelt: str) -> float:
    hint = f"Seconds, more than 0 and at most {_LONGEST_TIMEOUT:.0f}, as 5 or 0.5."
    try:
        seconds = float(value)
    except ValueError:
        raise _refused(spelt, value, hint) from None
    if not (math.isfinite(seconds) and 0 < seconds <= _LONGEST_TIMEOUT):
        raise _refused(spelt, value, hint)
    return seconds


def _boolean(value: str | bool, spelt: str) -> bool:
    text = str(value).lower()
    if text not in (*_YES, *_NO):
        raise _refused(spelt, value, "true or false.")
    return text in _YES


def _environment(value: str, spelt: str) -> str:
    if value not in ("development", "production"):
        raise _refused(spelt, value, "development or production.")
    return value


_PARSERS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "url": _url,
    "credentials": _path,
    "tls_ca": _path,
    "tls_cert": _path,
    "tls_key": _path,
    "subject": _subject,
    "timeout": _timeout,
    "data": _path,
    "plugins": _path,
    "env": _environment,
    "allow_local": _boolean,
}

_TEXT: Final = (str,)
_FILE: Final = (str, Path)
_NUMBER: Final = (int, float)
_BOOLEAN: Final = (bool,)
_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "url": _TEXT,
    "credentials": _FILE,
    "tls_ca": _FILE,
    "tls_cert": _FILE,
    "tls_key": _FILE,
    "subject": _TEXT,
    "timeout": _NUMBER,
    "data": _FILE,
    "plugins": _FILE,
    "env": _TEXT,
    "allow_local": _BOOLEAN,
}
