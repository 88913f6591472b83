"""Who runs the migrations of `rosey-storage migrations`: this process on the database, or the row service."""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from attrs import frozen

from rosey_kvstore.errors import InvalidRequest, StorageError
from rosey_rowstore.engine.model import Limits
from rosey_rowstore.plugins import Plugin, Plugins
from rosey_rowstore.protocol import (
    ApplyReply,
    ApplyRequest,
    RollbackReply,
    RollbackRequest,
    RunningStep,
    StatusReply,
    check_plugin,
)
from rosey_storage import Storage
from rosey_storage.local import local_target, made_file
from rosey_storage.settings import Settings

if TYPE_CHECKING:
    from rosey_rowstore.migrations.operations import Caller, Migrations

__all__ = ["MigrationsOf", "Place", "Progress", "open_caller"]

Progress = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Told `{"event": "start" | "done", "revision", "message", "seconds"?}` while a run goes on."""

T = TypeVar("T", ApplyReply, RollbackReply)

_POLL_SECONDS: Final = 0.3


@frozen(kw_only=True)
class Place:
    """Which plugin, and where its database and its revisions are, as the command's options say.

    Attributes:
        plugin: Its name.
        folder: Its migrations; None for what `plugins.toml` says.
        plugins: `plugins.toml`; None for that of the settings.
        database: The database's URL; None for that of the environment, if any.
        url: Of NATS or of local mode; None for that of the settings.
    """

    plugin: str
    folder: Path | None
    plugins: Path | None
    database: str | None
    url: str | None

    def settings(self) -> Settings:
        """Return the settings, with the options in front of the environment's."""
        check_plugin(self.plugin)
        return Settings.load(url=self.url, plugins=self.plugins)

    def database_at_hand(self) -> str | None:
        """Return the database that this process can open: an option's, the environment's, local mode's."""
        settings = self.settings()
        database = self.database or os.environ.get("ROSEY_STORAGE_DATABASE") or None
        if database is None and settings.local:
            if local_target(self.plugin, settings) == ":memory:":
                return "sqlite::memory:"
            return f"sqlite:{made_file(self.plugin, settings)}"
        return database

    def to_write(self) -> Path:
        """Return the folder in which a new revision belongs, made or not.

        Raises:
            InvalidRequest: Neither an option nor `plugins.toml` names one.
        """
        path = self.settings().plugins
        if self.folder is not None:
            return self.folder
        if path is None:
            raise unknown_folder(self.plugin)
        found = Plugins.load(path).get(self.plugin)
        return found.migrations if found and found.migrations else path.parent / self.plugin / "migrations"


def unknown_folder(plugin: str) -> InvalidRequest:
    """Return the error of who has to know the revisions and was not told where they are."""
    return InvalidRequest(
        f"Where the migrations of {plugin!r} are is not known.",
        hint="Give --folder FOLDER, or --plugins FILE with the path of plugins.toml.",
    )


class MigrationsOf(Protocol):
    """The migrations of one plugin, run by whom it may be."""

    async def status(self) -> StatusReply:
        """Return where the schema stands."""

    async def apply(self, request: ApplyRequest) -> ApplyReply:
        """Apply."""

    async def rollback(self, request: RollbackRequest, *, allowed: bool) -> RollbackReply:
        """Roll back; `allowed` also where it is not by itself."""

    async def autogenerate(self, tables: str) -> Mapping[str, Any]:
        """Return the code of a revision, from the source of `tables.py`."""


@asynccontextmanager
async def open_caller(place: Place, progress: Progress | None) -> AsyncIterator[MigrationsOf]:
    """Open the database where it is at hand (an option, the environment, local mode), else the service."""
    database = place.database_at_hand()
    if database is not None:
        async with _open_here(place, database, progress) as caller:
            yield caller
    else:
        async with Storage.connect(place.plugin, url=place.url) as storage:
            yield _ByService(storage, progress)


