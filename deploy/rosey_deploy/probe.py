"""`rosey-storage health`: ask a row service whether it is ready.

A container runs this every few seconds, so it loads the standard library alone.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

__all__ = ["DEFAULT_TIMEOUT", "SETTING", "ask", "main"]

SETTING: Final = "ROSEY_STORAGE_HEALTH"
DEFAULT_TIMEOUT: Final = 3.0

_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what is listened on, not asked
_MOST_BYTES: Final = 64 * 1024


def main(arguments: Sequence[str]) -> int:
    """Ask, print one line, and return the exit status: 0 when it is ready, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="rosey-storage health")
    parser.add_argument("url", nargs="?")
    parser.add_argument("--timeout", type=float, default=DEFAULT_TIMEOUT)
    try:
        options = parser.parse_args(arguments)
    except SystemExit as ended:
        return int(ended.code != 0)  # Docker reserves 2
    ready, line = ask(options.url, options.timeout)
    print(line)  # noqa: T201 - the command's own line
    return 0 if ready else 1


def ask(url: str | None, timeout: float) -> tuple[bool, str]:
    """Return whether the service at `url` is ready, and what it says in one line.

    Args:
        url: As `http://127.0.0.1:8080/readyz`; None for the service of the same environment.
        timeout: Seconds for connecting, and for each wait after it.
    """
    try:
        host, port, path = _place(url, os.environ.get(SETTING))
    except ValueError as error:
        return False, str(error)
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        body = reply.read(_MOST_BYTES)
    except (OSError, http.client.HTTPException) as error:
        return False, f"no answer from {host}:{port}: {str(error) or type(error).__name__}"
    finally:
        connection.close()
    return reply.status == http.client.OK, _words(reply.status, body)


def _place(url: str | None, address: str | None) -> tuple[str, int, str]:
    """Return host, port and path.

    Raises:
        ValueError: Neither is given, or what is cannot be read; the text says so.
    """
    if url is None and not address:
        raise ValueError(f"give a URL, as http://127.0.0.1:8080/readyz, or set {SETTING}=HOST:PORT")
    parts = urlsplit(url or f"http://{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme != "http" or not host or port == 0 or (url is None and port is None):
        shown = url or f"{SETTING}={address}"
        raise ValueError(f"{shown} cannot be asked: as http://HOST:PORT/readyz, or {SETTING}=HOST:PORT")
    path = parts.path if parts.path not in ("", "/") else "/readyz"
    return _EVERYWHERE.get(host, host), port or 80, path


def _words(status: int, body: bytes) -> str:
    try:
        told: Any = json.loads(body)
    except ValueError:
        told = None
    if not isinstance(told, dict) or not isinstance(told.get("status"), str):
        return f"the answer has the status {status} and is none of the row service's"
    missing = told.get("missing")
    reasons = [f"{name}: {why}" for name, why in missing.items()] if isinstance(missing, dict) else []
    return " ".join([told["status"] + (":" if reasons else ""), *reasons])
