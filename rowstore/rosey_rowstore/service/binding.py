"""From a message on NATS to the application and back: names checked, bounds kept, each answered once."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Final, Protocol, TypeVar

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
_MOST_KEPT: Final = 1024
_CANCEL_SECONDS: Final = 0.5
"""How long what was abandoned has to end; its callers have their answers already."""
_SHORT_BLOCK: Final = 128

Kept = TypeVar("Kept")

_log = logging.getLogger("rosey.rowstore.service")


class Handler(Protocol):
    """What answers a request; `rosey_rowstore.application.Application` does."""

    def begin(
        self,
        plugin: str,
        tail: str,
        payload: bytes,
        headers: Mapping[str, str] | None,
        reply: Callable[[bytes, dict[str, str] | None], None],
    ) -> asyncio.Task[None] | None:
        """Call `reply` once, now or later, with the answer and its headers; raise for no request.

        The task that works on it is returned, where there is one.
        """


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
        self._open: set[_Request] = set()
        self._routes: dict[bytes, tuple[str, str]] = {}
        self._headers: dict[bytes, dict[str, str] | None] = {}
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
        tasks = [request.task for request in self._open if request.task is not None]
        for request in list(self._open):
            request.abandon()
        if tasks:
            await asyncio.wait(tasks, timeout=_CANCEL_SECONDS)
        return unanswered

    def _receive(self, subject: bytes, reply: bytes, payload: bytes, block: bytes | None) -> None:
        """Take a message in the reader's turn: nothing is awaited here, and nothing may be raised."""
        if not reply:
            # Nobody would learn what became of it; a request that is meant has an inbox.
            _log.warning("message without a reply subject left aside", extra={"bytes": len(payload)})
            return
        try:
            plugin, tail = self._routes.get(subject) or self._address(subject)
            headers = None if block is None else self._parsed(block)
            if headers is not None and TIMEOUT_HEADER in headers:
                patience = timeout_from_headers(headers, 0.0)
            else:
                patience = self._patience(plugin, tail)
            now = self._loop.time()
            self._admission.admit(_Request(self, plugin, tail, now + patience, payload, headers, reply), now)
        except Fault as fault:
            self.answer_fault(reply, fault)
        except Exception as error:  # noqa: BLE001 - the reader must go on for everyone else
            self.answer_fault(reply, _internal(error, subject.decode("utf-8", "replace")))

    def _parsed(self, block: bytes) -> dict[str, str] | None:
        """Return the headers; a client's are the same for most of its requests."""
        if block in self._headers:
            return self._headers[block]
        headers = parse_headers(block)
        if len(block) <= _SHORT_BLOCK:
            _keep(self._headers, block, headers)
        return headers

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
        _keep(self._routes, subject, (plugin, tail))
        return plugin, tail

    def _patience(self, plugin: str, tail: str) -> float:
        if tail.startswith("migrations."):
            return self._plugins.limits_for(plugin).migration_timeout
        return self._timeout

    def run(self, request: _Request) -> None:
        """Hand a request over whose turn has come."""
        self._open.add(request)
        headers = request.headers
        if request.timer is not None:  # it waited, and what was spent waiting is no longer the statement's
            headers = _left(headers, request.deadline - self._loop.time())
        try:
            request.task = self._handler.begin(
                request.plugin, request.tail, request.payload, headers, request.reply
            )
            if request.task is not None:
                request.task.add_done_callback(request.ended)
        except Exception as error:  # noqa: BLE001 - the last line: a caller never waits in vain
            self.answer_fault(request.inbox, _internal(error, f"{request.plugin} {request.tail}"))
            self.settle(request)

    def send(self, request: _Request, body: bytes, headers: dict[str, str] | None) -> None:
        """Send the answer of a request."""
        alone = len(self._open) == 1
        if excess := self._connection.answer(request.inbox, body, headers, at_once=alone):
            self.answer_fault(request.inbox, _too_large(request.tail, excess, self._connection.max_payload))
        self.settle(request)

    def answer_fault(self, inbox: bytes, fault: Fault) -> None:
        """Send an error."""
        self._connection.answer(inbox, *encode_fault(fault))

    def settle(self, request: _Request) -> None:
        """Note that a request has its answer; whoever is next starts."""
        if request in self._open:
            self._open.discard(request)
            self._admission.done(request)
        if not self.pending:
            self._idle.set()


class _Request(Ticket):
    """A request from its arrival to its answer."""

    __slots__ = ("_answered", "_binding", "headers", "inbox", "payload", "tail", "task")

    def __init__(  # noqa: PLR0917 - made once a request, in one place
        self,
        binding: Binding,
        plugin: str,
        tail: str,
        deadline: float,
        payload: bytes,
        headers: dict[str, str] | None,
        inbox: bytes,
    ) -> None:
        super().__init__(plugin, deadline)
        self._binding = binding
        self._answered = False
        self.tail = tail
        self.payload = payload
        self.headers = headers
        self.inbox = inbox
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._binding.run(self)

    def expire(self) -> None:
        self._answered = True
        self._binding.answer_fault(
            self.inbox,
            Fault(
                "timeout",
                "The request waited for its turn until its time was over; nothing of it was done.",
                hint="Other requests of the plugin, or of others, were first.",
            ),
        )
        self._binding.settle(self)

    def reply(self, body: bytes, headers: dict[str, str] | None) -> None:
        """Send the answer; the first one counts."""
        if not self._answered:
            self._answered = True
            self._binding.send(self, body, headers)

    def ended(self, task: asyncio.Task[None]) -> None:
        """See that there was an answer, now that the task is over; the last line, for a fault of ours."""
        if self._answered:
            return
        error = None if task.cancelled() else task.exception()
        fault = _internal(error or RuntimeError("no answer was made"), f"{self.plugin} {self.tail}")
        self.reply(*encode_fault(fault))

    def abandon(self) -> None:
        """Answer that the service stops, whatever becomes of it."""
        self.reply(
            *encode_fault(
                Fault("unavailable", "The service stopped before it was done; it may have been done.")
            )
        )
        if self.task is not None:
            self.task.cancel()


def _keep(kept: dict[bytes, Kept], key: bytes, value: Kept) -> None:
    """Keep a value; strangers may invent keys, so a full house is emptied."""
    if len(kept) >= _MOST_KEPT:
        kept.clear()
    kept[key] = value


def _left(headers: dict[str, str] | None, seconds: float) -> dict[str, str] | None:
    if headers is None or TIMEOUT_HEADER not in headers:
        return headers
    return {**headers, TIMEOUT_HEADER: str(max(1, int(seconds * 1000)))}


def _too_large(tail: str, excess: int, most: int) -> Fault:
    done = " What it asked was done." if OPERATIONS[tail].writes else ""
    return Fault(
        "reply_too_large",
        f"The reply has {excess} bytes more than the {most} that NATS carries.{done}",
        hint="Ask for fewer rows or columns, or raise max_payload of the NATS server.",
    )


def _internal(error: BaseException, what: str) -> Fault:
    reference = uuid.uuid4().hex[:12]
    _log.error("internal fault", exc_info=error, extra={"reference": reference, "request": what})
    return Fault("internal", f"The service failed; its log has the reference {reference}.")
