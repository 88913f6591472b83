"""What probes are told: `/healthz` while the loop turns, `/readyz` while requests would be answered.

Nothing is asked of a server for it: the connection knows whether NATS is there, and the database's
listening connection, which asks in its own time, whether the database is.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from http import HTTPStatus
from typing import Final, Literal, Protocol

from attrs import define

from rosey_rowstore.protocol import Fault
from rosey_rowstore.service.http import HttpServer, Response

__all__ = ["Bus", "Health", "Reachable", "answer_probes"]

_SETTING: Final = "ROSEY_STORAGE_HEALTH"

_log = logging.getLogger("rosey.rowstore.service")


class Reachable(Protocol):
    """What knows whether the database is there."""

    def trouble(self) -> str | None:
        """Return why the database cannot be reached now, None when it can; at once."""


class Bus(Protocol):
    """What knows whether NATS is there."""

    def trouble(self) -> str | None:
        """Return why no request would arrive, None when one would; at once."""


@define
class Health:
    """What this process needs for its work, and whether it is there.

    Attributes:
        database: Asked for the database.
        bus: Asked for NATS, once there is a connection.
        stage: `starting` until the subscriptions stand, `draining` from the signal to stop.
    """

    database: Reachable
    bus: Bus | None = None
    stage: Literal["starting", "serving", "draining"] = "starting"

    def missing(self) -> dict[str, str]:
        """Return what is missing, by name, and why; nothing when requests are answered."""
        found = {}
        if self.stage == "draining":
            found["service"] = "It is draining: it takes no more requests, answers what it has, and leaves."
        if (trouble := self.database.trouble()) is not None:
            found["database"] = trouble
        if self.bus is None:
            found["nats"] = "The service has not turned to NATS yet."
        elif (trouble := self.bus.trouble()) is not None:
            found["nats"] = trouble
        elif self.stage == "starting":
            found["nats"] = "The service is not subscribed yet."
        return found

    def routes(self) -> Mapping[str, Callable[[], Response]]:
        """Return the paths to answer."""
        return {"/healthz": _alive, "/readyz": self._ready}

    def _ready(self) -> Response:
        missing = self.missing()
        if missing:
            return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "unavailable", "missing": missing})
        return _json(HTTPStatus.OK, {"status": "ready"})


def _alive() -> Response:
    return _json(HTTPStatus.OK, {"status": "alive"})


def _json(status: HTTPStatus, body: Mapping[str, object]) -> Response:
    return Response(status=status, body=json.dumps(body).encode() + b"\n")


@contextlib.asynccontextmanager
async def answer_probes(address: tuple[str, int] | None, health: Health) -> AsyncIterator[None]:
    """Answer probes on `address` meanwhile; without one there is nothing to answer.

    Raises:
        Fault: `invalid_request` when the address cannot be had.
    """
    if address is None:
        yield
        return
    server = HttpServer(health.routes())
    try:
        host, port = await server.start(*address)
    except Fault as fault:
        raise fault.at(_SETTING) from fault
    _log.info("answering probes", extra={"host": host, "port": port})
    try:
        yield
    finally:
        await server.stop()
