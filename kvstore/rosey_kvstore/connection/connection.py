"""The connection as the rest of the code sees it: requests that always end, in time and with a code."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from nats import errors as nats_errors

from rosey_kvstore.connection.bulk import Batch
from rosey_kvstore.connection.client import LONGEST_WAIT_REFUSED, FastClient, Message, Reply, timed_out
from rosey_kvstore.connection.credentials import CredentialsFile, UnusableCredentialsError
from rosey_kvstore.connection.headers import encode_headers
from rosey_kvstore.connection.tls import TlsFiles
from rosey_kvstore.errors import (
    InvalidRequest,
    PermissionDenied,
    QuotaExceeded,
    RequestTooLarge,
    StorageError,
    Unavailable,
)

__all__ = ["Connection", "Subscription"]

# A server that restarts, or a cluster that hands over, is back within this many seconds as a rule:
# so long a request waits for it. After that the server counts as away, and a request ends at once.
GRACE = 1.0
_CLOSING = 2.0
_PING_INTERVAL = 10

_CONNECTED = FastClient.CONNECTED
_NO_SUBJECT = re.compile(r"[\x00-\x20\x7f]|^$")


class Subscription:
    """Interest in a subject; `close` ends it."""

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close

    def close(self) -> None:
        """End it; nothing is delivered afterwards. Closing twice is no error."""
        self._close()


class Connection:
    """A connection to NATS that reconnects in the background for ever.

    `await Connection.open(…)` makes one; it belongs to the event loop that made it.
    """

    def __init__(self, servers: Sequence[str]) -> None:
        self._servers = list(servers)
        self._client = FastClient(self)
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._lost_at = 0.0
        self._closing = False
        self._blocked = False  # closing or refused: no request is sent
        self._last_error: str | None = None
        self._refusal: str | None = None
        self._hopeless: asyncio.Future[None] = self._loop.create_future()
        self._credentials: CredentialsFile | None = None
        self._lost_hooks: list[Callable[[], None]] = []
        self._reconnected_hooks: list[Callable[[], None]] = []

    @classmethod
    async def open(
        cls,
        servers: Sequence[str],
        *,
        credentials: Path | None = None,
        tls: TlsFiles | None = None,
        name: str = "rosey",
        timeout: float = 5.0,
    ) -> Self:
        """Connect to the first of `servers` that answers.

        Args:
            servers: URLs as `nats://host:4222` or `tls://host:4222`, a user and password included or not.
            credentials: A NATS credentials file; it is read again at each reconnect.
            tls: The files of a private certificate authority, or of the client's own certificate.
            name: What operators see as the name of the connection.
            timeout: Seconds until it gives up.

        Raises:
            Unavailable: No server answered in time.
            PermissionDenied: A server answered and takes no such credentials.
            QuotaExceeded: The plugin has as many connections as it may.
            InvalidRequest: A URL or a file of `tls` cannot be read.
        """
        connection = cls(servers)
        await connection._connect(credentials, tls, name, timeout)
        return connection

    async def _connect(
        self, credentials: Path | None, tls: TlsFiles | None, name: str, timeout: float
    ) -> None:
        options: dict[str, Any] = {}
        if tls is not None and (context := tls.context()) is not None:
            options["tls"] = context
        if credentials is not None:
            self._credentials = CredentialsFile(credentials)
            options |= _credential_options(self._credentials)
        connecting = self._loop.create_task(self._connect_client(name, timeout, options))
        try:
            await asyncio.wait(
                (connecting, self._hopeless), timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if connecting.done():
                connecting.result()
                self._refusal, self._blocked, self._last_error = None, False, None
                self._client.start()
                self._ready.set()
                return
        except (ValueError, nats_errors.Error) as error:
            raise InvalidRequest(f"{', '.join(self._shown)} cannot be connected to: {error}.") from error
        finally:
            if not self._ready.is_set():
                early = self._hopeless.done()
                connecting.cancel()
                await asyncio.gather(connecting, return_exceptions=True)
                await self.close()
        if self._refusal is not None:
            raise self._refused_error()
        reason = f": {self._last_error}" if self._last_error else ""
        failed = "cannot be connected to" if early else f"did not answer within {timeout:g} s"
        raise Unavailable(
            f"NATS at {', '.join(self._shown)} {failed}{reason}.",
            hint=_hint_for(self._last_error or ""),
        )

    async def _connect_client(self, name: str, timeout: float, options: Mapping[str, Any]) -> None:
        async def reconnected() -> None:
            self.connected()

        async def closed() -> None:
            self.lost(None)

        await self._client.connect(
            servers=self._servers,
            name=name,
            error_cb=self._client.report,
            reconnected_cb=reconnected,
            closed_cb=closed,
            connect_timeout=max(1, min(2, int(timeout))),
            reconnect_time_wait=0,
            max_reconnect_attempts=-1,
            ping_interval=_PING_INTERVAL,
            **options,
        )

    # ── Requests ─────────────────────────────────────────────────────────────────────────────────

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 5.0,
    ) -> Reply:
        """Send a request and return its answer.

        Raises:
            Unavailable: No server is connected; at once when it has been away for a second.
            NoResponders: Nobody listens on the subject; nothing was done.
            Interrupted: The connection broke before the answer; it may have been done.
            StorageTimeout: No answer within `timeout` seconds; it may have been done.
            PermissionDenied: The credentials do not allow it.
            RequestTooLarge: Payload and headers pass what the server takes.
            InvalidRequest: The subject or a header cannot be sent.
        """
        block = encode_headers(headers) if headers else None
        self._check(subject, payload, block)
        return await self.request_raw(subject, payload, block, timeout)

    async def request_raw(self, subject: str, payload: bytes, block: bytes | None, timeout: float) -> Reply:
        """Do what `request` does, for a subject that is known to be one and an encoded header block."""
        client = self._client
        size = len(payload) if block is None else len(payload) + len(block)
        if size > client._max_payload:  # noqa: SLF001 - of our own subclass; properties cost here
            self._check(subject, payload, block)
        if self._blocked or client._status != _CONNECTED:  # noqa: SLF001 - as above
            timeout = await self._wait_until_connected(timeout)
        token, future = client.send_request(subject, block, payload, timeout)
        try:
            return await future
        except BaseException:
            client.waiting.pop(token, None)
            raise

    async def request_many(
        self, subject: str, payload: bytes, receive: Callable[[bytes, bytes | None], bool], timeout: float
    ) -> None:
        """Send a request with many answers, and return after the one for which `receive` says True.

        `receive` takes the payload and the header block of each answer, in order; it does not raise.
        What this raises is as in `request`; `timeout` counts until the last answer.
        """
        client = self._client
        self._check(subject, payload, None)
        if self._blocked or not client.is_connected:
            timeout = await self._wait_until_connected(timeout)
        token, future = client.collect(subject, payload, receive)
        timer = self._loop.call_later(timeout, _time_out, future, subject, timeout)
        try:
            await future
        finally:
            timer.cancel()
            client.stop_collecting(token)

    def _check(self, subject: str, payload: bytes, block: bytes | None) -> None:
        if _NO_SUBJECT.search(subject):
            raise InvalidRequest(f"{subject!r} is no subject.")
        size = len(payload) if block is None else len(payload) + len(block)
        if size > self._client.max_payload:
            raise RequestTooLarge(
                f"The message has {size} bytes with headers; the server takes {self._client.max_payload}."
            )

    async def _wait_until_connected(self, timeout: float) -> float:
        """Return the seconds that are left of `timeout` once connected."""
        if self._closing:
            raise Unavailable("The connection is closed.")
        if self._refusal is None and not self.is_connected:
            started = self._loop.time()
            wait = min(timeout, self._lost_at + GRACE - started)
            if wait > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._ready.wait()
                timeout -= self._loop.time() - started
        if self._closing:
            raise Unavailable("The connection is closed.")
        if self._refusal is not None:
            raise self._refused_error()
        if not self.is_connected:
            reason = f": {self._last_error}" if self._last_error else ""
            raise Unavailable(
                f"NATS at {', '.join(self._shown)} is away{reason}.",
                hint="The connection comes back by itself when the server does.",
                retry_after=GRACE,
            )
        return max(timeout, 0.001)

    def publish(
        self, subject: str, payload: bytes = b"", *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send without waiting for anything; dropped when the connection breaks.

        Raises:
            Unavailable: No server is connected.
            RequestTooLarge: Payload and headers pass what the server takes.
            InvalidRequest: The subject or a header cannot be sent.
        """
        block = encode_headers(headers) if headers else None
        self._check(subject, payload, block)
        if self._closing or not self.is_connected:
            raise Unavailable("The connection is closed." if self._closing else "NATS is away.")
        self._client.send_publish(subject, reply, block, payload)

    def publish_raw(self, subject: str, block: bytes, payload: bytes) -> None:
        """Do what `publish` does, with the header block encoded by the caller."""
        self._check(subject, payload, block)
        if self._closing or not self.is_connected:
            raise Unavailable("The connection is closed." if self._closing else "NATS is away.")
        self._client.send_publish(subject, "", block, payload)

    # ── Subscriptions ────────────────────────────────────────────────────────────────────────────

    def new_inbox(self) -> str:
        """Return a subject of its own for answers."""
        return self._client.new_inbox()

    def subscribe(
        self,
        subject: str,
        receive: Callable[[Message], None],
        denied: Callable[[StorageError], None] | None = None,
    ) -> Subscription:
        """Call `receive` for each message, in order, in the reader's own turn of the loop.

        `receive` returns at once and does not raise. The subscription outlives reconnects; what was sent
        while the connection was broken is lost. `denied` is told when the server refuses the subject.

        Raises:
            Unavailable: The connection is closed.
        """

        def deliver(subject: bytes, reply: bytes, data: bytes, block: bytes | None) -> None:
            receive(Message(subject, reply, data, block))

        return self.subscribe_raw(subject, deliver, denied)

    def subscribe_raw(
        self,
        subject: str,
        receive: Callable[[bytes, bytes, bytes, bytes | None], None],
        denied: Callable[[StorageError], None] | None = None,
    ) -> Subscription:
        """Do what `subscribe` does; `receive` takes subject, reply subject, data and header block."""
        if self._closing:
            raise Unavailable("The connection is closed.")
        sub = self._client.subscribe_direct(subject, receive, denied or (lambda _: None))
        return Subscription(lambda: self._client.unsubscribe_direct(sub))

    def subscribe_bulk(
        self,
        subject: str,
        *,
        prefix: str,
        receive: Callable[[Batch], None],
        others: Callable[[bytes, bytes, bytes, bytes | None], None],
        denied: Callable[[StorageError], None],
    ) -> Subscription:
        """Do what `subscribe_raw` does for thousands of messages: `receive` takes many at once.

        Args:
            subject: As in `subscribe`.
            prefix: What the subjects of those messages begin with.
            receive: Takes them; it returns soon and does not raise.
            others: Takes what comes on another subject, as in `subscribe_raw`.
            denied: As in `subscribe`.
        """
        if self._closing:
            raise Unavailable("The connection is closed.")
        sub = self._client.subscribe_bulk(subject, prefix, receive, others, denied)
        return Subscription(lambda: self._client.unsubscribe_direct(sub))

    def on_lost(self, hook: Callable[[], None]) -> Callable[[], None]:
        """Call `hook` whenever the connection breaks or is closed; return what takes it back."""
        self._lost_hooks.append(hook)
        return lambda: _discard(self._lost_hooks, hook)

    def on_reconnected(self, hook: Callable[[], None]) -> Callable[[], None]:
        """Call `hook` whenever the connection stands again; return what takes it back."""
        self._reconnected_hooks.append(hook)
        return lambda: _discard(self._reconnected_hooks, hook)

    # ── State ────────────────────────────────────────────────────────────────────────────────────

    @property
    def is_connected(self) -> bool:
        """Whether a request would be sent at once."""
        return self._client.is_connected

    @property
    def is_closed(self) -> bool:
        """Whether `close` or `drain` was called."""
        return self._closing

    @property
    def max_payload(self) -> int:
        """The bytes of headers and payload that the server takes in one message."""
        return self._client.max_payload

    @property
    def is_clustered(self) -> bool:
        """Whether the server is one of several."""
        return bool(self._client._server_info.get("cluster"))  # noqa: SLF001 - of our own subclass

    async def drain(self, timeout: float) -> None:
        """Refuse new requests, wait up to `timeout` seconds for those in flight, then close."""
        self._closing = self._blocked = True
        waiting = [found[0] for found in self._client.waiting.values()]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout)
        await self.close()

    async def close(self) -> None:
        """End the connection; what is in flight ends with `Unavailable`. Closing twice is no error."""
        self._closing = self._blocked = True
        client = self._client
        client.fail_waiting(
            lambda subject: Unavailable(
                f"The connection was closed before the answer on {subject} came; it may have been done."
            )
        )
        await client.shut(_CLOSING)
        self._hopeless.cancel()

    # What the client tells (connection.client.Observer).

    def lost(self, error: Exception | None) -> None:
        """Note that the connection broke."""
        self._ready.clear()
        self._lost_at = self._loop.time()
        if error is not None:
            self._last_error = str(error) or type(error).__name__
        for hook in list(self._lost_hooks):
            hook()

    def connected(self) -> None:
        """Note that the connection stands again."""
        self._refusal, self._blocked, self._last_error = None, self._closing, None
        self._ready.set()
        for hook in list(self._reconnected_hooks):
            hook()

    def refused(self, reason: str) -> None:
        """Note that the server takes no such credentials."""
        self._refusal, self._blocked = reason, True
        self._last_error = reason
        self._ready.set()  # who waits for the connection learns it now
        self._ready.clear()
        if not self._hopeless.done():
            self._hopeless.set_result(None)

    def failed(self, error: Exception) -> None:
        """Keep the reason for whoever asks next."""
        if isinstance(error, ConnectionError) and "SSL" in (self._last_error or ""):
            return  # a broken pipe, where the server's alert came too late, says less than the last alert
        self._last_error = (str(error) or type(error).__name__).removeprefix("nats: ")
        # A certificate does not become right by waiting; of several servers another may have one that is.
        if "SSL" in self._last_error and len(self._servers) == 1 and not self._hopeless.done():
            self._hopeless.set_result(None)

    @property
    def _shown(self) -> list[str]:
        """The servers without their passwords."""
        return [_without_secret(server) for server in self._servers]

    def _refused_error(self) -> StorageError:
        if "active connections" in (self._refusal or ""):
            return QuotaExceeded(
                f"NATS at {', '.join(self._shown)} takes no more connections of the plugin.",
                hint="Close other processes of it, or what they forgot to close; operators' tools count too.",
                retry_after=LONGEST_WAIT_REFUSED,
            )
        reason = self._refusal
        hint = "The credentials are unknown, expired or revoked; new ones in the same file are taken up."
        if self._credentials is None:
            hint = (
                "ROSEY_STORAGE_CREDENTIALS names the file with the credentials, or its folder:"
                " `rosey-storage apply` writes it to .rosey/credentials/."
            )
        elif moment := self._credentials.expired():
            reason = f"the credentials expired at {moment:%Y-%m-%d %H:%M} UTC"
        return PermissionDenied(
            f"NATS at {', '.join(self._shown)} refuses the connection: {reason}.", hint=hint
        )


def _credential_options(file: CredentialsFile) -> dict[str, Callable[..., bytes]]:
    try:
        file.check()
    except UnusableCredentialsError as error:
        raise PermissionDenied(str(error), hint="ROSEY_STORAGE_CREDENTIALS names the file.") from error
    return {"user_jwt_cb": file.jwt, "signature_cb": file.sign}


def _hint_for(reason: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return (
            "ROSEY_STORAGE_TLS_CA names the authority that signed the server's certificate, which has to be"
            " one for the host of the URL."
        )
    if "CERTIFICATE_REQUIRED" in reason or "BAD_CERTIFICATE" in reason:
        return "The server asks for a certificate of the client's: ROSEY_STORAGE_TLS_CERT and _TLS_KEY."
    return "Is the server running, and the URL right?"


def _time_out(future: asyncio.Future[Reply], subject: str, timeout: float) -> None:
    if not future.done():
        future.set_exception(timed_out(subject, timeout))


def _discard(hooks: list[Callable[[], None]], hook: Callable[[], None]) -> None:
    with contextlib.suppress(ValueError):
        hooks.remove(hook)


def _without_secret(server: str) -> str:
    parts = urlsplit(server)
    if "@" not in parts.netloc:
        return server
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
