"""`apply` killed at each of its steps, and run again: it ends in what was declared."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap

import pytest

from rosey_deploy.provision import actions
from rosey_deploy.provision.reconcile import opened
from rosey_rowstore.plugins import Plugin
from rosey_storage import Column
from support.secure import Installation

# Runs one apply in a process of its own and kills that at its n-th effect: a file replaced, a request sent
# to NATS, a statement sent to Postgres. Before the effect or after it: both are a step.
DRIVER = textwrap.dedent(
    """
    import asyncio, os, pathlib, signal, sys
    from rosey_deploy.provision.reconcile import reconcile
    from rosey_kvstore.connection import Connection
    from psycopg import AsyncConnection

    steps = 0

    def counted(kind, name, at, after):
        original = getattr(kind, name)

        def step():
            global steps
            steps += 1
            if steps == at:
                os.kill(os.getpid(), signal.SIGKILL)

        if asyncio.iscoroutinefunction(original):
            async def replaced(*given, **named):
                if not after:
                    step()
                done = await original(*given, **named)
                if after:
                    step()
                return done
        else:
            def replaced(*given, **named):
                if not after:
                    step()
                done = original(*given, **named)
                if after:
                    step()
                return done
        setattr(kind, name, replaced)

    def run(target, at, after):
        counted(pathlib.Path, "replace", at, after)
        counted(Connection, "request", at, after)
        counted(AsyncConnection, "execute", at, after)
        outcome = asyncio.run(reconcile(target, write=True))
        assert not outcome.failures, outcome.failures
        return steps
    """
)


def run_killed(installation: Installation, at: int, *, after: bool) -> int:
    """Fork a child that applies and dies at step `at`; return its steps, minus the signal when it died."""
    target = installation.target()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            scope: dict[str, object] = {}
            exec(DRIVER, scope)
            steps = scope["run"](target, at, after)  # type: ignore[operator]
            os.write(write, str(steps).encode())
            status = 0
        except BaseException as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(status)
    os.close(write)
    _, status = os.waitpid(pid, 0)
    told = os.read(read, 4096).decode()
    os.close(read)
    if os.WIFSIGNALED(status):
        return -os.WTERMSIG(status)
    assert os.WEXITSTATUS(status) == 0, told
    return int(told)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_step(own_installation: Installation, plugin: str, after: bool) -> None:
    """A fresh plugin each time: `kill -9` at step n of its apply, then apply again, for every n."""
    own_installation.plugins["first"] = Plugin(name="first", rows=True)
    assert not asyncio.run(own_installation.apply()).failures
    at, killed = 0, 0
    while True:
        at += 1
        name = f"{plugin}-{'a' if after else 'b'}{at}"
        own_installation.plugins = {name: Plugin(name=name, rows=True)}
        own_installation._write()
        steps = run_killed(own_installation, at, after=after)
        outcome = asyncio.run(own_installation.apply())
        assert not outcome.failures, (at, outcome.failures)
        assert asyncio.run(own_installation.apply()).changes == [], at
        if steps > 0:
            break  # there was no n-th step: all were tried
        killed += 1
        if at % 20 == 1:
            asyncio.run(in_use(own_installation, name))
        # The next finds as many accounts as this one did, so that its steps are the same.
        asyncio.run(removed(own_installation, name))
    assert killed > 40
    left = [path.name for path in own_installation.authority.folder.rglob(".*.[0-9]*")]
    assert left == []


async def removed(installation: Installation, name: str) -> None:
    async with opened(installation.target(), write=True) as world:
        await actions.remove(world, installation.plugins[name], lambda _: None)


async def in_use(installation: Installation, name: str) -> None:
    """The plugin works: keys and rows."""
    await asyncio.to_thread(installation.serve)
    async with installation.storage(name) as storage:
        await storage.kv.set("a", 1)
        await storage.table("t").define([Column("n", "integer")])
        assert (await storage.table("t").insert({"n": 1}))["n"] == 1


def test_the_command_killed_and_run_again(own_installation: Installation, plugin: str) -> None:
    """The command itself, killed while it works on forty plugins, again and again until it gets through."""
    own_installation.plugins = {f"{plugin}{n}": Plugin(name=f"{plugin}{n}", rows=True) for n in range(40)}
    own_installation._write()
    command = [
        *(sys.executable, "-m", "rosey_deploy", "apply", "--data", str(own_installation.data)),
        *("--url", own_installation.nats.url, "--database", own_installation.database),
        *("--plugins", str(own_installation.file)),
    ]
    environment = {**os.environ, "XDG_CONFIG_HOME": str(own_installation.data / "config")}
    killed = 0
    while True:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(25):  # so many changes further than the run before, then the end of it
            if not process.stdout.readline():
                break
        else:
            process.kill()
            process.communicate()
            killed += 1
            continue
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        break
    assert killed >= 3
    assert asyncio.run(own_installation.apply()).changes == []
