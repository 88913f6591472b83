"""Row services in containers that every test of migrations shares: a new plugin needs no restart."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from attrs import frozen

from rosey_deploy.stack.service import RowService
from rosey_kvstore.connection import Connection, Message
from support.migrations import Folder
from support.servers import Servers

__all__ = ["Answers", "SharedServices"]

_MARKER = "marker"


class SharedServices:
    """Services on one database, one for each environment, started when first asked for.

    Args:
        folder: Holds `plugins.toml` and, below it, the folder of each test.
        url: The NATS server.
        database: The admin's URL of the database.
    """

    def __init__(self, servers: Servers, folder: Path, *, url: str, database: str) -> None:
        self.folder = folder
        self.url = url
        self.database = database
        self._servers = servers
        self._services: dict[str, RowService] = {}
        self._folders: dict[str, Folder] = {}
        self._numbers = itertools.count(1)

    async def add(self, folder: Folder, *, environment: str, stack: AsyncExitStack) -> Answers:
        """Serve a plugin's folder, which lies below this one; return once the service knows of it."""
        self._folders[folder.plugin] = folder
        number = next(self._numbers)
        marker = Folder(self.folder / f"marker{number}", _MARKER)
        marker.write(f"m{number}", "pass")
        self._folders[_MARKER] = marker
        self._write()
        service = await asyncio.to_thread(self._service, environment)
        connection = await Connection.open([self.url], name="test")
        stack.push_async_callback(connection.close)
        answers = Answers(connection, service._subject)
        async with asyncio.timeout(20):
            while True:
                reply, _ = await answers.handle(_MARKER, "migrations.status", b"{}", None)
                if [step["revision"] for step in json.loads(reply)["result"]["pending"]] == [f"m{number}"]:
                    return answers
                await asyncio.sleep(0.05)

    def stop(self) -> None:
        """Remove the services."""
        for service in self._services.values():
            self._servers.discard(service)

    def _service(self, environment: str) -> RowService:
        if environment not in self._services:
            made = self._servers.row_service(
                self.folder / f"{environment}.log",
                url=self.url,
                database=self.database,
                subject=f"{self.folder.name}-{environment}",
                plugins=self.folder / "plugins.toml",
                settings={"ROSEY_ENV": environment},
            )
            self._services[environment] = made
            made.start()
        return self._services[environment]

    def _write(self) -> None:
        """Write `plugins.toml`: what each test's own file says, and where its revisions are from here."""
        parts = []
        for plugin, folder in self._folders.items():
            head = f"[plugins.{plugin}]\n"
            text = folder.toml.read_text()
            assert text.startswith(head)
            where = folder.path.relative_to(self.folder)
            parts.append(text.replace(head, f"{head}migrations = {str(where)!r}\n", 1))
        unfinished = self.folder / "plugins.toml.new"
        unfinished.write_text("\n".join(parts))
        unfinished.replace(self.folder / "plugins.toml")


@frozen
class Answers:
    """What takes a request's bytes: a service behind NATS."""

    connection: Connection
    subject: str

    async def handle(
        self, plugin: str, tail: str, payload: bytes, headers: Mapping[str, str] | None
    ) -> tuple[bytes, dict[str, str] | None]:
        """Ask the service."""
        subject = f"{self.subject}.v1.{plugin}.{tail}"
        reply = await self.connection.request(subject, payload, headers=headers, timeout=100)
        return reply.data, reply.headers

    async def events_to(self, plugin: str, found: list[tuple[str, dict[str, Any]]]) -> None:
        """Append the events of a plugin from now on, with their places below `events.`."""
        prefix = f"{self.subject}.events."

        def take(message: Message) -> None:
            found.append((message.subject.decode().removeprefix(prefix), json.loads(message.data)))

        self.connection.subscribe(f"{prefix}{plugin}.>", take)
        await self.connection._client.flush(timeout=10)
