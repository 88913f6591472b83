"""From a message on NATS to the application and back: names checked, bounds kept, each answered once."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping
from typing import Final, Protocol

from rosey_rowstore.plugins import KnownPlugins
from rosey_rowstore.protocol import (
    API_VERSION,
    OPERATIONS,
    TIMEOUT_HEADER,
    Fault,
    check_plugin,
    encode_fault,
    nearest,
    timeout_from_headers,
)
from rosey_rowstore.service.admission import Admission, Ticket
from rosey_rowstore.service.connection import ServiceConnection, parse_headers

__all__ = ["QUEUE_GROUP", "Binding", "Handler"]

QUEUE_GROUP: Final = "rowstore"
_AREAS: Final = ("rows", "tables", "migrations")

_log = logging.getLogger("rosey.rowstore.service")


class Handler(Protocol):
    """What answers a request; `rosey_rowstore.application.Application` does."""

    async def handle(
        self, plugin: str, tail: str, payload: bytes, headers: Mapping[str, str] | None
    ) -> tuple[bytes, dict[str, str] | None]:
        """Return the answer and its headers; it does not raise for anything a request may hold."""


class Binding:
    """The service on one connection.

    Args:
        subject: The first token of the subjects.
        timeout: Seconds for requests that do not say how long their caller waits.
    """

    def __init__(
        self,
        connection: ServiceConnection,
        handler: Handler,
        plugins: KnownPlugins,
        *,
        subject: str,
        timeout: float,
    ) -> None:
        self._connection = connection
        self._handler = handler
        self._plugins = plugins
        self._timeout = timeout
        self._prefix = f"{subject}.{API_VERSION}."
        self._loop = asyncio.get_running_loop()
        self._admission = Admission(plugins.limits_for)
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def pending(self) -> int:
        """Requests accepted and not yet answered."""
        return self._admission.in_flight + self._admission.waiting

    def start(self) -> None:
        """Take requests."""
        for area in _AREAS:
            self._connection.subscribe_group(f"{self._prefix}*.{area}.>", QUEUE_GROUP, self._receive)

    def limits_changed(self) -> None:
        """Take up the limits of plugins that were declared anew."""
        self._admission.refresh()

    async def drain(self, timeout: float) -> int:
        """Take no more requests, answer those accepted, and return how many were not within `timeout`."""
        deadline = self._loop.time() + timeout
        await self._connection.leave()
        while self.pending and (left := deadline - self._loop.time()) > 0:
            self._idle.clear()
            try:
                async with asyncio.timeout(left):
                    await self._idle.wait()
            except TimeoutError:
                break
        unanswered = self.pending
        for ticket in self._admission.clear():
            ticket.expire()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return unanswered

    def _receive(self, subject: bytes, reply: bytes, payload: bytes, block: bytes | None) -> None:
        """Take a message in the reader's turn: nothing is awaited here, and nothing may be raised."""
        if not reply:
            # Nobody would learn what became of it; a request that is meant has an inbox.
            _log.warning("message without a reply subject left aside", extra={"bytes": len(payload)})
            return
        try:
            plugin, tail = self._address(subject)
            headers = parse_headers(block)
            self._admit(plugin, tail, payload, headers, reply)
        except Fault as fault:
            self._answer_fault(reply, fault)
        except Exception as error:  # noqa: BLE001 - the reader must go on for everyone else
            self._answer_fault(reply, _internal(error, subject.decode("utf-8", "replace")))

    def _address(self, subject: bytes) -> tuple[str, str]:
        text = subject.decode("utf-8", "backslashreplace")
        plugin, _, tail = text[len(self._prefix) :].partition(".")
        check_plugin(plugin)
        if tail not in OPERATIONS:
            near = nearest(tail, OPERATIONS)
            raise Fault(
                "invalid_request",
                f"There is no operation {tail[:80]!r}" + (f"; did you mean {near!r}?" if near else "."),
                hint="The operations are " + ", ".join(OPERATIONS) + ".",
            )
        return plugin, tail

    def _admit(
        self, plugin: str, tail: str, payload: bytes, headers: dict[str, str] | None, reply: bytes
    ) -> None:
        patience = timeout_from_headers(headers, self._patience(plugin, tail))
        arrived = self._loop.time()

        def start() -> None:
            # What was spent waiting is no longer the statement's.
            waited = self._loop.time() - arrived
            task = self._loop.create_task(self._run(ticket, tail, payload, _less(headers, waited), reply))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        def expire() -> None:
            self._answer_fault(
                reply,
                Fault(
                    "timeout",
                    "The request waited for its turn until its time was over; nothing of it was done.",
                    hint="Other requests of the plugin, or of others, were first.",
                ),
            )
            self._settled()

        ticket = Ticket(plugin, arrived + patience, start, expire)
        self._admission.admit(ticket)

    def _patience(self, plugin: str, tail: str) -> float:
        if tail.startswith("migrations."):
            return self._plugins.limits_for(plugin).migration_timeout
        return self._timeout

    async def _run(
        self, ticket: Ticket, tail: str, payload: bytes, headers: dict[str, str] | None, reply: bytes
    ) -> None:
        try:
            answer, answer_headers = await self._handler.handle(ticket.plugin, tail, payload, headers)
            if excess := self._connection.answer(reply, answer, answer_headers):
                self._answer_fault(reply, _too_large(tail, excess, self._connection.max_payload))
        except asyncio.CancelledError:
            self._answer_fault(
                reply,
                Fault("unavailable", "The service stopped before it was done; it may have been done."),
            )
            raise
        except Exception as error:  # noqa: BLE001 - the last line: a caller never waits in vain
            self._answer_fault(reply, _internal(error, f"{ticket.plugin} {tail}"))
        finally:
            self._admission.done(ticket)
            self._settled()

    def _answer_fault(self, reply: bytes, fault: Fault) -> None:
        self._connection.answer(reply, *encode_fault(fault))

    def _settled(self) -> None:
        if not self.pending:
            self._idle.set()


def _less(headers: dict[str, str] | None, waited: float) -> dict[str, str] | None:
    if waited < 0.001 or headers is None or TIMEOUT_HEADER not in headers:
        return headers
    left = int(headers[TIMEOUT_HEADER]) - int(waited * 1000)
    return {**headers, TIMEOUT_HEADER: str(max(1, left))}


def _too_large(tail: str, excess: int, most: int) -> Fault:
    done = " What it asked was done." if OPERATIONS[tail].writes else ""
    return Fault(
        "reply_too_large",
        f"The reply has {excess} bytes more than the {most} that NATS carries.{done}",
        hint="Ask for fewer rows or columns, or raise max_payload of the NATS server.",
    )


def _internal(error: Exception, what: str) -> Fault:
    reference = uuid.uuid4().hex[:12]
    _log.error("internal fault", exc_info=error, extra={"reference": reference, "request": what})
    return Fault("internal", f"The service failed; its log has the reference {reference}.")
