"""What tests run on: the servers of the wheels, or containers with `--containers`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rosey_deploy.stack.nats import NatsServer
from rosey_deploy.stack.postgres import PostgresServer
from rosey_deploy.stack.service import RowService

__all__ = ["Embedded", "Servers"]


class Servers(Protocol):
    """Makes servers, not started; containers have the methods of the servers they stand in for."""

    def nats(self, folder: Path, *, settings: Mapping[str, Any] | None = None) -> NatsServer:
        """A nats-server with JetStream that keeps its data in `folder`."""

    def postgres(self, folder: Path, *, settings: Mapping[str, str] | None = None) -> PostgresServer:
        """A PostgreSQL."""

    def row_service(self, log: Path, **options: Any) -> RowService:
        """A row service, with the options of `RowService`."""

    def discard(self, server: NatsServer | PostgresServer | RowService) -> None:
        """Stop a server that is not needed again."""

    def nats_url(self, url: str) -> str:
        """Return a NATS URL as those servers have to write it, where they see the network otherwise."""

    def nats_tool(self) -> tuple[str, ...]:
        """Return the command by which the `nats` tool runs, where it is not installed here."""


class Embedded:
    """Processes of this machine, from the wheels."""

    def nats(self, folder: Path, *, settings: Mapping[str, Any] | None = None) -> NatsServer:
        return NatsServer(folder, settings=settings)

    def postgres(self, folder: Path, *, settings: Mapping[str, str] | None = None) -> PostgresServer:
        return PostgresServer(folder, settings=settings)

    def row_service(self, log: Path, **options: Any) -> RowService:
        return RowService(log, **options)

    def discard(self, server: NatsServer | PostgresServer | RowService) -> None:
        server.stop()

    def nats_url(self, url: str) -> str:
        return url

    def nats_tool(self) -> tuple[str, ...]:
        return ("nats",)
