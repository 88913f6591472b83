"""A plugin's bucket, made and sized by the administrator inside the plugin's account."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from rosey_kvstore.backend import BucketLimits
from rosey_kvstore.connection import Connection, NoResponders, TlsFiles
from rosey_kvstore.errors import Unavailable
from rosey_kvstore.jetstream import stream_config
from rosey_kvstore.jetstream.faults import NO_STREAM, fault_of
from rosey_rowstore.engine.model import Limits
from rosey_rowstore.plugins import Plugin
from rosey_rowstore.protocol import owned_name

__all__ = [
    "Bucket",
    "BucketState",
    "bucket_limits",
    "bucket_metadata",
    "differences",
    "shown_size",
    "wanted_config",
]

_UNITS: Final = (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024))


def bucket_limits(limits: Limits, *, replicas: int = 1) -> BucketLimits:
    """Return the part of a plugin's limits that its bucket keeps."""
    return BucketLimits(
        value_size=limits.value_size,
        bucket_size=limits.bucket_size,
        history=limits.history,
        replicas=replicas,
    )


def bucket_metadata(plugin: str) -> tuple[str, dict[str, str]]:
    """Return what an operator reads beside a bucket: its description and its metadata."""
    return f"KV of Rosey's plugin {plugin}", {"rosey-plugin": plugin}


def wanted_config(plugin: Plugin, *, replicas: int) -> dict[str, Any]:
    """Return the configuration of the plugin's stream."""
    description, metadata = bucket_metadata(plugin.name)
    return stream_config(
        owned_name(plugin.name),
        bucket_limits(plugin.limits, replicas=replicas),
        description=description,
        metadata=metadata,
    )


@frozen(kw_only=True)
class BucketState:
    """A bucket as it stands: its configuration, and what it holds."""

    config: Mapping[str, Any]
    bytes: int
    messages: int
    consumers: int

    @property
    def replicas(self) -> int:
        """How many servers hold it."""
        return int(self.config.get("num_replicas") or 1)


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return what differs, as words; what a newer server adds to a configuration is none of ours."""
    told = []
    for name, value in wanted.items():
        before = found.get(name)
        if name == "metadata":
            kept = before or {}
            if any(kept.get(key) != text for key, text in value.items()):
                told.append("metadata")
        elif before != value and (before or value):
            shown = shown_size if name in ("max_bytes", "max_msg_size") else str
            told.append(f"{name} {shown(before)} → {shown(value)}")
    return told


def shown_size(size: int | None) -> str:
    """Return a number of bytes as a person reads it."""
    if size is None or size < 0:
        return "unlimited"
    for unit, factor in _UNITS:
        if size >= factor:
            return f"{size / factor:.4g} {unit}"
    return f"{size} B"


class Bucket:
    """One plugin's stream, seen from inside its account."""

    def __init__(self, connection: Connection, plugin: str, timeout: float) -> None:
        self._connection = connection
        self._stream = f"KV_{owned_name(plugin)}"
        self._timeout = timeout

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        servers: Sequence[str],
        credentials: Path,
        plugin: str,
        *,
        tls: TlsFiles | None = None,
        timeout: float,
    ) -> AsyncIterator[Bucket]:
        """Connect as the account's administrator.

        Raises:
            PermissionDenied: The server does not know the account, or the credentials are revoked.
        """
        connection = await Connection.open(
            servers, credentials=credentials, tls=tls, name="rosey-storage", timeout=timeout
        )
        try:
            yield cls(connection, plugin, timeout)
        finally:
            await connection.close()

    async def state(self) -> BucketState | None:
        """Return the bucket as it stands, None when there is none."""
        answer = await self._call("STREAM.INFO", {})
        if answer is None:
            return None
        state = answer["state"]
        return BucketState(
            config=answer["config"],
            bytes=int(state["bytes"]),
            messages=int(state["messages"]),
            consumers=int(state.get("consumer_count") or 0),
        )

    async def make(self, config: Mapping[str, Any]) -> None:
        """Make it."""
        await self._call("STREAM.CREATE", config)

    async def change(self, found: BucketState, config: Mapping[str, Any]) -> None:
        """Set what differs; what the bucket holds stays."""
        metadata = {**(found.config.get("metadata") or {}), **config["metadata"]}
        await self._call("STREAM.UPDATE", {**found.config, **config, "metadata": metadata})

    async def delete(self) -> bool:
        """Delete it with everything in it; say whether there was one."""
        return await self._call("STREAM.DELETE", {}) is not None

    async def _call(self, operation: str, body: Mapping[str, Any]) -> dict[str, Any] | None:
        try:
            reply = await self._connection.request(
                f"$JS.API.{operation}.{self._stream}", json.dumps(body).encode(), timeout=self._timeout
            )
        except NoResponders as error:
            raise Unavailable(
                "JetStream does not answer in the plugin's account.", hint="Is it on in the NATS server?"
            ) from error
        answer: dict[str, Any] = json.loads(reply.data)
        failure = answer.get("error")
        if failure and failure.get("err_code") == NO_STREAM:
            return None
        if failure:
            raise fault_of(failure)
        return answer
