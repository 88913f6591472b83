"""Which images the suites run on, and that they are there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import docker
from docker.errors import DockerException, ImageNotFound
from testcontainers.core.docker_client import DockerClient

__all__ = ["SERVICE", "NoDocker", "fetch_nats_tool", "images"]

ROOT = Path(__file__).parents[3]
_NATS = "nats:2.12-alpine"
_POSTGRES = {
    "ROSEY_TEST_POSTGRES_IMAGE": "postgres:18-alpine",
    "ROSEY_TEST_POSTGRES_15_IMAGE": "postgres:15-alpine",
}
_NATS_TOOL = "natsio/nats-box:latest"
SERVICE = "rosey-storage:tests"


class NoDocker(Exception):
    """The suites cannot run; the message says what to do."""


def images(say: Callable[[str], None], *, oldest_postgres: bool) -> dict[str, str]:
    """Return the images by what they are for, after fetching or building what is missing.

    Args:
        say: Is told what takes long.
        oldest_postgres: The oldest PostgreSQL that is supported, in place of the newest.

    Raises:
        NoDocker: No engine answers, or an image is to be had nowhere.
    """
    postgres_setting = f"ROSEY_TEST_POSTGRES_{'15_' if oldest_postgres else ''}IMAGE"
    client = _engine()
    try:
        found = {
            "nats": _setting("ROSEY_TEST_NATS_IMAGE") or _NATS,
            "postgres": _setting(postgres_setting) or _POSTGRES[postgres_setting],
        }
        _fetch(client, found["nats"], "ROSEY_TEST_NATS_IMAGE", say)
        _fetch(client, found["postgres"], postgres_setting, say)
        given = _setting("ROSEY_TEST_SERVICE_IMAGE")
        if given:
            _fetch(client, given, "ROSEY_TEST_SERVICE_IMAGE", say)
        return {**found, "service": given or _build(client, say)}
    finally:
        client.close()


def fetch_nats_tool() -> str:
    """Return the image of the `nats` tool, fetched if it is missing; only machines without the tool ask."""
    image = _setting("ROSEY_TEST_NATS_TOOL_IMAGE") or _NATS_TOOL
    client = _engine()
    try:
        _fetch(client, image, "ROSEY_TEST_NATS_TOOL_IMAGE", lambda _: None)
    finally:
        client.close()
    return image


def _engine() -> docker.DockerClient:
    try:
        client = DockerClient().client  # heeds the `docker` command's context, as docker.from_env() does not
        client.ping()
    except DockerException as error:
        raise NoDocker(
            "No Docker engine answers, and these tests run on containers. Start Docker, or point DOCKER_HOST"
            f" at an engine of this machine; `docker info` has to answer. What was said: {error}"
        ) from error
    return client


def _fetch(client: docker.DockerClient, image: str, setting: str, say: Callable[[str], None]) -> None:
    try:
        client.images.get(image)
    except ImageNotFound:
        say(f"Pulling {image} ...")
        try:
            client.images.pull(image)
        except DockerException as error:
            raise NoDocker(
                f"The image {image} is not here and cannot be pulled; name another with {setting}."
                f" What was said: {error}"
            ) from error


def _build(client: docker.DockerClient, say: Callable[[str], None]) -> str:
    """Build the image of this tree and return its id; unchanged layers come from Docker's cache."""
    say(f"Building {SERVICE} from deploy/Dockerfile ...")
    command = [ROOT / "deploy" / "ci" / "build-image", SERVICE]
    # By its id: meanwhile a run of another tree may give the name to its own.
    with (Path(tempfile.gettempdir()) / "rosey-tests-build.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        built = _id(client)
    if done.returncode or built is None:
        raise NoDocker(
            "The service's image could not be built; name another with ROSEY_TEST_SERVICE_IMAGE."
            f" The end of what deploy/ci/build-image said:\n{done.stderr}"
        )
    return built


def _id(client: docker.DockerClient) -> str | None:
    try:
        found: str = client.images.get(SERVICE).id
    except ImageNotFound:
        return None
    return found


def _setting(name: str) -> str | None:
    """Return a setting: of the environment, or what deploy/ci/stand-in-images settled on for this machine."""
    if given := os.environ.get(name):
        return given
    with contextlib.suppress(FileNotFoundError):
        for line in (ROOT / ".tools" / "images.env").read_text().splitlines():
            key, _, value = line.partition("=")
            if key == name:
                return value
    return None
