"""The service's settings, from `ROSEY_STORAGE_*`; the environment is read here and nowhere else."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from attrs import frozen

from rosey_rowstore.plugins import parse_size
from rosey_rowstore.protocol import DEFAULT_SUBJECT_ROOT, Fault, nearest

__all__ = ["DEFAULT_READ_CACHE", "ServiceSettings"]

_PREFIX: Final = "ROSEY_STORAGE_"
_SETTINGS: Final = "ROSEY_STORAGE_SETTINGS"
_KNOWN: Final = tuple(
    _PREFIX + name
    for name in (
        *("URL", "CREDENTIALS", "SUBJECT", "TIMEOUT", "DATABASE"),
        *("PLUGINS", "DATA", "ALLOW_LOCAL", "HEALTH", "READ_CACHE", "CONTEXTS", "SETTINGS"),
        *("TLS_CA", "TLS_CERT", "TLS_KEY"),
    )
)
_UNIT: Final = re.compile("[A-Za-z]")
DEFAULT_READ_CACHE: Final = 32 * 1024 * 1024
_SCHEMES: Final = ("nats", "tls", "ws", "wss")
_DATABASES: Final = ("postgresql://", "postgres://", "sqlite:")


@frozen(kw_only=True)
class ServiceSettings:
    """Everything the row service is told from outside.

    Attributes:
        servers: NATS URLs, at least one.
        credentials: The service's NATS credentials file.
        subject: The first token of the service's subjects.
        timeout: Seconds a request without `Storage-Timeout` may take, waiting included.
        database: `postgresql://…` or `sqlite:FOLDER`.
        plugins: The path of `plugins.toml`.
        tls_ca: The authorities that sign NATS' certificates, in place of the system's; a PEM file.
        tls_cert, tls_key: Who the service is, for servers that ask; PEM files, both or none.
        read_cache: Bytes of replies to reads that are kept while nothing is written; 0 for none.
        health: Host and port on which probes are answered; None for nowhere.
        environment: `development` or `production`.
    """

    servers: tuple[str, ...]
    database: str
    credentials: Path | None = None
    subject: str = DEFAULT_SUBJECT_ROOT
    timeout: float = 5.0
    plugins: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    read_cache: int = DEFAULT_READ_CACHE
    health: tuple[str, int] | None = None
    environment: Literal["development", "production"] = "development"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ServiceSettings:
        """Read the settings; an empty variable counts as absent.

        `ROSEY_STORAGE_SETTINGS` names a file of such lines, `NAME=value`; the environment stands in front.

        Raises:
            Fault: `invalid_request`, with the variable as path and the nearest known name where one is
                near.
        """
        given = {name: value for name, value in environment.items() if value}
        if (path := _file(given, _SETTINGS)) is not None:
            given = {**_lines(path), **given}
        for name in sorted(given):
            if name.startswith(_PREFIX) and name not in _KNOWN:
                near = nearest(name, _KNOWN)
                raise Fault(
                    "invalid_request",
                    f"There is no setting {name}" + (f"; did you mean {near}?" if near else "."),
                    path=name,
                    hint="Known are " + ", ".join(_KNOWN) + ".",
                )
        return cls(
            servers=_servers(given.get("ROSEY_STORAGE_URL", "nats://127.0.0.1:4222")),
            database=_database(given.get("ROSEY_STORAGE_DATABASE")),
            credentials=_file(given, "ROSEY_STORAGE_CREDENTIALS"),
            subject=_subject(given.get("ROSEY_STORAGE_SUBJECT", DEFAULT_SUBJECT_ROOT)),
            timeout=_seconds(given.get("ROSEY_STORAGE_TIMEOUT", "5")),
            plugins=_file(given, "ROSEY_STORAGE_PLUGINS"),
            **_tls(given),
            read_cache=_size(given.get("ROSEY_STORAGE_READ_CACHE")),
            health=_address(given.get("ROSEY_STORAGE_HEALTH")),
            environment=_environment(given.get("ROSEY_ENV", "development")),
        )


def _servers(text: str) -> tuple[str, ...]:
    servers = tuple(part.strip() for part in text.split(",") if part.strip())
    for server in servers:
        try:
            parts = urlsplit(server)
            sound = parts.scheme in _SCHEMES and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            sound = False
        if not sound:
            # The text itself is left out: a password may stand in it.
            raise _bad(
                "ROSEY_STORAGE_URL",
                "The NATS URL of the row service cannot be read.",
                "As nats://127.0.0.1:4222, several with commas; local mode (sqlite:) needs no service.",
            )
    if not servers:
        raise _bad("ROSEY_STORAGE_URL", "No NATS URL is given.", "As nats://127.0.0.1:4222.")
    return servers


def _database(text: str | None) -> str:
    hint = "As postgresql://user:password@host/database, or sqlite:FOLDER."
    if text is None:
        raise _bad("ROSEY_STORAGE_DATABASE", "The row service has no database.", hint)
    if not text.startswith(_DATABASES) or text == "sqlite:":
        raise _bad("ROSEY_STORAGE_DATABASE", "The database's URL cannot be read.", hint)
    return text


def _subject(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        raise _bad("ROSEY_STORAGE_SUBJECT", f"{text!r} is no token.", "Letters, digits, _ and -, no dot.")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 86_400:
        raise _bad("ROSEY_STORAGE_TIMEOUT", f"{text!r} is no time.", "Seconds, above 0 and up to a day.")
    return seconds


def _size(text: str | None) -> int:
    if text is None:
        return DEFAULT_READ_CACHE
    try:
        return 0 if text.strip() == "0" else parse_size(text if _UNIT.search(text) else int(text), "")
    except (Fault, ValueError):
        raise _bad(
            "ROSEY_STORAGE_READ_CACHE", f"{text!r} is no size.", "Bytes, or as 32 MiB; 0 keeps nothing."
        ) from None


def _file(given: Mapping[str, str], name: str) -> Path | None:
    if name not in given:
        return None
    path = Path(given[name])
    if not os.access(path, os.F_OK) or path.is_dir():
        raise _bad(name, f"There is no file {path}.", "Is the path right, and may this user read it?")
    if not os.access(path, os.R_OK):
        raise _bad(name, f"{path} may not be read by this user.", f"It runs as the user {os.geteuid()}.")
    return path


def _address(text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    bracketed = host == f"[{bare}]"
    sound = colon and bare and bracketed == (":" in bare) and not re.search(r"[\s/@\[\]]", bare)
    if not sound or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise _bad(
            "ROSEY_STORAGE_HEALTH",
            f"{text!r} is no address.",
            "HOST:PORT, as 127.0.0.1:8080 or [::1]:8080; 0.0.0.0:8080 is every address.",
        )
    return bare, int(port)


def _lines(path: Path) -> dict[str, str]:
    """Return what a file of settings says."""
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        name, equals, value = line.partition("=")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not equals or not name.strip():
            # The line itself is left out: a password may stand in it.
            raise _bad(_SETTINGS, f"Line {number} of {path} is no setting.", "As ROSEY_STORAGE_URL=nats://…")
        if value.strip():
            found[name.strip()] = value.strip()
    return found


def _tls(given: Mapping[str, str]) -> dict[str, Path | None]:
    found = {
        name: _file(given, f"ROSEY_STORAGE_{name.upper()}") for name in ("tls_ca", "tls_cert", "tls_key")
    }
    if (found["tls_cert"] is None) != (found["tls_key"] is None):
        raise _bad(
            "ROSEY_STORAGE_TLS_CERT", "A certificate needs its key, and a key its certificate.", "Give both."
        )
    return found


def _environment(text: str) -> Literal["development", "production"]:
    if text == "development":
        return "development"
    if text == "production":
        return "production"
    raise _bad("ROSEY_ENV", f"{text!r} is no environment.", "development or production.")


def _bad(name: str, message: str, hint: str) -> Fault:
    return Fault("invalid_request", message, path=name, hint=hint)
