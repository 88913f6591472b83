"""The launchers of NATS and PostgreSQL: they start, keep their data, and leave nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nats
import psycopg
import pytest

from rosey_deploy.stack import process as process_module
from rosey_deploy.stack.nats import NatsServer
from rosey_deploy.stack.postgres import PostgresServer, postgres_binaries
from rosey_deploy.stack.process import Process
from rosey_kvstore.errors import StorageError, Unavailable
from support.processes import alive, wait_gone

needs_postgres = pytest.mark.skipif(postgres_binaries() is None, reason="no embedded PostgreSQL here")


@pytest.fixture(params=["kernel", "pipe"])
def watch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to notice a parent's death: the kernel's on Linux, the pipe's elsewhere."""
    if request.param == "kernel" and sys.platform != "linux":
        pytest.skip("only Linux has a death signal")
    monkeypatch.setattr(process_module, "_USE_DEATH_SIGNAL", request.param == "kernel")
    return request.param


async def test_nats_keeps_its_port_and_data_over_a_restart(tmp_path: Path, watch: str) -> None:
    """A client's URL stays right when the server comes back, and so does what it stored."""
    server = NatsServer(tmp_path)
    server.start()
    try:
        url = server.url
        await _put(url, b"kept")
        server.restart()
        assert server.url == url
        assert await _get(url) == b"kept"
        server.kill()
        server.start()
        assert await _get(url) == b"kept"
    finally:
        server.stop()


async def _put(url: str, data: bytes) -> None:
    client = await nats.connect(url)
    js = client.jetstream()
    await js.add_stream(name="s", subjects=["s"])
    await js.publish("s", data)
    await client.close()


async def _get(url: str) -> bytes | None:
    client = await nats.connect(url)
    found = await client.jetstream().get_last_msg("s", "s")
    await client.close()
    return found.data


def test_a_port_in_use_is_a_clear_error(nats_server: NatsServer, tmp_path: Path) -> None:
    """A port that another program holds is named, with what to do."""
    with pytest.raises(StorageError, match=f"Port {nats_server.port}") as caught:
        NatsServer(tmp_path, port=nats_server.port).start()
    assert "--port" in str(caught.value)


def test_a_server_that_does_not_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    """The reason stands in the error, not only in a file."""
    with pytest.raises(Unavailable, match="no_such_member"):
        NatsServer(tmp_path, settings={"no_such_member": 1}).start()


@needs_postgres
def test_postgres_keeps_its_data_over_restart_and_crash(tmp_path: Path, watch: str) -> None:
    """What was committed is there after a stop and after a kill, on the same port."""
    server = PostgresServer(tmp_path / "pg")
    server.start()
    try:
        port = server.port
        with psycopg.connect(server.dsn) as connection:
            connection.execute("CREATE TABLE t (n int)")
            connection.execute("INSERT INTO t VALUES (1)")
        server.restart()
        with psycopg.connect(server.tcp_dsn) as connection:
            assert connection.execute("SELECT n FROM t").fetchall() == [(1,)]
            connection.execute("INSERT INTO t VALUES (2)")
        server.kill()
        server.start()
        assert server.port == port
        with psycopg.connect(server.dsn) as connection:
            assert connection.execute("SELECT n FROM t ORDER BY n").fetchall() == [(1,), (2,)]
    finally:
        server.stop()


@needs_postgres
def test_postgres_asks_for_its_password(postgres_server: PostgresServer) -> None:
    """Neither the socket nor the port lets anyone in without it."""
    for dsn in (postgres_server.dsn, postgres_server.tcp_dsn):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(dsn.replace(postgres_server.password, "wrong"))


@needs_postgres
def test_a_pid_file_of_another_program_does_not_stop_postgres(tmp_path: Path) -> None:
    """After a restart of a container the number in a stale pid file belongs to someone else."""
    server = PostgresServer(tmp_path / "pg")
    server.start()
    server.stop()
    # Of the same user as the server, or PostgreSQL itself would see that it can't be one.
    other = Process("other", ["/bin/sleep", "60"], log=tmp_path / "other.log", account=server._account())
    try:
        (tmp_path / "pg" / "data" / "postmaster.pid").write_text(f"{other.pid}\n{tmp_path}\n")
        server.start()
        server.stop()
        assert other.returncode is None
    finally:
        other.kill()


@needs_postgres
def test_a_folder_that_no_stranger_may_enter_serves_as_well(tmp_path: Path) -> None:
    """Root's own folders are closed to the user PostgreSQL runs as, and stay closed."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = PostgresServer(closed / "deep" / "pg")
    server.start()
    try:
        with psycopg.connect(server.dsn) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert closed.stat().st_mode & 0o777 == 0o700
    finally:
        server.stop()


_PARENT = """
import sys, time
from pathlib import Path
from rosey_deploy.stack import process
process._USE_DEATH_SIGNAL = sys.argv[2] == "kernel"
from rosey_deploy.stack.nats import NatsServer
from rosey_deploy.stack.postgres import PostgresServer, postgres_binaries
servers = [NatsServer(Path(sys.argv[1]) / "nats")]
if postgres_binaries():
    servers.append(PostgresServer(Path(sys.argv[1]) / "postgres"))
for server in servers:
    server.start()
print(*(server.process.pid for server in servers), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_children_end_with_their_parent(tmp_path: Path, watch: str, number: int) -> None:
    """Nothing runs on when the parent is killed, and the folder can be used again at once."""
    command = [sys.executable, "-c", _PARENT, str(tmp_path), watch]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert pids
        assert all(alive(pid) for pid in pids)
        parent.send_signal(number)
    wait_gone(pids)
    servers = [NatsServer(tmp_path / "nats")]
    if postgres_binaries() is not None:
        servers.append(PostgresServer(tmp_path / "postgres"))  # type: ignore[arg-type]
    try:
        for server in servers:
            server.start()
    finally:
        for server in servers:
            server.stop()


def test_a_child_outlives_the_thread_that_started_it(tmp_path: Path, watch: str) -> None:
    """Linux ties a child to a thread; a worker thread that ends must not take its children along."""
    started = []
    thread = threading.Thread(
        target=lambda: started.append(Process("sleep", ["/bin/sleep", "60"], log=tmp_path / "log"))
    )
    thread.start()
    thread.join()
    try:
        time.sleep(0.3)
        assert started[0].returncode is None
    finally:
        assert started[0].stop() == -signal.SIGTERM


_STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: print("no", flush=True))
print("up", flush=True)
time.sleep(60)
"""


def test_a_stubborn_child_is_killed(tmp_path: Path, watch: str) -> None:
    """What does not heed the request to stop is ended after the wait."""
    child = Process("stubborn", [sys.executable, "-c", _STUBBORN], log=tmp_path / "log")
    child.wait_until(lambda: child.last_lines() == ["up"], timeout=20)
    pid = child.pid
    assert child.stop(timeout=0.3) == -signal.SIGKILL
    assert child.last_lines() == ["up", "no"]
    wait_gone([pid])


def test_children_do_not_ignore_broken_pipes(tmp_path: Path, watch: str) -> None:
    """Python ignores SIGPIPE; what it starts must not inherit that."""
    child = Process("shell", ["/bin/sh", "-c", "kill -PIPE $$; echo survived"], log=tmp_path / "log")
    assert child.wait(20) == -signal.SIGPIPE
    child.kill()
    assert (tmp_path / "log").read_bytes() == b""
