"""What a plugin author holds: one object that routes each call to where its data is."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rosey_kvstore import KV
from rosey_kvstore.errors import StorageError, Unavailable
from rosey_rowstore.protocol import (
    Fault,
    ListRequest,
    TableSummary,
    check_identifier,
    check_plugin,
    operations,
)
from rosey_storage.calls import Calls
from rosey_storage.faults import error_from
from rosey_storage.local import LocalTransport, made_file
from rosey_storage.migrations import Migrations
from rosey_storage.nats import NatsTransport
from rosey_storage.settings import Settings, mask
from rosey_storage.tables import Table
from rosey_storage.transaction import Transaction
from rosey_storage.transport import Away, Transport

__all__ = ["Storage", "sqlite_path"]


class Storage:
    """One plugin's storage: keys in `kv`, rows in `table(…)`.

    Attributes:
        plugin: Whose storage it is.
        settings: What it was made with.
    """

    def __init__(self, plugin: str, settings: Settings, transport: Transport) -> None:
        self.plugin = plugin
        self.settings = settings
        self._transport = transport
        self._calls = Calls(plugin, Away("not open"), settings.timeout)
        self._kv: KV | None = None
        self._state = "not open"

    @classmethod
    def connect(cls, plugin: str, **settings: Any) -> Self:
        """Return the storage of `plugin`, opened by `async with` or by `await`.

        Args:
            plugin: The plugin's name.
            settings: In front of the environment's: `url`, `credentials`, `subject`, `timeout`, `data`,
                `plugins`, `env`, `allow_local`.

        Raises:
            InvalidName: No plugin may be called so.
            InvalidRequest: A setting is unknown or does not parse.
            LocalModeRefused: The URL asks for local mode, which is not allowed here.
        """
        with _naming(plugin, "connect"):
            loaded = Settings.load(None, **settings)
            check_plugin(plugin)
            transport = _transport_for(plugin, loaded)
        return cls(plugin, loaded, transport)

    async def open(self) -> Self:
        """Reach the server, or the file; `async with` and `await` call it.

        Raises:
            Unavailable: NATS does not answer, or the storage was closed before.
            PermissionDenied: NATS refuses the credentials.
        """
        if self._state == "open":
            return self
        if self._state != "not open":
            raise Unavailable(f"The storage is {self._state}.", plugin=self.plugin, operation="open")
        self._state = "opening"
        try:
            with _naming(self.plugin, "open"):
                await self._transport.open()
        except BaseException:
            self._state = "not open"
            await self._transport.close()
            raise
        self._calls.transport = self._transport
        self._kv = KV(self._transport.backend, plugin=self.plugin, timeout=self.settings.timeout)
        self._state = "open"
        return self

    async def close(self) -> None:
        """End watches and calls under way, and let go of the connection; closing twice is no error."""
        if self._state == "open":
            self._calls.transport = Away("closed")
            self._state = "closed"
            try:
                await self.kv.close()
            finally:
                await self._transport.close()

    def __await__(self) -> Generator[Any, None, Self]:
        return self.open().__await__()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<Storage of {self.plugin}, {self._state}: {mask(self.settings.url)}>"

    @property
    def kv(self) -> KV:
        """The plugin's keys.

        Raises:
            Unavailable: The storage is not open yet.
        """
        if self._kv is None:
            raise Unavailable(
                f"The storage is {self._state}.",
                plugin=self.plugin,
                hint='As `async with Storage.connect("quotes") as storage:`.',
            )
        return self._kv

    def table(self, name: str) -> Table:
        """Return one of the plugin's tables; no request is sent before a method is called.

        Raises:
            InvalidName: No table may be called so.
        """
        with _naming(self.plugin, "table"):
            return Table(check_identifier(name, "table"), self._calls)

    async def tables(self, *, timeout: float | None = None) -> list[TableSummary]:
        """Return the plugin's tables by name, with the database's estimates of their rows and bytes."""
        return (await self._calls(operations.TABLES_LIST, ListRequest, timeout=timeout)).tables

    def transaction(self, *, timeout: float | None = None, idempotency_key: str | None = None) -> Transaction:
        """Return a block that collects writes and sends them as one request, all or nothing."""
        return Transaction(self._calls, timeout, idempotency_key)

    @property
    def migrations(self) -> Migrations:
        """The plugin's migrations."""
        return Migrations(self._calls)


def sqlite_path(plugin: str, **settings: Any) -> Path:
    """Return the plugin's own SQLite file, its folder made, for development.

    Args:
        plugin: The plugin's name.
        settings: As for `Storage.connect`; `data` is the folder.

    Raises:
        LocalModeRefused: In production, or where local mode is not allowed.
        InvalidName: No plugin may be called so.
        InvalidRequest: A setting is unknown or does not parse.
        Unavailable: The folder cannot be made.
    """
    with _naming(plugin, "sqlite_path"):
        loaded = Settings.load(None, **settings)
        check_plugin(plugin)
        return made_file(plugin, loaded)


def _transport_for(plugin: str, settings: Settings) -> Transport:
    if settings.local:
        return LocalTransport(plugin, settings)
    return NatsTransport(plugin, settings)


@contextmanager
def _naming(plugin: str, operation: str) -> Iterator[None]:
    """Say of every error whose it is, and turn faults of the contract into errors of the tree."""
    try:
        yield
    except Fault as fault:
        raise error_from(fault, plugin=plugin, operation=operation) from fault
    except StorageError as error:
        error.plugin, error.operation = plugin, operation
        raise
