"""A plugin's keys as a file of JSON lines: what is live, with its revision and times."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rosey_kvstore.backend import Stored
from rosey_kvstore.connection import Connection, TlsFiles
from rosey_kvstore.errors import InvalidRequest
from rosey_kvstore.jetstream import JetStreamBackend
from rosey_rowstore.protocol import owned_name

__all__ = ["export_keys", "new_folder"]

_AT_ONCE: Final = 500


def new_folder(parent: Path, name: str) -> Path:
    """Make a folder named for now, for its owner alone.

    Raises:
        InvalidRequest: It cannot be made.
    """
    folder = parent / f"{name}-{dt.datetime.now(dt.UTC).strftime('%Y%m%dT%H%M%S')}"
    try:
        folder.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise InvalidRequest(f"The folder {folder} cannot be made: {error.strerror}.") from error
    return folder


async def export_keys(
    servers: Sequence[str],
    credentials: Path,
    plugin: str,
    path: Path,
    *,
    tls: TlsFiles | None = None,
    timeout: float,
) -> int:
    """Write one object a line, `{"key", "value", "revision", "created", "expires"}`; return how many.

    A value that is no JSON stands as `{"base64": …}` under `data` in place of `value`.
    """
    connection = await Connection.open(
        servers, credentials=credentials, tls=tls, name="rosey-storage export", timeout=timeout
    )
    count = 0
    try:
        backend = JetStreamBackend(connection, bucket=owned_name(plugin), create=None, timeout=timeout)
        await backend.open()
        with path.open("w", encoding="utf-8") as file:
            after: str | None = None
            while keys := await backend.keys("", _AT_ONCE, after):
                # What was deleted since it was listed is not live any more.
                for stored in (await backend.get_many(keys)).values():
                    file.write(json.dumps(_members(stored), ensure_ascii=False) + "\n")
                    count += 1
                after = keys[-1]
        await backend.close()
    finally:
        await connection.close()
    return count


def _members(stored: Stored) -> dict[str, Any]:
    members: dict[str, Any] = {"key": stored.key}
    try:
        members["value"] = json.loads(stored.data)
    except ValueError:
        members["data"] = {"base64": base64.b64encode(stored.data).decode()}
    return members | {
        "revision": stored.revision,
        "created": stored.created.isoformat(),
        "expires": stored.expires.isoformat() if stored.expires else None,
    }
