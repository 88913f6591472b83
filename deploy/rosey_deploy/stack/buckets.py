"""The buckets of the plugins that `plugins.toml` names, made before anyone asks for them."""

from __future__ import annotations

import asyncio

from rosey_deploy.provision.buckets import bucket_limits
from rosey_kvstore.connection import Connection
from rosey_kvstore.jetstream import JetStreamBackend
from rosey_rowstore.plugins import Plugin, Plugins
from rosey_rowstore.protocol import owned_name

__all__ = ["make_buckets"]

_TIMEOUT = 10.0


def make_buckets(url: str, plugins: Plugins) -> list[str]:
    """Make the bucket of every plugin that has KV, and return their names.

    Raises:
        StorageError: A bucket could not be made.
    """
    wanted = [plugin for plugin in plugins.plugins.values() if plugin.kv]
    if wanted:
        asyncio.run(_make(url, wanted))
    return [owned_name(plugin.name) for plugin in wanted]


async def _make(url: str, plugins: list[Plugin]) -> None:
    connection = await Connection.open([url], name="rosey-storage dev", timeout=_TIMEOUT)
    try:
        for plugin in plugins:
            backend = JetStreamBackend(
                connection, bucket=owned_name(plugin.name), create=bucket_limits(plugin.limits)
            )
            await backend.open()
            await backend.close()
    finally:
        await connection.close()