@asynccontextmanager
async def _open_here(place: Place, database: str, progress: Progress | None) -> AsyncIterator[MigrationsOf]:
    # Late: a caller of the service needs no database library.
    from rosey_rowstore.migrations.direct import open_migrations  # noqa: PLC0415

    # What the log would say, the command says itself.
    logging.getLogger("rosey_rowstore.migrations").addHandler(logging.NullHandler())
    settings = place.settings()
    known = Plugins.load(settings.plugins)
    found = known.get(place.plugin)
    folder = place.folder or (found.migrations if found else None)
    if folder is None and found is None:
        raise unknown_folder(place.plugin)
    async with open_migrations(
        database, provision=not settings.production, allow_rollback=not settings.production
    ) as migrations:
        yield _Here(migrations, place.plugin, known.limits_for(place.plugin), folder, found, progress)


@frozen
class _ByService:
    """By the row service; how far it is, its `status` tells."""

    storage: Storage
    progress: Progress | None

    async def status(self) -> StatusReply:
        return await self.storage.migrations.status()

    async def apply(self, request: ApplyRequest) -> ApplyReply:
        return await self._watched(
            self.storage.migrations.apply(
                request.target, dry_run=request.dry_run, allow_destructive=request.allow_destructive
            )
        )

    async def rollback(self, request: RollbackRequest, *, allowed: bool) -> RollbackReply:
        if allowed:
            raise InvalidRequest(
                "--allow-rollback needs the database at hand.",
                hint="Give --database, or set allow_rollback = true of the plugin in plugins.toml.",
            )
        return await self._watched(self.storage.migrations.rollback(request.target, dry_run=request.dry_run))

    async def autogenerate(self, tables: str) -> Mapping[str, Any]:
        del tables
        raise InvalidRequest("--autogenerate needs the database at hand.", hint="Give --database.")

    async def _watched(self, run: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(run)
        told: dict[str, str] = {}
        try:
            while not (await asyncio.wait({task}, timeout=_POLL_SECONDS))[0]:
                await self._look(told)
            reply = task.result()
        finally:
            task.cancel()
        for step in reply.applied if isinstance(reply, ApplyReply) else reply.rolled_back:
            await self._tell(
                told,
                RunningStep(revision=step.revision, message=step.message, state="done", seconds=step.seconds),
            )
        return reply

    async def _look(self, told: dict[str, str]) -> None:
        try:
            running = (await self.storage.migrations.status()).running
        except StorageError:
            return  # the run's own reply says what is the matter
        for step in running.steps if running else ():
            await self._tell(told, step)

    async def _tell(self, told: dict[str, str], step: RunningStep) -> None:
        if self.progress is None or step.state == "waiting" or told.get(step.revision) == step.state:
            return
        told[step.revision] = step.state
        event = "done" if step.state == "done" else "start"
        await self.progress(
            {"event": event, "revision": step.revision, "message": step.message, "seconds": step.seconds}
        )


@frozen
class _Here:
    """In this process, on the database."""

    migrations: Migrations
    plugin: str
    limits: Limits
    folder: Path | None
    found: Plugin | None
    progress: Progress | None

    async def status(self) -> StatusReply:
        return await self.migrations.status(self.plugin, self.limits, self.folder)

    async def apply(self, request: ApplyRequest) -> ApplyReply:
        return await self.migrations.apply(self.plugin, self.limits, self.folder, request, self._caller())

    async def rollback(self, request: RollbackRequest, *, allowed: bool) -> RollbackReply:
        said = self.found.allow_rollback if self.found else None
        return await self.migrations.rollback(
            self.plugin, self.limits, self.folder, request, self._caller(True if allowed else said)
        )

    async def autogenerate(self, tables: str) -> Mapping[str, Any]:
        return await self.migrations.autogenerate(self.plugin, self.limits, tables)

    def _caller(self, may_roll_back: bool | None = None) -> Caller:
        from rosey_rowstore.migrations.operations import Caller  # noqa: PLC0415 - late, as above

        return Caller(
            who=f"{getpass.getuser()}@{socket.gethostname()}",
            deadline=asyncio.get_running_loop().time() + self.limits.migration_timeout,
            progress=self.progress,
            may_roll_back=may_roll_back,
        )
