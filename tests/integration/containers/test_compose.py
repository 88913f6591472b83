"""The compose files: three commands to a running plugin; containers that die, or are replaced, under load."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rosey_storage import Storage
from support.containers.load import Load
from support.containers.run import Run
from support.containers.stack import ROOT, ComposeStack, Keeper

pytestmark = pytest.mark.timeout(420)

TIMEOUT = 3.0
UP_WITHIN = 60.0
"""Seconds from nothing to a plugin at work, images being there; what the project promises."""


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print a figure that the run is to show."""

    def show(line: str) -> None:
        with capsys.disabled():
            print(f"\n  {line}", flush=True)  # noqa: T201 - a figure for the run's log

    return show


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[ComposeStack]:
    """One machine's installation, not started; removed afterwards."""
    with ComposeStack(tmp_path, Run.current()) as made:
        yield made


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ComposeStack]:
    """An installation with three NATS servers, not started; removed afterwards."""
    with ComposeStack(tmp_path, Run.current(), servers=3) as made:
        yield made


async def test_three_commands_to_a_plugin_at_work(stack: ComposeStack, say: Callable[[str], None]):
    """init, up, apply: in under a minute the quotes plugin runs from the host with its own credentials."""
    stack.init()
    began = time.monotonic()
    stack.up()
    up = time.monotonic() - began
    stack.apply()
    async with stack.storage() as storage:
        await storage.kv.set("a", 1)
        await storage.migrations.apply()
        assert list(await storage.table("quotes").select()) == []
    ready = time.monotonic() - began
    say(f"compose: up in {up:.1f} s, first row {ready:.1f} s after nothing")
    assert ready < UP_WITHIN
    done = await asyncio.to_thread(_demo, stack)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "253" in done.stdout
    stack.wait_healthy()
    _check_closed(stack)
    assert stack.rosey("apply") == "", "applied again, there was something to change"
    stack.init()  # keeps everything
    stack.compose("up", "-d")
    async with stack.storage() as storage:
        assert await storage.kv.get("a") == 1


def _demo(stack: ComposeStack) -> subprocess.CompletedProcess[str]:
    settings = {
        "ROSEY_STORAGE_URL": stack.url,
        "ROSEY_STORAGE_CREDENTIALS": str(stack.credentials),
        "ROSEY_ENV": "production",
    }
    return subprocess.run(
        [sys.executable, "docs/examples/quotes/demo.py"],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )


def _check_closed(stack: ComposeStack) -> None:
    """Containers have no more than they need, and secrets are nobody else's."""
    for container in stack.containers():
        service, found = container.labels["com.docker.compose.service"], container.attrs
        host, config = found["HostConfig"], found["Config"]
        addresses = {b["HostIp"] for ports in (host["PortBindings"] or {}).values() for b in ports}
        assert addresses <= {"127.0.0.1"}, service
        assert host["Memory"] > 0, service
        assert host["CapDrop"] == ["ALL"], service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        assert not any("PASSWORD=" in line or "postgresql://" in line for line in config["Env"]), service
        if service.startswith("rowstore"):
            assert host["ReadonlyRootfs"]
            assert not host["CapAdd"]
            assert config["User"].split(":")[0] not in ("", "0", "root")
            assert not host["PortBindings"]
    for path in (stack.folder / ".rosey" / "credentials").rglob("*"):
        if path.is_file():
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


async def test_any_container_is_killed_under_load(stack: ComposeStack, say: Callable[[str], None]):
    """`docker kill` of each in turn: coded errors in time, back by itself, nothing acknowledged lost."""
    stack.start()
    async with stack.storage(timeout=TIMEOUT) as storage:
        with Keeper(stack):
            for service in ("rowstore-1", "rowstore-2", "postgres", "nats"):
                await _live_through(stack, storage, stack.kill, service, say)


