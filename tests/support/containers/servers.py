"""Containers with the methods of the servers they stand in for.

Host code reaches them on 127.0.0.1, on ports that stay over a restart; they reach one another by name on
a network of their own. Folders of the host stand in a container under the path they have on the host, so
that settings, `plugins.toml` and the revisions it names read the same on both sides.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from docker.errors import APIError
from psycopg.conninfo import conninfo_to_dict
from testcontainers.community.nats import NatsContainer
from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from rosey_deploy.stack.nats import NatsServer
from rosey_deploy.stack.postgres import PostgresServer, _free_port
from rosey_deploy.stack.service import RowService
from rosey_kvstore.errors import Unavailable
from support.containers.images import fetch_nats_tool
from support.containers.run import Run

__all__ = ["Containers"]

ROOT = Path(__file__).parents[3]
_NATS_PORT, _POSTGRES_PORT = 4222, 5432
_START_SECONDS = 60.0


class Containers:
    """Makes containers of one process of a run; see `support.servers.Servers`."""

    def __init__(self, run: Run) -> None:
        self.run = run
        os.umask(0o022)  # what tests write later has to be read by the image's user as well
        self._network: Network | None = None
        self._tool: DockerContainer | None = None
        self._names: dict[int, tuple[str, int]] = {}

    def nats(self, folder: Path, *, settings: Mapping[str, Any] | None = None) -> NatsServer:
        return NatsInContainer(self, folder, settings=settings)

    def postgres(self, folder: Path, *, settings: Mapping[str, str] | None = None) -> PostgresServer:
        return PostgresInContainer(self, folder, settings=settings)

    def row_service(self, log: Path, **options: Any) -> RowService:
        return ServiceInContainer(self, log, **options)

    def discard(self, server: Any) -> None:
        server.remove()

    def nats_tool(self) -> tuple[str, ...]:
        """Return the `nats` tool of its image, in a container that stays for the run."""
        if self._tool is None:
            image = fetch_nats_tool()
            self._tool = DockerContainer(image)
            self.start(self._tool, entrypoint=["sleep", "infinity"])
        settings = ("-e", "NO_COLOR=1", "-e", "COLUMNS=200")
        return "docker", "exec", *settings, self._tool.get_container_id(), "nats"

    @cached_property
    def own_user(self) -> str:
        """Whom a container runs as to write as the user of the tests: their folders are closed to others."""
        # An engine without root shows that user to its containers as root.
        rootless = any(
            "rootless" in option for option in DockerClient().client.info().get("SecurityOptions") or ()
        )
        return "0:0" if rootless else f"{os.getuid()}:{os.getgid()}"

    def nats_url(self, url: str) -> str:
        """Return a NATS URL of the host as containers have to write it."""
        parts = urlsplit(url)
        name, port = self._names[parts.port or 0]
        return f"nats://{name}:{port}"

    def database_url(self, url: str) -> str:
        """Return a database's URL of the host as containers have to write it."""
        known = conninfo_to_dict(url)
        name, port = self._names[int(known["port"] or 0)]
        login = f"{quote(str(known['user']), safe='')}:{quote(str(known['password']), safe='')}"
        return f"postgresql://{login}@{name}:{port}/{known['dbname']}"

    def start(self, container: DockerContainer, *, name: str | None = None, **options: Any) -> None:
        """Create and start a container on the network, under `name`."""
        if self._network is None:
            self._network = Network(docker_network_kw={"labels": self.run.labels}).create()
        container.with_network(self._network).with_kwargs(labels=self.run.labels, **options)
        if name is not None:
            container.with_network_aliases(name)
        container.start()
        self.run.note(container.image)

    def publish(
        self, make: Callable[[], DockerContainer], word: str, inner: int, port: int = 0, **options: Any
    ) -> tuple[DockerContainer, int]:
        """Start a container that listens on `inner`; return it, and its port on 127.0.0.1."""
        for attempt in range(5):
            chosen = port or _free_port()
            container = make()
            container.ports = {f"{inner}/tcp": ("127.0.0.1", chosen)}  # type: ignore[dict-item]
            try:
                self.start(container, name=f"{word}-{chosen}", **options)
            except APIError as error:
                container.stop()
                # Between choosing a port and taking it another program may have come.
                if attempt == 4 or not ("already allocated" in str(error) or "in use" in str(error)):
                    raise
            else:
                self._names[chosen] = (f"{word}-{chosen}", inner)
                return container, chosen
        raise AssertionError


