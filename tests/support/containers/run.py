"""One run of the suites on containers: what it started, and that nothing of it stays.

Everything a run starts carries its name and its process as labels. At its end the run removes what has
its name; at its start, what has the name of a run whose process is gone (`kill -9`, a machine that lost
power). Runs that are under way are left alone, whoever started them.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import docker
from attrs import asdict, frozen
from docker.errors import APIError, NotFound
from testcontainers.core.docker_client import DockerClient

from support.processes import alive

__all__ = ["Run", "remove_abandoned"]

RUN = "rosey.run"
OWNER = "rosey.tests.owner"
_VARIABLE = "ROSEY_TEST_RUN"


@frozen(kw_only=True)
class Run:
    """A run, the same in every worker of pytest-xdist.

    Attributes:
        name: What its containers, networks and volumes carry as `rosey.run`.
        owner: Its process, see `_owner`.
        folder: Where it keeps what its processes tell each other.
        images: The images by what they are for: `nats`, `postgres`, `service`.
        initdb: What `initdb` of PostgreSQL is told beside its defaults.
    """

    name: str
    owner: str
    folder: str
    images: dict[str, str]
    initdb: str = ""

    @classmethod
    def begin(cls, images: dict[str, str], *, initdb: str = "") -> Self:
        """Begin a run in this process; workers that it starts find it by `current`."""
        made = cls(
            name=f"rosey-tests-{os.getpid()}-{secrets.token_hex(3)}",
            owner=_owner(os.getpid()),
            folder=tempfile.mkdtemp(prefix="rosey-tests-"),
            images=images,
            initdb=initdb,
        )
        os.environ[_VARIABLE] = json.dumps(asdict(made))
        return made

    @classmethod
    def current(cls) -> Self:
        """The run that this process belongs to."""
        return cls(**json.loads(os.environ[_VARIABLE]))

    @property
    def labels(self) -> dict[str, str]:
        """What everything of this run carries."""
        return {RUN: self.name, OWNER: self.owner}

    def note(self, image: str) -> None:
        """Remember that a container was started."""
        with (Path(self.folder) / "started").open("a") as file:  # short lines are appended whole
            file.write(f"{image}\n")

    def tell(self, line: str) -> None:
        """Remember a figure that was measured, for the run's last lines."""
        with (Path(self.folder) / "told").open("a") as file:
            file.write(f"{line}\n")

    def told(self) -> list[str]:
        """The figures that were measured."""
        with contextlib.suppress(FileNotFoundError):
            return (Path(self.folder) / "told").read_text().splitlines()
        return []

    def started(self) -> Counter[str]:
        """How many containers were started, by image."""
        with contextlib.suppress(FileNotFoundError):
            return Counter((Path(self.folder) / "started").read_text().split())
        return Counter()

    def end(self) -> None:
        """Remove everything of it."""
        with _client() as client:
            _remove(client, {"label": f"{RUN}={self.name}"})
        for path in Path(self.folder).iterdir():
            path.unlink()
        Path(self.folder).rmdir()
        os.environ.pop(_VARIABLE, None)


def remove_abandoned() -> list[str]:
    """Remove what runs left behind whose process is gone; return their names."""
    with _client() as client:
        owners: dict[str, str] = {}
        for found in _everything(client, {"label": OWNER}):
            labels = _labels(found)
            owners[labels.get(RUN, "")] = labels[OWNER]
        gone = sorted(name for name, owner in owners.items() if _is_gone(owner))
        for name in gone:
            _remove(client, {"label": f"{RUN}={name}"})
    return gone


@contextlib.contextmanager
def _client() -> Iterator[docker.DockerClient]:
    client = DockerClient().client
    try:
        yield client
    finally:
        client.close()


def _everything(client: docker.DockerClient, filters: dict[str, str]) -> Iterator[Any]:
    yield from client.containers.list(all=True, filters=filters, ignore_removed=True)
    yield from client.networks.list(filters=filters)
    yield from client.volumes.list(filters=filters)


def _labels(found: Any) -> dict[str, str]:
    labels = getattr(found, "labels", None)  # networks have none of their own
    return dict((found.attrs.get("Labels") if labels is None else labels) or {})


def _remove(client: docker.DockerClient, filters: dict[str, str]) -> None:
    """Remove what matches; what somebody else is removing at the same moment is none of ours any more."""
    for container in client.containers.list(all=True, filters=filters, ignore_removed=True):
        with _removed_by_another():
            container.remove(force=True, v=True)
    for network in client.networks.list(filters=filters):
        with _removed_by_another():
            network.remove()
    for volume in client.volumes.list(filters=filters):
        with _removed_by_another():
            volume.remove(force=True)


@contextlib.contextmanager
def _removed_by_another() -> Iterator[None]:
    try:
        yield
    except NotFound:
        pass
    except APIError as error:
        if "already in progress" not in str(error):
            raise


def _owner(pid: int) -> str:
    """A process in one word: host, namespace of its number, number, and when it began where that is known.

    A number alone is given again to others, and means nothing on another host or in a container.
    """
    return f"{platform.node()} {_namespace()} {pid} {_began(pid)}"


def _is_gone(owner: str) -> bool:
    host, namespace, pid, began = owner.split(" ")
    if (host, namespace) != (platform.node(), _namespace()):
        return False  # whether it runs cannot be seen from here
    return not alive(int(pid)) or _began(int(pid)) != began


def _namespace() -> str:
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return "-"


def _began(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    return "-"