async def test_any_process_crashes_under_load(stack: ComposeStack, say: Callable[[str], None]):
    """A process that ends on its own is started again by Docker alone, with the same promises."""
    stack.start()
    if not stack.can_crash():
        pytest.skip("processes of this engine's containers are not seen from here")
    async with stack.storage(timeout=TIMEOUT) as storage:
        for service in ("rowstore-1", "postgres", "nats"):
            await _live_through(stack, storage, stack.crash, service, say)


async def _live_through(
    stack: ComposeStack,
    storage: Storage,
    end: Callable[[str], None],
    service: str,
    say: Callable[[str], None],
) -> None:
    """End a container under load; return when it is back and everything was checked."""
    await asyncio.to_thread(stack.wait_healthy)
    before = stack.container(service).attrs["State"]["StartedAt"]
    async with Load(storage) as load:
        await asyncio.to_thread(end, service)
        async with asyncio.timeout(60):
            while stack.container(service).attrs["State"]["StartedAt"] == before:
                await asyncio.sleep(0.2)
        await asyncio.to_thread(stack.wait_healthy, service)
        await load.progress(more=50)
    say(f"{end.__name__} {service}: {load.gaps}")
    if service != "nats":
        assert {kind for _, kind, _ in load.errors} <= {"insert", "select"}, "keys noticed"


@pytest.mark.parametrize("servers", [1, 3])
async def test_row_services_are_replaced_under_load(servers: int, tmp_path: Path, say: Callable[[str], None]):
    """One after the other made anew, as for an upgrade: no request fails, none is left without an answer."""
    with ComposeStack(tmp_path, Run.current(), servers=servers) as stack:
        stack.start()
        await asyncio.to_thread(stack.wait_healthy)
        async with stack.storage(timeout=TIMEOUT) as storage, Load(storage) as load:
            for _ in range(2):
                for service in ("rowstore-1", "rowstore-2"):
                    words = ("up", "-d", "--no-deps", "--force-recreate", "--wait", service)
                    await asyncio.to_thread(stack.compose, *words)
            for service in ("rowstore-1", "rowstore-2"):
                await asyncio.to_thread(stack.compose, "restart", service)
                await asyncio.to_thread(stack.wait_healthy, service)
            await load.progress()
        say(f"rolling restart, {servers} NATS: {load.gaps}")
        assert load.errors == []


async def test_the_leader_of_a_bucket_is_killed_under_load(cluster: ComposeStack, say: Callable[[str], None]):
    """Another takes over: nothing acknowledged is lost, without help; also when it is the plugin's own."""
    cluster.start()
    async with cluster.storage(timeout=TIMEOUT) as storage:
        for find, what in ((_leader, "leader of the bucket"), (_connected, "the plugin's own server")):
            await asyncio.to_thread(cluster.wait_healthy)
            victim = await find(storage)
            seen: list[str] = []
            watching = asyncio.create_task(_watch(storage, seen))
            async with Load(storage) as load:
                await asyncio.to_thread(cluster.kill, victim)
                await asyncio.sleep(2 * TIMEOUT)
                await load.progress(more=50, seconds=30)
                assert victim not in (await _leader(storage), await _connected(storage))
                await storage.kv.set("last", 1)
            say(f"kill {victim}, {what}: {load.gaps}")
            async with asyncio.timeout(20):
                while "last" not in seen:
                    await asyncio.sleep(0.05)
            watching.cancel()
            assert set(load.keys) | load.created <= set(seen), "the watch missed a change"
            page = await storage.kv.list(prefix="c", limit=10_000)
            assert load.created <= set(page.keys)
            await asyncio.to_thread(cluster.compose, "up", "-d", "--no-recreate")


async def _watch(storage: Storage, seen: list[str]) -> None:
    async for change in storage.kv.watch():
        seen.append(change.key)


async def _leader(storage: Storage) -> str:
    """The server that leads the plugin's stream, asked with the plugin's own credentials."""
    info = await storage._transport.backend.api.info()  # type: ignore[attr-defined]
    return str(info["cluster"]["leader"])


async def _connected(storage: Storage) -> str:
    """The server that the plugin's connection stands to."""
    reply = storage._transport._connection._client._server_info  # type: ignore[attr-defined]
    return str(reply["server_name"])
