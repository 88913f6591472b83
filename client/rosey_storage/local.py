"""Local mode: the plugin's keys and rows in one SQLite file of this process, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rosey_kvstore.backend import Backend, BucketLimits
from rosey_kvstore.errors import LocalModeRefused, StorageTimeout, Unavailable
from rosey_kvstore.sqlite import SqliteBackend
from rosey_storage.settings import Settings

if TYPE_CHECKING:
    from rosey_rowstore.application import Application
    from rosey_rowstore.plugins import Plugins

__all__ = ["LocalTransport", "made_file"]

MEMORY: Final = ":memory:"


class LocalTransport:
    """KV and rows of one file.

    The row engine is imported and opened with the first row request: a plugin of keys alone starts at
    once, and needs no database library.
    """

    def __init__(self, plugin: str, settings: Settings) -> None:
        _check_allowed(settings)
        self._plugin = plugin
        self._settings = settings
        self._backend: SqliteBackend | None = None
        self._application: Application | None = None
        self._opening = asyncio.Lock()

    @property
    def backend(self) -> Backend:
        """The keys of the file."""
        if self._backend is None:
            raise Unavailable("The storage is not open.")
        return self._backend

    async def open(self) -> None:
        """Open the file for keys; it is made where it is missing."""
        target = local_target(self._plugin, self._settings)
        if isinstance(target, Path):
            _make_folder(target.parent)
        limits = _limits(self._plugin, self._settings)
        self._backend = SqliteBackend(target, limits, timeout=self._settings.timeout)
        await self._backend.open()

    async def close(self) -> None:
        """Close both."""
        backend, application = self._backend, self._application
        self._application = None
        try:
            if backend is not None:
                await backend.close()
        finally:
            if application is not None:
                await application.close()

    async def request(
        self, tail: str, payload: bytes, headers: Mapping[str, str], *, timeout: float
    ) -> bytes:
        """Return the reply of the engine in this process."""
        try:
            async with asyncio.timeout(timeout):
                application = self._application or await self._opened()
                reply, _ = await application.handle(self._plugin, tail, payload, headers)
        except TimeoutError as error:
            raise StorageTimeout(f"No answer within {timeout:g} s.") from error
        return reply

    async def _opened(self) -> Application:
        async with self._opening:
            if self._application is None:
                application = _application(self._plugin, self._settings)
                await application.open()
                self._application = application
            return self._application


def local_target(plugin: str, settings: Settings) -> Path | str:
    """Return the file of the plugin, or `:memory:`."""
    name = settings.url.removeprefix("sqlite:")
    if name == MEMORY:
        return MEMORY
    return Path(name) if name else settings.data / f"{plugin}.sqlite3"


def made_file(plugin: str, settings: Settings) -> Path:
    """Return the plugin's file in the data folder, or the one that the URL names, its folder made."""
    _check_allowed(settings)
    target = local_target(plugin, settings) if settings.local else None
    file = target if isinstance(target, Path) else settings.data / f"{plugin}.sqlite3"
    _make_folder(file.parent)
    return file.absolute()


def _check_allowed(settings: Settings) -> None:
    if not settings.local_allowed:
        raise LocalModeRefused(
            "Local mode is not allowed here: "
            + ("ROSEY_ENV is production." if settings.allow_local is None else "allow_local is false."),
            hint="Give the URL of the NATS servers, as ROSEY_STORAGE_URL=nats://HOST:4222.",
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(
            f"The folder {folder} cannot be made: {error.strerror or error}.",
            hint="ROSEY_STORAGE_DATA names the folder of local mode.",
        ) from error


def _limits(plugin: str, settings: Settings) -> BucketLimits:
    if settings.plugins is None:
        return BucketLimits()
    limits = _plugins(settings).limits_for(plugin)
    return BucketLimits(value_size=limits.value_size, bucket_size=limits.bucket_size, history=limits.history)


def _plugins(settings: Settings) -> Plugins:
    with _extra():
        from rosey_rowstore.plugins import Plugins  # noqa: PLC0415 - late: only local mode needs the extra
    return Plugins.load(settings.plugins)


def _application(plugin: str, settings: Settings) -> Application:
    with _extra():
        from rosey_rowstore.application import Application  # noqa: PLC0415 - late, as above

        # Making it imports the database libraries, so it stands inside the block.
        return Application(f"sqlite:{local_target(plugin, settings)}", _plugins(settings), provision=True)


@contextmanager
def _extra() -> Iterator[None]:
    """Say how to get what an import lacks, unless it is a module of our own that is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("rosey_"):
            raise
        raise Unavailable(
            f"Local mode needs {error.name} for this, which is not installed.",
            hint="pip install 'rosey-storage[rowstore]'",
        ) from error