class _Contained:
    """What the three kinds share: a container that may be stopped and started again."""

    _container: DockerContainer | None = None

    @property
    def container(self) -> DockerContainer:
        """The container, started at least once."""
        if self._container is None:
            raise Unavailable("The container is not started.")
        return self._container

    def halt(self, seconds: int) -> None:
        """Ask it to stop, insist after `seconds`; its data stay."""
        if self._container is not None:
            self._container.get_wrapped_container().stop(timeout=seconds)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._container is not None:
            self._container.get_wrapped_container().kill()

    def remove(self) -> None:
        """Remove it with its data."""
        if self._container is not None:
            self._container.stop()
            self._container = None

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready` says so, as `Process.wait_until` does."""
        deadline = time.monotonic() + _START_SECONDS
        wrapped = self.container.get_wrapped_container()
        while not ready():
            wrapped.reload()
            if wrapped.status == "exited" or time.monotonic() > deadline:
                lines = wrapped.logs(tail=20).decode("utf-8", "replace")
                raise Unavailable(f"{self.container.image} is {wrapped.status}. The end of its log:\n{lines}")
            time.sleep(0.05)


class _NatsContainer(NatsContainer):
    """Waits as testcontainers now asks to; its own way warns that it is old."""

    def _healthcheck(self) -> None:
        LogMessageWaitStrategy("Server is ready").with_poll_interval(0.05).wait_until_ready(self)


class NatsInContainer(_Contained, NatsServer):
    """A NATS container with the configuration of the embedded server, and its data in `folder`."""

    def __init__(self, containers: Containers, folder: Path, *, settings: Mapping[str, Any] | None) -> None:
        super().__init__(folder, settings=settings)
        self._containers = containers

    def launch(self) -> None:
        if self._container is not None:
            self._container.get_wrapped_container().start()
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "nats.conf"
        members = {**self._configuration(), "host": "0.0.0.0", "port": _NATS_PORT}
        del members["ports_file_dir"]
        configuration.write_text(json.dumps(members, indent=2) + "\n", encoding="utf-8")

        def make() -> DockerContainer:
            made = _NatsContainer(self._containers.run.images["nats"])
            made.with_command(["--config", str(configuration)])
            return made.with_volume_mapping(str(self.folder), str(self.folder), "rw,z")

        self._container, self.port = self._containers.publish(
            make, "nats", _NATS_PORT, self.port, user=self._containers.own_user
        )

    def wait_ready(self) -> None:
        self.wait_until(self._answers)

    def stop(self) -> None:
        self.halt(10)


class PostgresInContainer(_Contained, PostgresServer):
    """A PostgreSQL container with the settings of the embedded server; its data are the container's."""

    def __init__(self, containers: Containers, folder: Path, *, settings: Mapping[str, str] | None) -> None:
        super().__init__(folder, settings=settings)
        self._containers = containers
        self._password = secrets.token_urlsafe(24)

    @property
    def password(self) -> str:
        return self._password

    def dsn_of(self, database: str) -> str:
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        if self._container is not None:
            self._container.get_wrapped_container().start()
            return
        settings = {"max_connections": "200", "timezone": "UTC", "log_timezone": "UTC", **self._settings}
        command = ["postgres"]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]

        def make() -> DockerContainer:
            image = self._containers.run.images["postgres"]
            made = PostgresContainer(image, username="postgres", password=self.password, dbname="postgres")
            return made.with_env("POSTGRES_INITDB_ARGS", self._containers.run.initdb).with_command(command)

        self._container, self.port = self._containers.publish(make, "postgres", _POSTGRES_PORT, self.port)

    def wait_ready(self) -> None:
        self.wait_until(self._answers)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.dsn, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        self.halt(30)


class ServiceInContainer(_Contained, RowService):
    """A container of the project's image, closed as compose closes it; it has no data, and is made anew."""

    def __init__(self, containers: Containers, log: Path, **options: Any) -> None:
        super().__init__(log, **options)
        self._containers = containers

    def launch(self) -> None:
        settings = {
            name: value
            for name, value in self._environment.items()
            if name.startswith("ROSEY_STORAGE_") or name == "ROSEY_ENV"
        }
        made = DockerContainer(self._containers.run.images["service"])
        made.with_tmpfs_mount("/tmp").with_command(["serve", *(["--provision"] if self._provision else [])])
        # The reference plugin's revisions; plugins.toml may name them.
        _show(made, ROOT / "docs" / "examples")
        if plugins := settings.get("ROSEY_STORAGE_PLUGINS"):
            # The folder: a file that is replaced would stay the old one in the container.
            _show(made, Path(plugins).parent)
        if credentials := settings.get("ROSEY_STORAGE_CREDENTIALS"):
            # The image's user is none of this machine: it gets a copy that it may read.
            copy = self._log.parent / f"{self._log.name}.credentials" / "service.creds"
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(credentials, copy)
            copy.chmod(0o444)
            _show(made, copy.parent)
            settings["ROSEY_STORAGE_CREDENTIALS"] = str(copy)
        settings["ROSEY_STORAGE_URL"] = self._containers.nats_url(self._url)
        settings["ROSEY_STORAGE_DATABASE"] = self._containers.database_url(settings["ROSEY_STORAGE_DATABASE"])
        if self._provision:
            # The image is for production, where plugins are provisioned; the embedded one is for neither.
            settings.setdefault("ROSEY_ENV", "development")
        made.with_envs(**settings)
        self._containers.start(
            made,
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
        )
        self._container = made

    def wait_ready(self) -> None:
        self.wait_until(self._answers)

    def stop(self) -> None:
        self.halt(20)
        self.remove()

    def kill(self) -> None:
        super().kill()
        self.remove()

    def remove(self) -> None:
        if self._container is not None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("ab") as file:
                file.write(self._container.get_wrapped_container().logs())
        super().remove()


def _show(container: DockerContainer, folder: Path) -> None:
    """Let a container read a folder, under the same path; the folders above it stay closed."""
    for path in (folder, *folder.rglob("*")):
        mode = path.stat().st_mode
        wanted = mode | (0o055 if path.is_dir() else 0o044)
        if wanted != mode and path.stat().st_uid == os.getuid():
            path.chmod(wanted)
    container.with_volume_mapping(str(folder), str(folder), "ro,z")  # z: where SELinux would refuse
