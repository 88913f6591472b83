"""nats-py's client with a shorter way for requests; connect, TLS, authentication and reconnect stay its own.

nats-py takes about six turns of the event loop per request: flusher, reader, callback task, `wait_for`.
Here a reply is resolved where it is parsed, the commands of one turn leave in few writes, and a timeout
is one timer. What this leans on inside nats-py is held by tests/unit/kvstore/test_nats_internals.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import re
from collections.abc import Callable
from typing import Protocol

from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription as NatsSubscription
from nats.aio.transport import Transport
from nats.protocol import command
from nats.protocol.parser import Parser

from rosey_kvstore.connection.bulk import Batch, BulkReader, secret_sid
from rosey_kvstore.connection.credentials import UnusableCredentialsError
from rosey_kvstore.connection.errors import Interrupted, NoResponders
from rosey_kvstore.connection.headers import parse_headers, status_of
from rosey_kvstore.connection.intake import Intake
from rosey_kvstore.connection.wire import FastParser
from rosey_kvstore.errors import PermissionDenied, StorageError, StorageTimeout

__all__ = ["FastClient", "Message", "Observer", "Reply", "timed_out"]

FIRST_WAIT = 0.05
LONGEST_WAIT = 0.5
LONGEST_WAIT_REFUSED = 5.0

_READ_SIZE = 32768
_TOGETHER = 16  # commands in one write: the server and who answers begin while the rest is being made
_NO_RESPONDERS = b"NATS/1.0 503"
_REFUSED = re.compile("authorization|authentication|account active connections", re.IGNORECASE)
_DENIED = re.compile(r'permissions violation for (\w+)[^"]*"([^"]*)"', re.IGNORECASE)


class Reply:
    """An answer: `data`, and headers that are parsed when they are looked at."""

    __slots__ = ("_headers", "block", "data")

    def __init__(self, data: bytes, block: bytes | None) -> None:
        self.data = data
        self.block = block
        self._headers: dict[str, str] | None = None

    @property
    def headers(self) -> dict[str, str] | None:
        """The headers, or None when the answer has none."""
        if self._headers is None and self.block is not None:
            self._headers = parse_headers(self.block)
        return self._headers

    @property
    def status(self) -> str | None:
        """The inline status, as `404`, or None."""
        return None if self.block is None else status_of(self.block)


class Message(Reply):
    """What a subscription receives; subjects are the bytes of the wire."""

    __slots__ = ("reply", "subject")

    def __init__(self, subject: bytes, reply: bytes, data: bytes, block: bytes | None) -> None:
        super().__init__(data, block)
        self.subject = subject
        self.reply = reply


class Observer(Protocol):
    """Who is told of the state; each call is made on the event loop and returns at once."""

    def lost(self, error: Exception | None) -> None:
        """The connection broke."""

    def connected(self) -> None:
        """The connection stands again, subscriptions included."""

    def refused(self, reason: str) -> None:
        """The server does not take these credentials, now or any longer."""

    def failed(self, error: Exception) -> None:
        """An attempt to connect failed, or the server complained."""


class _Direct(NatsSubscription):
    """A subscription whose messages go straight to a function, in the reader's own turn."""

    def __init__(
        self,
        client: FastClient,
        sid: int,
        subject: str,
        receive: Callable[[bytes, bytes, bytes, bytes | None], None],
        denied: Callable[[StorageError], None],
    ) -> None:
        super().__init__(client, sid, subject)
        self.sid = sid
        self.receive = receive
        self.denied = denied


