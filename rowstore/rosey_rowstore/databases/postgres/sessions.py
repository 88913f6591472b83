"""Connections to Postgres as who is asked for: the service itself, or one of a plugin's logins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from rosey_rowstore.databases.postgres.logins import Login
from rosey_rowstore.protocol import Fault

__all__ = ["Service", "connect", "conninfo", "options_of"]

_CONNECT_SECONDS: Final = 5.0
_AWAY: Final = "The database does not answer."
_AWAY_HINT: Final = "Ask again in a moment; the operator sees the reason in the service's log."

# Text forms that the engine reads: one time zone, one order of a date's parts, every digit of a float.
_FORMS: Final = {
    "TimeZone": "UTC",
    "DateStyle": "ISO,YMD",
    "IntervalStyle": "iso_8601",
    "extra_float_digits": "1",
}


def options_of(settings: Mapping[str, str]) -> str:
    """Return the `options` of a connection that set these for the session."""
    return " ".join(
        f"-c {name}=" + value.replace("\\", "\\\\").replace(" ", "\\ ") for name, value in settings.items()
    )


def conninfo(dsn: str, login: Login | None, settings: Mapping[str, str], *, name: str) -> str:
    """Return the DSN of a connection as `login`, or as the DSN's own user, with its session settings."""
    known = conninfo_to_dict(dsn)
    members: dict[str, Any] = {
        "options": f"{known.get('options') or ''} {options_of({**_FORMS, **settings})}".strip(),
        "application_name": known.get("application_name") or name,
        "client_encoding": "utf8",
    }
    if login is not None:
        members |= {"user": login.role, "password": login.password}
    return make_conninfo(dsn, **members)


async def connect(
    dsn: str,
    login: Login | None,
    settings: Mapping[str, str],
    *,
    timeout: float = _CONNECT_SECONDS,
    name: str = "rosey-rowstore",
) -> AsyncConnection[Any]:
    """Return an autocommit connection as `login`, or as the DSN's own user.

    Raises:
        Fault: `unavailable` when the server is away or refuses, `overloaded` when it is full.
    """
    whole = conninfo(dsn, login, settings, name=name)
    try:
        # Not wait_for: before Python 3.12 it swallows a cancellation that comes as the connection stands,
        # and the listener, cancelled then, would listen for ever.
        async with asyncio.timeout(timeout):
            return await AsyncConnection.connect(whole, autocommit=True, prepare_threshold=None)
    except TimeoutError as error:
        raise Fault("unavailable", _AWAY, hint=_AWAY_HINT) from error
    except psycopg.OperationalError as error:
        text = str(error)
        if "too many" in text or "remaining connection slots" in text:
            raise Fault(
                "overloaded",
                "The database has no connection left for the plugin.",
                hint="Ask again in a moment.",
                retry_after=0.5,
            ) from error
        raise Fault("unavailable", _AWAY, hint=_AWAY_HINT) from error


class Service:
    """The service's own connection, opened when needed, used by one at a time.

    Reflection and provisioning run on it; no plugin's rows do.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._lock = asyncio.Lock()
        self._connection: AsyncConnection[Any] | None = None

    @asynccontextmanager
    async def use(self) -> AsyncIterator[AsyncConnection[Any]]:
        """Give the connection.

        Raises:
            Fault: `unavailable` when the server is away, or went away meanwhile.
        """
        async with self._lock:
            if self._connection is None or self._connection.closed:
                self._connection = await connect(
                    self._dsn, None, {"statement_timeout": "10s", "lock_timeout": "5s"}
                )
            try:
                yield self._connection
            except psycopg.OperationalError as error:
                await self._drop()
                raise Fault("unavailable", _AWAY, hint=_AWAY_HINT) from error
            except asyncio.CancelledError:
                await self._drop()  # a statement may still run on it
                raise

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def close(self) -> None:
        """Close the connection."""
        async with self._lock:
            await self._drop()
