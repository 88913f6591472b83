"""A run on containers: what it leaves behind, and how it ends where there is nothing to run on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from support.containers.run import OWNER, RUN, Run
from support.containers.servers import NatsInContainer

SAMPLES = Path(__file__).with_name("samples.py")


@pytest.fixture
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    try:
        yield client
    finally:
        client.close()


def command(name: str, **settings: str) -> tuple[list[str], dict[str, str]]:
    """A pytest of its own for one sample, on the images of this run."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "ROSEY_"))}
    images = {f"ROSEY_TEST_{word.upper()}_IMAGE": image for word, image in Run.current().images.items()}
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--containers=all"]
    return [*line, f"{SAMPLES}::{name}"], {**kept, **images, **settings}


def run(name: str, **settings: str) -> tuple[int, str]:
    """Run one sample; return its status and what it said."""
    line, environment = command(name, **settings)
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=110, check=False)
    return done.returncode, done.stdout + done.stderr


def owned(engine: docker.DockerClient, pid: int) -> dict[str, list[str]]:
    """What carries the process as its owner, and the volumes of its containers."""
    containers = [
        container
        for container in engine.containers.list(all=True, filters={"label": OWNER}, ignore_removed=True)
        if container.labels[OWNER].split(" ")[2] == str(pid)
    ]
    runs = {container.labels[RUN] for container in containers}
    volumes = [
        mount["Name"]
        for container in containers
        for mount in container.attrs["Mounts"]
        if mount["Type"] == "volume"
    ]
    networks = [n.name for name in runs for n in engine.networks.list(filters={"label": f"{RUN}={name}"})]
    return {"containers": [c.id for c in containers], "volumes": volumes, "networks": networks}


@pytest.mark.timeout(240)
def test_a_killed_run_is_cleared_away_by_the_next(
    engine: docker.DockerClient, nats_server: NatsInContainer, tmp_path: Path
) -> None:
    """`kill -9` leaves containers, volumes and a network; the next run removes them and those of no other."""
    signal_file = tmp_path / "running"
    line, environment = command("test_holds_containers", ROSEY_TEST_SIGNAL=str(signal_file))
    killed = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 100
        while not signal_file.exists():
            assert killed.poll() is None, "the run ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        killed.kill()
        killed.wait()
    left = owned(engine, killed.pid)
    assert (len(left["containers"]), len(left["networks"])) == (2, 1), left
    assert left["volumes"], "the database has no volume: nothing shows that volumes are removed"

    status, said = run("test_has_a_container")

    assert status == 0, said
    assert "Removed what the run rosey-tests-" in said
    assert owned(engine, killed.pid)["containers"] == []
    assert not {volume.name for volume in engine.volumes.list()} & set(left["volumes"])
    assert not {network.name for network in engine.networks.list()} & set(left["networks"])
    other = nats_server.container.get_wrapped_container()
    other.reload()
    assert other.status == "running"  # of this run, which lives


def test_a_run_leaves_nothing(engine: docker.DockerClient) -> None:
    """It says how many tests ran on how many containers of which images, and nothing of it stays."""
    line, environment = command("test_has_a_container")
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True)
    said, _ = process.communicate(timeout=110)
    assert process.returncode == 0, said
    assert f"1 test passed on 1 container: 1 of {Run.current().images['nats']}." in said
    labels = [network.attrs["Labels"] for network in engine.networks.list(filters={"label": OWNER})]
    assert owned(engine, process.pid)["containers"] == []
    assert [found for found in labels if found[OWNER].split(" ")[2] == str(process.pid)] == []


def test_a_run_without_containers_fails() -> None:
    """Tests that pass on nothing are no success."""
    status, said = run("test_has_no_container")
    assert "1 passed" in said
    assert "No container was started" in said
    assert status == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize("ci", ["true", ""])
def test_without_docker_it_says_what_to_do(ci: str, tmp_path: Path) -> None:
    """Nothing is skipped, in CI or elsewhere: the run ends with an error that says what is missing."""
    status, said = run("test_has_a_container", DOCKER_HOST=f"unix://{tmp_path / 'nobody'}", CI=ci)
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "No Docker engine answers" in said
    assert "Start Docker" in said
    assert "Traceback" not in said


def test_an_image_that_cannot_be_had_is_named() -> None:
    """The message has the image, and the setting that names another."""
    status, said = run("test_has_a_container", ROSEY_TEST_NATS_IMAGE="localhost:1/rosey/nothing:1")
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "localhost:1/rosey/nothing:1 is not here and cannot be pulled" in said
    assert "ROSEY_TEST_NATS_IMAGE" in said
