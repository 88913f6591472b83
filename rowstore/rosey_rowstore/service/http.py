"""A small HTTP server for probes: GET and HEAD of a few paths, one request a connection, strict bounds.

It answers on the service's own loop, so that an answer also says that the loop turns; whoever is slow,
sends too much or comes in crowds costs a bounded little.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

from attrs import frozen

from rosey_rowstore.protocol import Fault

__all__ = ["HttpServer", "Response"]

_HEAD_BYTES: Final = 8 * 1024
_SECONDS: Final = 5.0
"""How long a connection may stand, from its first byte to its last."""
_MOST_CONNECTIONS: Final = 32

_log = logging.getLogger("rosey.rowstore.http")


@frozen(kw_only=True)
class Response:
    """What a path answers.

    Attributes:
        body: The bytes, left out of the answer to HEAD.
        content_type: Of the body.
        headers: Beside those that every answer has.
    """

    status: HTTPStatus
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}


class HttpServer:
    """Answers the paths of `routes`, each by a function that returns at once.

    Args:
        routes: By path, as `/healthz`.
    """

    def __init__(self, routes: Mapping[str, Callable[[], Response]]) -> None:
        self._routes = routes
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; return the address, with the port that was chosen where 0 was asked for.

        Raises:
            Fault: `invalid_request` when the address cannot be had.
        """
        try:
            server = await asyncio.start_server(self._accept, host, port, limit=_HEAD_BYTES)
        except OSError as error:
            raise Fault(
                "invalid_request",
                f"The address {host}:{port} cannot be listened on: {error.strerror or error}.",
                hint="Is another process there already, and is the address one of this machine's?",
            ) from error
        self._server = server
        address: tuple[str, int] = server.sockets[0].getsockname()[:2]
        return address

    async def stop(self) -> None:
        """Listen no longer, and end the connections that stand."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs this as a task
        self._open.add(task)
        try:
            async with asyncio.timeout(_SECONDS):
                if len(self._open) <= _MOST_CONNECTIONS:  # one too many is closed unheard
                    await self._talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError):  # whoever it was is slow (TimeoutError), or left
            writer.transport.abort()  # an answer that nobody reads is not waited for
        except asyncio.CancelledError:
            if self._server is not None:  # else it is `stop` that ends us
                raise
        finally:
            self._open.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            answer = _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"{_HEAD_BYTES} bytes at most.")
            await _send(writer, answer, with_body=True)
            writer.write_eof()
            while await reader.read(_HEAD_BYTES):  # closed before all was read, the answer might not arrive
                pass
            return
        method, answer = self._answer(head)
        await _send(writer, answer, with_body=method != "HEAD")

    def _answer(self, head: bytes) -> tuple[str, Response]:
        """Return the method that was used, and what to answer."""
        words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return "", _plain(HTTPStatus.BAD_REQUEST, "This is no request of HTTP/1.")
        method, target, _ = words
        route = self._routes.get(target.partition("?")[0])
        if route is None:
            return method, _plain(HTTPStatus.NOT_FOUND, f"There are {', '.join(self._routes)}.")
        if method not in ("GET", "HEAD"):
            answer = _plain(HTTPStatus.METHOD_NOT_ALLOWED, "GET or HEAD.", {"Allow": "GET, HEAD"})
            return method, answer
        try:
            return method, route()
        except Exception as error:  # noqa: BLE001 - whatever it is, the probe gets an answer
            _log.error("an answer failed", exc_info=error, extra={"path": target[:200]})
            return method, _plain(HTTPStatus.INTERNAL_SERVER_ERROR, "The service's log says why.")


async def _send(writer: asyncio.StreamWriter, answer: Response, *, with_body: bool) -> None:
    headers = {
        "Content-Type": answer.content_type,
        "Content-Length": str(len(answer.body)),
        "Cache-Control": "no-store",
        "Connection": "close",
        **answer.headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n{lines}\r\n"
    writer.write(head.encode("latin-1") + (answer.body if with_body else b""))
    await writer.drain()


def _plain(status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        status=status,
        body=f"{text}\n".encode(),
        content_type="text/plain; charset=utf-8",
        headers=headers or {},
    )
