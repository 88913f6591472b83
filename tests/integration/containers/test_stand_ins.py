"""Containers stand in for the embedded servers: the same ports, data and settings; services are closed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker
import psycopg
import pytest

from rosey_deploy.stack.nats import NatsServer
from rosey_deploy.stack.postgres import PostgresServer
from rosey_storage import Column, Storage
from support.containers.run import RUN, Run
from support.containers.servers import ServiceInContainer
from support.servers import Servers


async def test_nats_keeps_port_and_data(own_nats_server: NatsServer, plugin: str) -> None:
    """Stopped, killed and started again, it is where it was, with what was acknowledged."""
    url = own_nats_server.url
    async with Storage.connect(plugin, url=url) as storage:
        await storage.kv.set("a", 1)
    own_nats_server.restart()
    async with Storage.connect(plugin, url=url) as storage:
        await storage.kv.set("b", 2)
    own_nats_server.kill()
    own_nats_server.start()
    assert own_nats_server.url == url
    async with Storage.connect(plugin, url=url) as storage:
        assert await storage.kv.get_many(["a", "b"]) == {"a": 1, "b": 2}


def test_postgres_keeps_port_and_data(own_postgres_server: PostgresServer) -> None:
    """Stopped, killed and started again, it is where it was, with what was committed."""
    dsn = own_postgres_server.dsn
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS n")
    own_postgres_server.restart()
    with psycopg.connect(dsn) as connection:
        connection.execute("INSERT INTO t VALUES (2)")
    own_postgres_server.kill()
    own_postgres_server.start()
    assert own_postgres_server.dsn == dsn
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT n FROM t ORDER BY n").fetchall() == [(1,), (2,)]


def test_postgres_has_the_settings_of_the_embedded_one(postgres_server: PostgresServer) -> None:
    """What tests rely on is set: connections enough, UTC, and no waiting for the disk."""
    with psycopg.connect(postgres_server.dsn) as connection:
        found = {
            name: connection.execute(f"SHOW {name}").fetchone()
            for name in ("max_connections", "timezone", "fsync")
        }
    assert found == {"max_connections": ("200",), "timezone": ("UTC",), "fsync": ("off",)}


@pytest.fixture
def service(
    servers: Servers, nats_server: NatsServer, postgres_database: str, plugin: str, tmp_path: Path
) -> Iterator[ServiceInContainer]:
    made = servers.row_service(
        tmp_path / "service.log", url=nats_server.url, database=postgres_database, subject=plugin
    )
    try:
        made.start()
        yield made
    finally:
        servers.discard(made)


def inside(service: ServiceInContainer, script: str) -> str:
    """Run Python in the service's container."""
    done = service.container.exec(["python", "-I", "-c", script])
    assert done.exit_code == 0, done.output
    return done.output.decode()


def test_the_service_is_closed(service: ServiceInContainer) -> None:
    """It is not root, has no capability and can gain none, and its root file system cannot be written."""
    lines = inside(service, "print(open('/proc/self/status').read())").splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert "0" not in status["Uid"].split()
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    script = (
        "import os\nfor path in ('/', '/etc', '/usr/bin', os.path.expanduser('~')):\n"
        "    try: open(os.path.join(path, 'new'), 'w')\n"
        "    except OSError as error: print(type(error).__name__, error.errno)\n"
        "    else: print(path, 'is open')\n"
    )
    assert "is open" not in inside(service, script)


@pytest.mark.parametrize(
    "call", ["libc.socket(2, 1, 0)", "libc.fork()", "libc.kill(1, 9)", "libc.open(b'/etc/passwd', 0)"]
)
def test_the_kernel_closes_migrations_in_the_container_too(service: ServiceInContainer, call: str) -> None:
    """Docker's filter does not replace ours: what goes around Python's checks is refused there as well."""
    script = (
        "import ctypes, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "from rosey_rowstore.migrations import sandbox\n"
        "for name in ('socket', 'fork', 'kill', 'open'): getattr(libc, name)\n"
        "sys.addaudithook = lambda hook: None\n"
        "sandbox.enter(seconds=5, writes_files=False)\n"
        f"result = {call}\n"
        "print(result, ctypes.get_errno())\n"
    )
    result, number = inside(service, script).split()
    assert result == "-1"
    assert int(number) in (1, 13)  # EPERM, EACCES


async def test_a_killed_service_is_made_anew(
    service: ServiceInContainer, nats_server: NatsServer, plugin: str
) -> None:
    """Killed and started again, rows that were acknowledged are there."""
    async with Storage.connect(plugin, url=nats_server.url, subject=plugin, timeout=20) as storage:
        await storage.table("t").define([Column("n", "integer")])
        await storage.table("t").insert({"n": 1})
        service.kill()
        service.start()
        assert [row["n"] for row in (await storage.table("t").select()).rows] == [1]


def test_ports_are_open_to_this_machine_alone(service: ServiceInContainer) -> None:
    """Every port of the run's containers is published on 127.0.0.1."""
    client = docker.from_env()
    try:
        found = client.containers.list(filters={"label": f"{RUN}={Run.current().name}"})
        hosts = [
            binding["HostIp"]
            for container in found
            for bindings in container.attrs["NetworkSettings"]["Ports"].values()
            for binding in bindings or ()
        ]
    finally:
        client.close()
    assert len(found) >= 3
    assert set(hosts) == {"127.0.0.1"}
