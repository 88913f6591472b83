"""Buckets on servers that a test may stop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from rosey_deploy.stack.nats import NatsServer
from rosey_kvstore import KV, BucketLimits
from rosey_kvstore.connection import Connection
from rosey_kvstore.jetstream import JetStreamBackend

Opened = Callable[..., Awaitable[KV]]


@pytest.fixture
async def open_kv() -> AsyncIterator[Opened]:
    """Opens clients of a plugin's bucket, and closes them at the end."""
    async with AsyncExitStack() as stack:

        async def open_one(server: NatsServer, plugin: str, **options: Any) -> KV:
            connection = await Connection.open([server.url])
            stack.push_async_callback(connection.close)
            limits = options.pop("limits", BucketLimits())
            kv = KV(
                JetStreamBackend(connection, f"plugin_{plugin}", create=limits, **options),
                plugin=plugin,
                timeout=options.get("timeout", 5.0),
            )
            await kv.list()
            stack.push_async_callback(kv.close)
            return kv

        yield open_one
