"""An installation by the compose files of `deploy/`, made by the three commands that docs/deploy.md gives."""

from __future__ import annotations

import configparser
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import docker
from attrs import define, field

from rosey_deploy.stack.ports import is_free
from rosey_storage import Storage
from support.containers.run import Run
from support.processes import alive

__all__ = ["ComposeStack", "Keeper", "free_ports"]

ROOT = Path(__file__).parents[3]
PLUGINS = ROOT / "docs" / "examples" / "plugins.toml"


@define
class ComposeStack:
    """The installation of one test; everything of it carries the labels of the run.

    Attributes:
        folder: Where an operator would stand: `.rosey/` is in it.
        servers: How many NATS servers.
    """

    folder: Path
    run: Run
    servers: int = 1
    port: int = 0
    postgres_port: int = 0
    project: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.project = f"{self.run.name}-{self.folder.name}".lower().replace("_", "-")
        self.port = self.port or free_ports(self.servers)
        self.postgres_port = self.postgres_port or free_ports(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with (self.folder / "containers.log").open("w") as file:
            command = [*self._compose, "logs", "--timestamps"]
            subprocess.run(command, **self._where, stdout=file, stderr=file, check=False)
        self.compose("down", "--volumes", "--timeout", "2")
        shutil.rmtree(self.folder / ".rosey", ignore_errors=True)

    # The three commands.

    def init(self, *options: str) -> None:
        """Lay the installation out, with ports of its own beside what docs/deploy.md gives."""
        self.rosey(
            *("init", "--compose", str(self.file), "--plugins", str(PLUGINS)),
            *(() if self.servers == 1 else ("--servers", str(self.servers))),
            *("--port", str(self.port), "--postgres-port", str(self.postgres_port), *options),
        )

    def up(self) -> None:
        """Start everything."""
        self.compose("up", "-d")
        for container in self.containers():
            self.run.note(container.attrs["Config"]["Image"])

    def apply(self) -> None:
        """Provision the plugins."""
        self.rosey("apply")

    def start(self) -> Self:
        """Run all three."""
        self.init()
        self.up()
        self.apply()
        return self

    # How it is reached.

    @property
    def file(self) -> Path:
        """The compose file."""
        return ROOT / "deploy" / ("compose.yaml" if self.servers == 1 else "compose.cluster.yaml")

    @property
    def url(self) -> str:
        """The NATS servers, from this host."""
        return ",".join(f"nats://127.0.0.1:{self.port + n}" for n in range(self.servers))

    @property
    def credentials(self) -> Path:
        """The folder of the credentials."""
        return self.folder / ".rosey" / "credentials"

    def storage(self, plugin: str = "quotes", **settings: Any) -> Storage:
        """A plugin's storage with its own credentials, from this host."""
        return Storage.connect(
            plugin, url=self.url, credentials=self.credentials, env="production", **settings
        )

    @property
    def environment(self) -> dict[str, str]:
        """The environment of an operator's shell; what names images and labels is the test's."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("ROSEY_", "COMPOSE_"))
        }
        return {
            **kept,
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_FILE": f"{self.file}{os.pathsep}{self._labels()}",
            "ROSEY_NATS_IMAGE": self.run.images["nats"],
            "ROSEY_POSTGRES_IMAGE": self.run.images["postgres"],
            "ROSEY_SERVICE_IMAGE": self.run.images["service"],
        }

    # What is done to it.

    def compose(self, *words: str) -> str:
        """Run `docker compose …`; return what it printed."""
        return self._done([*self._compose, *words])

    def rosey(self, *words: str) -> str:
        """Run `rosey-storage …`; return what it printed."""
        return self._done([sys.executable, "-m", "rosey_deploy", *words])

    def containers(self) -> list[Any]:
        """Every container of it, as the engine sees it now."""
        client = docker.from_env()
        try:
            return client.containers.list(
                all=True, filters={"label": f"com.docker.compose.project={self.project}"}
            )
        finally:
            client.close()

    def container(self, service: str) -> Any:
        """The container of a service, as the engine sees it now."""
        (found,) = [c for c in self.containers() if c.labels["com.docker.compose.service"] == service]
        return found

    def kill(self, service: str) -> None:
        """`docker kill` it."""
        subprocess.run(
            ["docker", "kill", self.container(service).name], check=True, stdout=subprocess.DEVNULL
        )

    def crash(self, service: str) -> None:
        """End its process as a crash or the kernel would, behind Docker's back."""
        os.kill(self.container(service).attrs["State"]["Pid"], signal.SIGKILL)

    def can_crash(self) -> bool:
        """Whether processes of containers are this machine's, and may be killed."""
        pid = self.container("nats" if self.servers == 1 else "nats-1").attrs["State"]["Pid"]
        return os.geteuid() == 0 and alive(pid)

    def wait_healthy(self, *services: str, seconds: float = 60) -> None:
        """Return when these are healthy; all, where none is named."""
        deadline = time.monotonic() + seconds
        while True:
            found = {c.labels["com.docker.compose.service"]: c.attrs["State"] for c in self.containers()}
            states = {
                name: state.get("Health", {}).get("Status") if state["Running"] else state["Status"]
                for name, state in found.items()
                if not services or name in services
            }
            if states and set(states.values()) == {"healthy"}:
                return
            assert time.monotonic() < deadline, states
            time.sleep(0.2)

    @property
    def _compose(self) -> list[str]:
        return ["docker", "compose", "--env-file", ".rosey/compose.env"]

    @property
    def _where(self) -> dict[str, Any]:
        return {"cwd": self.folder, "env": self.environment}

    def _done(self, command: list[str]) -> str:
        done = subprocess.run(command, **self._where, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _labels(self) -> Path:
        """Write the labels of the run as one more compose file; it is JSON, which is YAML."""
        nats = ["nats"] if self.servers == 1 else [f"nats-{n + 1}" for n in range(self.servers)]
        labels = {"labels": self.run.labels}
        path = self.folder / "labels.yaml"
        services = dict.fromkeys((*nats, "postgres", "rowstore-1", "rowstore-2"), labels)
        volumes = dict.fromkeys((*nats, "postgres"), labels)
        path.write_text(
            json.dumps({"services": services, "volumes": volumes, "networks": {"default": labels}})
        )
        return path


class Keeper:
    """Does what deploy/systemd/ does on a host: runs the unit's command again and again."""

    def __init__(self, stack: ComposeStack) -> None:
        self._stack = stack
        unit, timer = configparser.ConfigParser(strict=False), configparser.ConfigParser()
        for parser, name in ((unit, "rosey-storage.service"), (timer, "rosey-storage.timer")):
            parser.optionxform = str  # type: ignore[assignment,method-assign]
            parser.read(ROOT / "deploy" / "systemd" / name)
        self._command = shlex.split(unit["Service"]["ExecStart"].replace("/usr/bin/docker", "docker"))
        self._seconds = float(timer["Timer"]["OnUnitInactiveSec"].removesuffix("s"))
        self._stop = Event()
        self._thread = Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(120)

    def _keep(self) -> None:
        where = {"cwd": self._stack.folder, "env": self._stack.environment}
        while not self._stop.wait(self._seconds):
            subprocess.run(self._command, **where, capture_output=True, check=False)


def free_ports(count: int) -> int:
    """Return the first of `count` ports in a row that are free on 127.0.0.1."""
    for _ in range(100):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            first: int = found.getsockname()[1]
        if first + count < 65536 and all(map(is_free, range(first, first + count))):
            return first
    raise AssertionError("no free ports in a row")