class FastClient(Client):
    """nats-py's client, with requests of its own making; one per connection, never opened twice."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self.observer = observer
        self.waiting: dict[bytes, tuple[asyncio.Future[Reply], str, float, float]] = {}
        self._sweep_at = math.inf
        self._sweeper: asyncio.TimerHandle | None = None
        self.inbox = b""
        self._count = 0
        self._inbox_sid = 0
        self._direct: dict[int, _Direct] = {}
        self._collecting: dict[bytes, Callable[[bytes, bytes | None], None]] = {}
        self._collecting_futures: dict[bytes, tuple[asyncio.Future[Reply], str]] = {}
        self._parser = FastParser(self, self._take)
        self._ps: Parser = self._parser
        self._out: list[bytes] = []
        self._attempts = 0
        self._told_off: str | None = None  # why the server ended the connection, until it stands again
        self._loop = asyncio.get_running_loop()

    # ── Sending ──────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Subscribe to the inbox; to be called once, when connected."""
        self.inbox = self.new_inbox().encode() + b"."
        sub = self.subscribe_direct(self.inbox.decode() + "*", self._no_receiver, self._inbox_denied)
        self._inbox_sid = sub.sid

    def send_request(
        self, subject: str, header: bytes | None, payload: bytes, timeout: float
    ) -> tuple[bytes, asyncio.Future[Reply]]:
        """Send, and return the token of the request and the future of its answer."""
        self._count += 1
        token = b"%x" % self._count
        future: asyncio.Future[Reply] = self._loop.create_future()
        deadline = self._loop.time() + timeout
        self.waiting[token] = (future, subject, deadline, timeout)
        if deadline < self._sweep_at:
            self._sweep_later(deadline)
        # One alone does not wait for the loop's turn to end; of 64 at once, sixteen leave in one write.
        self.send(_publish(subject, self.inbox + token, header, payload), at_once=len(self.waiting) == 1)
        return token, future

    def _sweep_later(self, when: float) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweep_at = when
        self._sweeper = self._loop.call_at(when, self._sweep)

    def _sweep(self) -> None:
        """End what has waited for too long: one timer for all requests, since nearly all end before."""
        now, earliest = self._loop.time(), math.inf
        self._sweeper = None
        for token, (future, subject, deadline, timeout) in list(self.waiting.items()):
            if deadline > now:
                earliest = min(earliest, deadline)
                continue
            del self.waiting[token]
            if not future.done():
                future.set_exception(timed_out(subject, timeout))
        self._sweep_at = math.inf
        if earliest < math.inf:
            self._sweep_later(earliest)

    def collect(
        self, subject: str, payload: bytes, receive: Callable[[bytes, bytes | None], bool]
    ) -> tuple[bytes, asyncio.Future[Reply]]:
        """Send a request with many answers; the future is done when `receive` says that one is the last.

        `stop_collecting` ends it.
        """
        self._count += 1
        token = b"c%x" % self._count
        future: asyncio.Future[Reply] = self._loop.create_future()

        def take(data: bytes, block: bytes | None) -> None:
            if future.done():
                return
            if block is not None and block.startswith(_NO_RESPONDERS):
                future.set_exception(NoResponders(f"Nobody answers on {subject}."))
            elif receive(data, block):
                future.set_result(Reply(data, block))

        self._collecting[token] = take
        self._collecting_futures[token] = (future, subject)
        self.send(_publish(subject, self.inbox + token, None, payload))
        return token, future

    def stop_collecting(self, token: bytes) -> None:
        """Drop further answers."""
        self._collecting.pop(token, None)
        self._collecting_futures.pop(token, None)

    def send_publish(self, subject: str, reply: str, header: bytes | None, payload: bytes) -> None:
        """Send without an answer."""
        self.send(_publish(subject, reply.encode(), header, payload))

    def send(self, sent: bytes, *, at_once: bool = False) -> None:
        """Write at the end of this turn of the loop, with what else leaves in it up to a bound, or now."""
        out = self._out
        if at_once and not out:
            self._write(sent)
            return
        if not out:
            self._loop.call_soon(self._end_turn)
        out.append(sent)
        if len(out) >= _TOGETHER:
            self._end_turn()

    def _end_turn(self) -> None:
        if self._out:
            joined = b"".join(self._out)
            self._out.clear()
            self._write(joined)

    def _write(self, sent: bytes) -> None:
        if self._status == Client.CONNECTED and self._transport:
            # uvloop: the socket is closed, and nats-py learns it a turn later; what waits for an answer
            # ends then, with its code.
            with contextlib.suppress(RuntimeError):
                self._transport.write(sent)

    # ── Receiving ────────────────────────────────────────────────────────────────────────────────

    async def _read_loop(self) -> None:
        """Take the place of nats-py's: messages need no task, control lines do.

        What it does not expect ends the connection, and the next one begins; nats-py's would read no more.
        """
        transport, intake = self._transport, None
        try:
            intake = await Intake.begin(transport, self._parser, self._is_wanted)
            while self._is_wanted() and transport is not None:
                data = await (transport.read(_READ_SIZE) if intake is None else intake.next())
                if not data:
                    eof = nats_errors.UnexpectedEOF()
                    await self.report(eof)
                    await self._process_op_err(eof)
                    return
                await self._parser.parse(data)
        except asyncio.CancelledError:
            return
        except Exception as error:  # noqa: BLE001 - the socket's, a line that is none, or a fault of ours
            await self._process_op_err(error)
        finally:
            if intake is not None:
                intake.stop()

    def _is_wanted(self) -> bool:
        return self._status not in (Client.CLOSED, Client.RECONNECTING)

    def subscribe_direct(
        self,
        subject: str,
        receive: Callable[[bytes, bytes, bytes, bytes | None], None],
        denied: Callable[[StorageError], None],
    ) -> _Direct:
        """Subscribe; nats-py replays the subscription after a reconnect."""
        self._sid += 1
        return self._subscribe(self._sid, subject, receive, denied)

    def subscribe_bulk(
        self,
        subject: str,
        prefix: str,
        receive: Callable[[Batch], None],
        others: Callable[[bytes, bytes, bytes, bytes | None], None],
        denied: Callable[[StorageError], None],
    ) -> _Direct:
        """Give what comes on subjects with `prefix` to `receive`, many messages at once; see `BulkReader`."""
        while (sid := secret_sid()) in self._subs:
            pass
        sub = self._subscribe(sid, subject, others, denied)
        reader = self._parser.bulk[sid] = BulkReader(sid, prefix.encode(), receive)
        self._loop.call_soon(reader.prepare)  # when the request that begins it has left
        return sub

    def _subscribe(
        self,
        sid: int,
        subject: str,
        receive: Callable[[bytes, bytes, bytes, bytes | None], None],
        denied: Callable[[StorageError], None],
    ) -> _Direct:
        sub = _Direct(self, sid, subject, receive, denied)
        self._subs[sid] = sub
        self._direct[sid] = sub
        self.send(command.sub_cmd(subject, "", sid))
        return sub

    def unsubscribe_direct(self, sub: _Direct) -> None:
        """End a subscription; what is still on its way is dropped."""
        self._parser.bulk.pop(sub.sid, None)
        if self._direct.pop(sub.sid, None) is not None:
            self._subs.pop(sub.sid, None)
            self.send(command.unsub_cmd(sub.sid, 0))

    def _take(self, sid: int, subject: bytes, reply: bytes, data: bytes, block: bytes | None) -> None:
        if sid == self._inbox_sid:
            self._resolve(subject, data, block)
        elif (sub := self._direct.get(sid)) is not None:  # else it was unsubscribed a moment ago
            sub.receive(subject, reply, data, block)

    def _resolve(self, subject: bytes, data: bytes, block: bytes | None) -> None:
        token = subject[len(self.inbox) :]
        waiting = self.waiting.pop(token, None)
        if waiting is None:
            if (collect := self._collecting.get(token)) is not None:
                collect(data, block)
            return
        future = waiting[0]
        if future.done():
            return  # the caller has left
        if block is not None and block.startswith(_NO_RESPONDERS):
            future.set_exception(NoResponders(f"Nobody answers on {waiting[1]}."))
        else:
            future.set_result(Reply(data, block))

    def _no_receiver(self, *_: bytes | None) -> None:
        """Stand where a receiver stands; the inbox is resolved before it is looked at."""

    # ── State ────────────────────────────────────────────────────────────────────────────────────

    def fail_waiting(self, make: Callable[[str], StorageError]) -> None:
        """End every request in flight with the error that `make` gives for its subject."""
        waiting = [found[:2] for found in self.waiting.values()] + list(self._collecting_futures.values())
        self.waiting.clear()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper, self._sweep_at = None, math.inf
        for future, subject in waiting:
            if not future.done():
                future.set_exception(make(subject))

    async def shut(self, timeout: float) -> None:
        """End the connection within `timeout` seconds, in whatever state it is."""
        if not self.is_closed and self._flush_queue is not None:
            try:
                async with asyncio.timeout(timeout):
                    await self.close()
            except TimeoutError:
                pass
            except asyncio.CancelledError:
                # A reconnect that was cancelled while it waited for the old socket leaves that wait
                # cancelled for whoever waits next; only a cancellation of our own goes on.
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise
        self._drop_transport()

    def _drop_transport(self) -> None:
        """Close the socket; the next attempt of nats-py would only forget it."""
        if isinstance(self._transport, Transport):
            self._transport.close()  # type: ignore[no-untyped-call] # nats-py left it bare

    def _broke(self, error: Exception | None) -> None:
        # What was not written yet belongs to requests that end here; subscriptions are replayed.
        self._out.clear()
        self.fail_waiting(
            lambda subject: Interrupted(
                f"The connection broke before the answer on {subject} came; what it asked may have been done."
            )
        )
        self.observer.lost(error)

    async def _process_op_err(self, e: Exception) -> None:
        if not (self.is_closed or self.is_reconnecting):
            self._broke(e)
        await super()._process_op_err(e)

    async def _process_err(self, err_msg: str) -> None:
        """Take an error of the server; nats-py would close for good where a reconnect may heal."""
        err_msg = err_msg.strip().strip("'")
        error = nats_errors.Error(f"nats: {err_msg}")
        if (denied := _DENIED.search(err_msg)) is not None:
            self._permission_denied(denied[1], denied[2], err_msg)
            return
        if "maximum subscriptions" in err_msg.lower() or "invalid subject" in err_msg.lower():
            self.observer.failed(error)  # the connection goes on
            return
        if _REFUSED.search(err_msg):
            # Revoked or expired: the credentials file may hold new ones by now. The next attempt tells.
            self._told_off = err_msg
            self.observer.failed(error)
        else:
            await self.report(error)
        await self._process_op_err(error)

    def _permission_denied(self, kind: str, subject: str, text: str) -> None:
        """End at once what would wait for an answer that never comes."""
        subject = subject.lower()  # nats-py's own parser gives it in lower case already
        if kind.lower() == "subscription":
            for sub in list(self._direct.values()):
                if sub.subject.lower() == subject:
                    sub.denied(_denied_error(f"It may not subscribe to {sub.subject}."))
            return
        waiting = [found[:2] for found in self.waiting.values()] + list(self._collecting_futures.values())
        for future, asked in waiting:
            if asked.lower() == subject and not future.done():
                future.set_exception(_denied_error(f"It may not send to {asked}."))
        self.observer.failed(nats_errors.Error(f"nats: {text}"))

    def _inbox_denied(self, error: StorageError) -> None:
        self.fail_waiting(lambda _: _denied_error(error.message))
        self.observer.refused(error.message)

    async def report(self, error: Exception) -> None:
        """Sort an error of connecting; nats-py calls this for each failed attempt."""
        self._attempts += 1
        text = str(error)
        longest = LONGEST_WAIT
        if isinstance(error, UnusableCredentialsError) or (
            isinstance(error, nats_errors.Error) and _REFUSED.search(text)
        ):
            longest = LONGEST_WAIT_REFUSED
            reason = text.removeprefix("nats: ").strip("'")
            # At the next attempt a server says no more than "Authorization Violation".
            self.observer.refused(self._told_off or reason)
        else:
            self.observer.failed(error)
        wait = min(longest, FIRST_WAIT * 2 ** min(self._attempts, 10))
        # Spread, so that a hundred plugins do not come back in the same instant.
        self.options["reconnect_time_wait"] = wait * random.uniform(0.5, 1.0)  # noqa: S311 - no secret

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except (OSError, nats_errors.Error, TimeoutError):
            self._drop_transport()
            raise
        except Exception as error:
            self._drop_transport()
            # Anything else would end nats-py's reconnecting for good, and silently.
            raise nats_errors.Error(f"nats: the server's greeting could not be used: {error!r}") from error
        if self._status != Client.CONNECTED:
            # The server went away between CONNECT and PONG; nats-py takes that for a success.
            for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
                if task is not None:
                    task.cancel()
            self._drop_transport()
            raise nats_errors.UnexpectedEOF
        self._attempts = 0
        self._told_off = None
        self.options["reconnect_time_wait"] = FIRST_WAIT

    def _connect_command(self) -> bytes:
        server = self._current_server
        if server is not None and server.uri.scheme == "tls" and not self._server_info.get("tls_required"):
            raise nats_errors.Error("nats: tls:// was asked for and the server offers no TLS")
        sent: bytes = super()._connect_command()
        return sent


def timed_out(subject: str, timeout: float) -> StorageTimeout:
    """Return the error of a request that got no answer."""
    return StorageTimeout(
        f"No answer on {subject} within {timeout:g} s; what it asked may have been done.",
        hint="A server that is overloaded or far away needs a longer timeout.",
    )


def _denied_error(message: str) -> PermissionDenied:
    return PermissionDenied(message, hint="Credentials allow a plugin its own storage, and nothing else.")


def _publish(subject: str, reply: bytes, header: bytes | None, payload: bytes) -> bytes:
    if header is None:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply, len(payload), payload)
    total = len(header) + len(payload)
    return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject.encode(), reply, len(header), total, header, payload)
