"""The way to storage over NATS: KV on the plugin's bucket, rows by request and reply."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from rosey_kvstore.backend import Backend, BucketLimits
from rosey_kvstore.connection import Connection, Interrupted, NoResponders, encode_headers
from rosey_kvstore.errors import Unavailable
from rosey_kvstore.jetstream import JetStreamBackend
from rosey_rowstore.protocol import API_VERSION, owned_name
from rosey_storage.settings import Settings
from rosey_storage.transport import NotDelivered

__all__ = ["NatsTransport"]


class NatsTransport:
    """One connection, shared by KV and rows."""

    def __init__(self, plugin: str, settings: Settings) -> None:
        self._plugin = plugin
        self._settings = settings
        self._prefix = f"{settings.subject}.{API_VERSION}.{plugin}."
        self._connection: Connection | None = None
        self._backend: JetStreamBackend | None = None

    @property
    def backend(self) -> Backend:
        """The plugin's bucket; made on first use in development, and by the provisioner in production."""
        if self._backend is None:
            raise Unavailable("The storage is not open.")
        return self._backend

    async def open(self) -> None:
        """Connect to the first server that answers."""
        self._connection = await Connection.open(
            self._settings.servers,
            credentials=self._settings.credentials_of(self._plugin),
            tls=self._settings.tls,
            name=owned_name(self._plugin),
            timeout=self._settings.timeout,
        )
        self._backend = JetStreamBackend(
            self._connection,
            bucket=owned_name(self._plugin),
            create=None if self._settings.production else BucketLimits(),
            description=f"KV of Rosey's plugin {self._plugin}",
            metadata={"rosey-plugin": self._plugin},
            timeout=self._settings.timeout,
        )

    async def close(self) -> None:
        """End watches, then the connection."""
        try:
            if self._backend is not None:
                await self._backend.close()
        finally:
            if self._connection is not None:
                await self._connection.close()

    async def request(
        self, tail: str, payload: bytes, headers: Mapping[str, str], *, timeout: float
    ) -> bytes:
        """Return the reply of whichever row service takes the request."""
        connection = self._connection
        if connection is None:
            raise Unavailable("The storage is not open.")
        try:
            reply = await connection.request_raw(
                self._prefix + tail, payload, _header_block(*headers.items()), timeout
            )
        except NoResponders as error:
            raise NotDelivered(
                "The row service does not answer.",
                hint="Is it running, and does it serve this plugin? In development `rosey-storage dev`"
                " starts it, elsewhere `rosey-storage serve`.",
            ) from error
        except Interrupted:
            raise
        except Unavailable as error:
            if connection.is_closed:
                raise
            raise NotDelivered(error.message, hint=error.hint, retry_after=error.retry_after) from error
        return reply.data


@lru_cache(maxsize=64)
def _header_block(*headers: tuple[str, str]) -> bytes:
    """Return the headers as bytes: most requests have the same."""
    return encode_headers(dict(headers))
