"""One plugin speaking to one application in the wire's own bytes."""

from __future__ import annotations

import json
from typing import Any

from attrs import frozen

from rosey_rowstore.application import Application


class Refused(Exception):
    """An error reply, as a test reads it."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']} at {error.get('path')}")
        self.code: str = error["code"]
        self.message: str = error["message"]
        self.path: str | None = error.get("path")
        self.error = error


@frozen
class Speaker:
    """Requests of `plugin`; `call` gives the result or raises `Refused`."""

    application: Application
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
