"""One row-service process, started as production starts it: `python -m rosey_rowstore`."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from rosey_deploy.stack.process import Process
from rosey_kvstore.connection import Connection
from rosey_kvstore.errors import StorageTimeout, Unavailable

__all__ = ["RowService", "without_own_settings"]

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
# No plugin is touched by it, and only a service that serves answers it.
_PROBE_TAIL = "v1.probe.rows.ping"


class RowService:
    """A service process between a NATS server and a database.

    Args:
        log: Where its log lines go.
        url: The NATS server, as `nats://127.0.0.1:4222`.
        database: `postgresql://…` or `sqlite:FOLDER`.
        plugins: `plugins.toml`, where there is one.
        credentials: Its NATS credentials file, where NATS asks for one.
        subject: The first token of its subjects.
        provision: Plugins are made on first use.
        settings: Further variables of its environment, as `{"ROSEY_ENV": "production"}`.
    """

    def __init__(
        self,
        log: Path,
        *,
        url: str,
        database: str,
        plugins: Path | None = None,
        credentials: Path | None = None,
        subject: str = "storage",
        provision: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        self._url = url
        self._subject = subject
        self._credentials = credentials
        self._provision = provision
        self._environment = {
            **without_own_settings(os.environ),
            "ROSEY_STORAGE_URL": url,
            "ROSEY_STORAGE_DATABASE": database,
            "ROSEY_STORAGE_SUBJECT": subject,
            **({} if plugins is None else {"ROSEY_STORAGE_PLUGINS": str(plugins)}),
            **({} if credentials is None else {"ROSEY_STORAGE_CREDENTIALS": str(credentials)}),
            **(settings or {}),
        }
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        """The running service."""
        if self._process is None:
            raise Unavailable("The row service is not started.")
        return self._process

    def start(self) -> None:
        """Start, and return once a request would be answered.

        Raises:
            Unavailable: It did not start; the message holds the end of its log.
        """
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start without waiting."""
        command = [sys.executable, "-m", "rosey_rowstore"]
        if self._provision:
            command.append("--provision")
        self._process = Process("the row service", command, log=self._log, environment=self._environment)

    def wait_ready(self) -> None:
        """Wait until a request would be answered; see `start`."""
        self.process.wait_until(self._answers, timeout=_START_SECONDS)

    def stop(self) -> None:
        """Let it answer what it accepted, and stop it."""
        if self._process is not None:
            self._process.stop(timeout=_STOP_SECONDS)
            self._process = None

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def restart(self) -> None:
        """Stop it and start it again."""
        self.stop()
        self.start()

    def _answers(self) -> bool:
        """Ask for an operation that does not exist: a refusal comes from the service alone."""
        if self._credentials is not None:
            return b"invalid_request" in asyncio.run(self._ask_signed_in(self._credentials))
        server = urlsplit(self._url)
        try:
            with socket.create_connection((server.hostname or "", server.port or 4222), timeout=2.0) as link:
                link.sendall(
                    b'CONNECT {"verbose":false,"headers":true,"no_responders":true,"name":"probe"}\r\n'
                    b"SUB _INBOX.probe 1\r\nPUB %b.%b _INBOX.probe 2\r\n{}\r\n"
                    % (self._subject.encode(), _PROBE_TAIL.encode())
                )
                received = b""
                while b"MSG" not in received or not received.endswith(b"}\r\n"):
                    if not (more := link.recv(4096)) or b" 503\r\n" in received + more:
                        return False  # nobody is subscribed yet
                    received += more
        except OSError:
            return False
        return b"invalid_request" in received

    async def _ask_signed_in(self, credentials: Path) -> bytes:
        """Ask as the service itself: in its own account nobody else can."""
        try:
            connection = await Connection.open(
                [self._url], credentials=credentials, name="probe", timeout=2.0
            )
        except Unavailable:
            return b""
        try:
            reply = await connection.request(f"{self._subject}.{_PROBE_TAIL}", b"{}", timeout=2.0)
        except (Unavailable, StorageTimeout):
            return b""
        finally:
            await connection.close()
        return reply.data


def without_own_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the settings that a caller's shell may hold for something else."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith("ROSEY_STORAGE_") and name != "ROSEY_ENV"
    }
