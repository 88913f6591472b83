"""The accounts that the servers know, read and written over the system account: no reload, no restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from rosey_deploy.provision.accounts import Account
from rosey_deploy.provision.jwt import encode
from rosey_deploy.provision.keys import Key
from rosey_kvstore.connection import Connection, NoResponders, TlsFiles
from rosey_kvstore.errors import InternalError, PermissionDenied, Unavailable

__all__ = ["Resolver"]

_AT_ONCE: Final = 32


class Resolver:
    """The full resolver of nats-server, reached as a user of the system account."""

    def __init__(self, connection: Connection, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout

    @classmethod
    async def open(
        cls, servers: Sequence[str], credentials: Path, *, tls: TlsFiles | None = None, timeout: float
    ) -> Self:
        """Connect.

        Raises:
            Unavailable: NATS does not answer.
            PermissionDenied: It does not trust the operator.
        """
        try:
            connection = await Connection.open(
                servers, credentials=credentials, tls=tls, name="rosey-storage", timeout=timeout
            )
        except PermissionDenied as error:
            raise PermissionDenied(
                error.message,
                hint="Does it run with the configuration that `rosey-storage init` wrote here?",
            ) from error
        return cls(connection, timeout)

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def accounts(self) -> list[Account]:
        """Return every account but the system's own users' doings: what the server holds.

        Raises:
            PermissionDenied: The server has no full resolver, or these are not the system account's.
        """
        keys = await self._ask("CLAIMS.LIST", b"")
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(key: str) -> Account | None:
            async with turns:
                reply = await self._connection.request(
                    f"$SYS.REQ.ACCOUNT.{key}.CLAIMS.LOOKUP", timeout=self._timeout
                )
            try:
                return Account.of(reply.data.decode())
            except (ValueError, KeyError):
                return None  # deleted since it was listed

        found = await asyncio.gather(*(one(str(key)) for key in keys or []))
        return [account for account in found if account is not None]

    async def push(self, token: str) -> None:
        """Make or replace the account of a JWT; it counts at once, on every server of a cluster."""
        await self._ask("CLAIMS.UPDATE", token.encode())

    async def delete(self, accounts: Sequence[str], operator: Key) -> None:
        """Delete accounts by their public keys; their connections end."""
        claims: Mapping[str, Any] = {"type": "generic", "accounts": list(accounts)}
        token = encode(operator, operator.public, "delete", claims)
        await self._ask("CLAIMS.DELETE", token.encode())

    async def _ask(self, what: str, payload: bytes) -> Any:
        try:
            reply = await self._connection.request(f"$SYS.REQ.{what}", payload, timeout=self._timeout)
        except NoResponders as error:
            raise PermissionDenied(
                "The NATS server keeps no accounts, or these credentials are not its system account's.",
                hint="It needs `resolver { type: full }`, as in the configuration of `rosey-storage init`.",
            ) from error
        try:
            answer = json.loads(reply.data)
        except ValueError as error:
            raise InternalError(f"The NATS server's answer to {what} cannot be read.") from error
        failure = answer.get("error")
        if failure:
            raise Unavailable(f"The NATS server refuses {what}: {failure.get('description', failure)}.")
        return answer.get("data")
