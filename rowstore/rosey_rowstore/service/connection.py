"""The service's side of NATS: requests handed over where they are parsed, replies of one turn in one write.

nats-py awaits callbacks one by one and sends through a task of its own; its connect, TLS, authentication
and reconnect are kept. What this leans on inside nats-py is held by a test.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.protocol import command

from rosey_rowstore.service.tap import Tap

__all__ = ["ServiceConnection", "parse_headers"]

Receive = Callable[[bytes, bytes, bytes, "bytes | None"], None]

_log = logging.getLogger("rosey.rowstore.nats")

_HEADER_LINE: Final = b"NATS/1.0\r\n"
_RECONNECT_SECONDS: Final = 0.25
_HELD_BYTES: Final = 16 * 1024 * 1024
_GOES_ON: Final = ("permissions violation", "maximum subscriptions", "invalid subject")


class _Direct(Subscription):
    """A subscription whose messages go straight to a function, in the reader's own turn of the loop."""

    def __init__(self, client: Client, sid: int, subject: str, queue: str, receive: Receive) -> None:
        super().__init__(client, sid, subject, queue)
        self.receive = receive


class ServiceConnection(Client):
    """A connection that never gives up: it reconnects for ever, and answers made meanwhile are kept.

    `await open(…)`, `subscribe_group(…)`, then `answer(…)` for each request; at the end `leave()`, and
    `part()`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._direct: dict[int, _Direct] = {}
        self._out: list[bytes] = []
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._told = ""
        self._refused = ""
        self._loop = asyncio.get_running_loop()

    async def open(
        self,
        servers: Sequence[str],
        *,
        credentials: Path | None,
        name: str,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Connect, however long it takes; each new reason why not is logged once."""
        await self.connect(
            servers=list(servers),
            name=name,
            user_credentials=None if credentials is None else str(credentials),
            **({} if tls is None else {"tls": tls}),  # type: ignore[arg-type] # no tls is another than None
            connect_timeout=2,
            reconnect_time_wait=_RECONNECT_SECONDS,  # type: ignore[arg-type] # nats-py sleeps that long
            max_reconnect_attempts=-1,
            ping_interval=10,
            error_cb=self._failed,
            disconnected_cb=self._lost,
            reconnected_cb=self._back,
        )
        self._told = ""
        _log.info("connected", extra={"server": self._shown()})

    def trouble(self) -> str | None:
        """Return why no request would arrive now, None when one would."""
        if not self.is_connected:
            return "NATS does not answer."
        return self._refused or None

    async def settle(self) -> None:
        """Return once the server has taken what was sent, subscriptions above all, or is away."""
        await asyncio.sleep(0)  # a PING overtakes what waits for the end of this turn
        with contextlib.suppress(nats_errors.Error, OSError):
            await self.flush(timeout=2)

    def subscribe_group(self, subject: str, queue: str, receive: Receive) -> None:
        """Call `receive(subject, reply, payload, headers)` for each message that the group gives us.

        `receive` returns at once and does not raise. Subscriptions outlive reconnects.
        """
        self._sid += 1
        sub = _Direct(self, self._sid, subject, queue, receive)
        self._subs[self._sid] = sub
        self._direct[self._sid] = sub
        self._send(command.sub_cmd(subject, queue, self._sid))

    async def leave(self) -> None:
        """Take no more requests: when this returns, what the server had sent was received."""
        for sid in self._direct:
            self._subs.pop(sid, None)  # a reconnect must not subscribe again
            self._send(command.unsub_cmd(sid, 0))
        if self.is_connected:
            await self.settle()  # when that fails nothing more comes anyway
        self._direct.clear()

    async def part(self) -> None:
        """Close, after the server has taken every answer that was given."""
        if self.is_connected:
            await asyncio.sleep(0)
            try:
                await self.flush(timeout=2)
            except (nats_errors.Error, OSError):
                _log.warning("the last answers may not have left", extra={"server": self._shown()})
        await self.close()

    def answer(
        self, reply: bytes, payload: bytes, headers: dict[str, str] | None, *, at_once: bool = False
    ) -> int:
        """Send an answer; return the bytes it has too many, 0 when it was sent.

        Answers leave together at the end of the loop's turn; one that is `at_once` does not wait for it.

        While the connection is broken answers are kept, up to a bound, and sent when it is back: callers
        at another server of the cluster still wait.
        """
        if headers is None:
            size = len(payload)
            sent = b"PUB %b %d\r\n%b\r\n" % (reply, size, payload)
        else:
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            block = b"%b%b\r\n" % (_HEADER_LINE, lines.encode())
            size = len(block) + len(payload)
            sent = b"HPUB %b %d %d\r\n%b%b\r\n" % (reply, len(block), size, block, payload)
        if size > self._max_payload:
            return size - self._max_payload
        if self._status == Client.CONNECTED:
            self._send(sent, at_once=at_once)
        else:
            self._hold(sent)
        return 0

    def _hold(self, sent: bytes) -> None:
        if self._held_bytes + len(sent) <= _HELD_BYTES:
            self._held.append(sent)
            self._held_bytes += len(sent)

    def _send(self, sent: bytes, *, at_once: bool = False) -> None:
        out = self._out
        if at_once and not out:
            self._write(sent)
            return
        if not out:
            self._loop.call_soon(self._end_turn)
        out.append(sent)

    def _end_turn(self) -> None:
        if self._out:
            joined = b"".join(self._out)
            self._out.clear()
            self._write(joined)

    def _write(self, sent: bytes) -> None:
        if self._status != Client.CONNECTED or not self._transport:
            return
        try:
            self._transport.write(sent)
        except RuntimeError:
            # uvloop: the socket is closed, and nats-py learns it a turn later. Answers wait for the next
            # connection; whoever gave one must not learn of it, for others wait behind.
            if sent.startswith((b"PUB", b"HPUB")):
                self._hold(sent)

    async def _read_loop(self) -> None:
        """Read as nats-py does, from the transport itself."""
        transport = self._transport
        writer = getattr(transport, "_io_writer", None)
        if writer is None or transport is None:  # a WebSocket
            await super()._read_loop()
            return
        tap = Tap(writer.transport.get_protocol(), self._take)
        try:
            reader: Any = getattr(transport, "_io_reader", None)
            early = bytes(reader._buffer)  # noqa: SLF001 - what came before the tap was set
            reader._buffer.clear()  # noqa: SLF001 - as above
            writer.transport.set_protocol(tap)
            if reader.at_eof() or writer.transport.is_closing():
                tap.eof_received()
            if early:
                tap.data_received(early)
            await self._read_lines(tap)
        except asyncio.CancelledError:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, a new connection may heal it
            await self._process_op_err(error)
        finally:
            tap.close()

    async def _read_lines(self, tap: Tap) -> None:
        """Pass the control lines on until the connection ends."""
        while not (self.is_closed or self.is_reconnecting):
            while tap.lines:
                await self._process_line(tap.lines.popleft())
            if tap.ended:
                error = tap.error or nats_errors.UnexpectedEOF()
                await self._failed(error)
                await self._process_op_err(error)
                return
            tap.woken.clear()
            await tap.woken.wait()

    async def _process_line(self, line: bytes) -> None:
        word = line[:4].upper()
        if word == b"PING":
            await self._process_ping()
        elif word == b"PONG":
            await self._process_pong()
        elif word == b"INFO":
            await self._process_info(json.loads(line[5:]))
        elif word == b"-ERR":
            await self._process_err(line[5:].decode("utf-8", "replace").strip().lower())  # as nats-py
        elif word != b"+OK":
            raise nats_errors.ProtocolError("nats: unknown protocol")

    def _take(self, sid: int, subject: bytes, reply: bytes, data: bytes, block: bytes | None) -> None:
        sub = self._direct.get(sid)
        if sub is not None:  # else it was unsubscribed a moment ago
            sub.receive(subject, reply, data, block)

    async def _process_err(self, err_msg: str) -> None:
        """Take an error of the server; nats-py would close for good where a reconnect may heal."""
        error = nats_errors.Error(f"nats: {err_msg}")
        await self._failed(error)
        if "permissions violation for subscription" in err_msg:
            self._refused = "NATS refuses the service's subscriptions: its credentials do not allow them."
        if not any(known in err_msg for known in _GOES_ON):
            await self._process_op_err(error)

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except (OSError, nats_errors.Error, TimeoutError):
            raise
        except Exception as error:
            # Anything else would end nats-py's reconnecting for good, and silently.
            raise nats_errors.Error(f"nats: the server's greeting could not be used: {error!r}") from error
        if self._status != Client.CONNECTED:
            # The server went away between CONNECT and PONG; nats-py takes that for a success.
            for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
                if task is not None:
                    task.cancel()
            raise nats_errors.UnexpectedEOF

    async def _failed(self, error: Exception) -> None:
        reason = (str(error) or type(error).__name__).removeprefix("nats: ")
        if reason != self._told:
            self._told = reason
            _log.warning("NATS: %s", reason, extra={"server": self._shown()})

    async def _lost(self) -> None:
        self._out.clear()
        self._refused = ""  # the next connection tells it anew
        if not self.is_closed:
            _log.warning("connection lost, reconnecting", extra={"server": self._shown()})

    async def _back(self) -> None:
        self._told = ""
        _log.info("connected again", extra={"server": self._shown(), "answers_kept": len(self._held)})
        while self._held:
            self._send(self._held.popleft())
        self._held_bytes = 0

    def _shown(self) -> str:
        servers = [self._current_server] if self._current_server else self._server_pool
        return ",".join(f"{server.uri.hostname}:{server.uri.port}" for server in servers)


def parse_headers(block: bytes | None) -> dict[str, str] | None:
    """Return the headers of a message; bytes that are no UTF-8 become replacement characters."""
    if not block:
        return None
    found: dict[str, Any] = {}
    for line in block.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            found[name.strip().decode("utf-8", "replace")] = value.strip().decode("utf-8", "replace")
    return found
