"""One plugin speaking to one application in the wire's own bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from attrs import frozen
from psycopg import AsyncConnection

from rosey_kvstore.connection import Connection
from rosey_rowstore.databases.postgres.logins import find_logins
from rosey_rowstore.databases.postgres.sessions import connect
from support.secure import Installation


class Refused(Exception):
    """An error reply, as a test reads it."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']} at {error.get('path')}")
        self.code: str = error["code"]
        self.message: str = error["message"]
        self.path: str | None = error.get("path")
        self.error = error


class Answering(Protocol):
    """What takes a request's bytes: the application itself, or a service behind NATS."""

    @property
    def database_url(self) -> str: ...

    async def handle(
        self, plugin: str, tail: str, payload: bytes, headers: Mapping[str, str] | None
    ) -> tuple[bytes, dict[str, str] | None]: ...


class OverNats:
    """A row service as in production; each plugin speaks with credentials of its own."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._connections: dict[str, Connection] = {}

    @property
    def database_url(self) -> str:
        return self._installation.database

    async def handle(
        self, plugin: str, tail: str, payload: bytes, headers: Mapping[str, str] | None
    ) -> tuple[bytes, dict[str, str] | None]:
        if plugin not in self._connections:
            await self._installation.add(plugin, rows=True)
            self._connections[plugin] = await Connection.open(
                [self._installation.nats.url],
                credentials=self._installation.credentials(plugin),
                name=plugin,
            )
        subject = f"storage.v1.{plugin}.{tail}"
        reply = await self._connections[plugin].request(subject, payload, headers=headers, timeout=20)
        return reply.data, reply.headers

    async def as_owner(self, plugin: str, statement: str) -> None:
        """Run a statement with the owner's login, as a migration does."""
        async with await AsyncConnection.connect(self.database_url, autocommit=True) as admin:
            found = await find_logins(admin, plugin)
        assert found is not None
        async with await connect(self.database_url, found.owner, {}) as owner:
            await owner.execute(statement.encode())

    async def close(self) -> None:
        for connection in self._connections.values():
            await connection.close()


@frozen
class Speaker:
    """Requests of `plugin`; `call` gives the result or raises `Refused`."""

    application: Answering
    plugin: str

    async def call(self, tail: str, headers: dict[str, str] | None = None, /, **members: Any) -> Any:
        """Send one request."""
        return await self.send(
            tail, json.dumps(members, ensure_ascii=False).encode("utf-8", "surrogatepass"), headers
        )

    async def send(self, tail: str, payload: bytes, headers: dict[str, str] | None = None) -> Any:
        """Send bytes as they are."""
        reply, _ = await self.application.handle(self.plugin, tail, payload, headers)
        body = json.loads(reply)
        if "error" in body:
            raise Refused(body["error"])
        return body["result"]

    async def refusal(self, tail: str, /, **members: Any) -> Refused:
        """Send a request that must be refused, and return how."""
        try:
            result = await self.call(tail, **members)
        except Refused as refused:
            return refused
        raise AssertionError(f"{tail} {members} was answered: {result}")
