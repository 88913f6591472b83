"""What an operator does with the `nats` command line tool, on a bucket that a plugin uses meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from attrs import frozen

from rosey_deploy.stack.nats import NatsServer
from rosey_kvstore import KV, InvalidValue
from rosey_kvstore.errors import InvalidJson, KeyExists
from rosey_storage import Storage
from support.kv import take, told, until
from support.servers import Embedded, Servers

pytestmark = pytest.mark.nats_cli

ROOT = Path(__file__).parents[3]


@frozen
class Tool:
    """The `nats` tool, on a server, as one plugin's operator."""

    program: tuple[str, ...]
    url: str
    home: Path

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start it and leave it running."""
        return await asyncio.create_subprocess_exec(
            *(*self.program, "--server", self.url, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "XDG_CONFIG_HOME": str(self.home), "NO_COLOR": "1", "COLUMNS": "200"},
        )

    async def run(self, *arguments: str, fails: bool = False) -> str:
        """Run it to its end and return what it printed."""
        process = await self.start(*arguments)
        try:
            async with asyncio.timeout(30):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert (process.returncode != 0) is fails, out + err
        return (err if fails else out).decode()


@pytest.fixture
def tool(nats_server: NatsServer, servers: Servers, tmp_path: Path) -> Tool:
    """The tool; where it is missing it comes from its image, or the tests are skipped, except in CI."""
    built = ROOT / ".tools" / "bin" / "nats"
    program = str(built) if built.is_file() else shutil.which("nats")
    if program is not None:
        return Tool((program,), nats_server.url, tmp_path / "config")
    if not isinstance(servers, Embedded):
        return Tool(servers.nats_tool(), servers.nats_url(nats_server.url), tmp_path / "config")
    reason = "there is no `nats` command line tool; deploy/ci/install-nats-cli builds it"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
async def kv(nats_server: NatsServer, plugin: str) -> AsyncIterator[KV]:
    """The plugin at work on its bucket."""
    async with Storage.connect(plugin, url=nats_server.url) as storage:
        await storage.kv.set("here", True)
        yield storage.kv


@pytest.fixture
def bucket(plugin: str) -> str:
    return f"plugin_{plugin}"


async def test_buckets_say_whose_they_are(tool: Tool, kv: KV, bucket: str, plugin: str) -> None:
    """`kv ls` shows the bucket with its description; `kv info` its limits, TTL support and metadata."""
    listed = next(line for line in (await tool.run("kv", "ls")).splitlines() if bucket in line)
    assert plugin in listed.replace(bucket, "")
    info = await tool.run("kv", "info", bucket)
    for shown in (
        "History Kept: 10",
        "Per-Key TTL Supported: true",
        "Limit Marker TTL: 1s",
        "Maximum Bucket Size: 16 MiB",
        "Maximum Value Size: 66 KiB",
        "Storage: File",
        f"rosey-plugin: {plugin}",
    ):
        assert shown in info


async def test_operator_lists_what_is_live(tool: Tool, kv: KV, bucket: str) -> None:
    """`kv ls BUCKET` shows readable keys, and none that is deleted or expired."""
    await kv.set_many({"user:bob": 1, "game.42": 2, "a..b": 3, "gone": 4})
    await kv.set("short", 5, ttl=1)
    await kv.delete("gone")
    # `=dots` is the bucket's own note that it holds keys with escaped dots: no plugin's key reads so.
    listed = [key for key in (await tool.run("kv", "ls", bucket)).split() if key != "=dots"]
    assert listed == ["here", "user=3Abob", "game.42", "a=2E=2Eb", "short"]

    async def expired() -> bool:
        return await kv.get("short") is None

    await until(expired)
    assert "short" not in (await tool.run("kv", "ls", bucket)).split()


@pytest.mark.parametrize("value", [{"theme": "dark", "who": "Zoë"}, [1, 2.5, None], "text", 7, None])
async def test_operator_reads_what_the_plugin_stored(tool: Tool, kv: KV, bucket: str, value: object) -> None:
    """`kv get --raw` prints the value as JSON and nothing else."""
    await kv.set("prefs:alice", value)
    printed = await tool.run("kv", "get", bucket, "prefs=3Aalice", "--raw")
    assert json.loads(printed) == value
    await kv.set("prefs:alice", value, ttl=60)
    assert await tool.run("kv", "get", bucket, "prefs=3Aalice", "--raw") == printed
    await kv.delete("prefs:alice")
    assert "not found" in await tool.run("kv", "get", bucket, "prefs=3Aalice", fails=True)


async def test_plugin_reads_what_the_operator_put(tool: Tool, kv: KV, bucket: str) -> None:
    """`kv put` is a plain write: value, revision, history, list and increment know it."""
    await tool.run("kv", "put", bucket, "user=3Abob", '{"n": 1}')
    assert await kv.get("user:bob") == {"n": 1}
    entry = await kv.entry("user:bob")
    assert entry is not None
    await kv.update("user:bob", {"n": 2}, revision=entry.revision)
    await tool.run("kv", "put", bucket, "count", "41")
    assert await kv.increment("count") == 42
    assert await tool.run("kv", "get", bucket, "count", "--raw") == "42"
    assert (await kv.list()).keys == ["count", "here", "user:bob"]
    with pytest.raises(KeyExists):
        await kv.create("count", 1)


async def test_plugin_survives_what_is_no_json(tool: Tool, kv: KV, bucket: str) -> None:
    """Text put by hand without quotes is reported by its key, and can be mended."""
    await tool.run("kv", "put", bucket, "motto", "no json")
    with pytest.raises(InvalidJson, match="'motto'"):
        await kv.get("motto")
    items = dict([item async for item in kv.items()])
    assert isinstance(items["motto"], InvalidValue)
    assert items["here"] is True
    await tool.run("kv", "put", bucket, "motto", '"json"')
    assert await kv.get("motto") == "json"


async def test_operator_deletes(tool: Tool, kv: KV, bucket: str) -> None:
    """`kv del` and `kv purge` are deletes to the plugin, told to its watch, and `create` works after them."""
    await kv.set_many({"a:1": 1, "a:2": 2})
    async with kv.watch() as changes:
        await tool.run("kv", "del", bucket, "a=3A1", "-f")
        await tool.run("kv", "purge", bucket, "a=3A2", "-f")
        assert told(await take(changes, 2)) == [("delete", "a:1", None), ("delete", "a:2", None)]
        assert await kv.get_many(["a:1", "a:2"]) == {}
        assert [change.operation for change in await kv.history("a:1")] == ["set", "delete"]
        assert [change.operation for change in await kv.history("a:2")] == ["delete"]
        assert await kv.delete("a:1") is False
        await kv.create("a:1", 3)
        await kv.create("a:2", 4)
        assert told(await take(changes, 2)) == [("set", "a:1", 3), ("set", "a:2", 4)]


async def test_operator_sees_the_plugin_delete(tool: Tool, kv: KV, bucket: str) -> None:
    """A plugin's delete is a delete to the tool, and `kv create` succeeds over it."""
    await kv.set("k", 1)
    await kv.delete("k")
    assert "not found" in await tool.run("kv", "get", bucket, "k", fails=True)
    await tool.run("kv", "create", bucket, "k", "2")
    assert await kv.get("k") == 2
    assert "key exists" in await tool.run("kv", "create", bucket, "k", "3", fails=True)


async def test_operator_creates_with_a_ttl(tool: Tool, kv: KV, bucket: str) -> None:
    """`kv create --ttl` sets a TTL that the plugin sees, and whose end it is told."""
    async with kv.watch(prefix="session") as changes:
        await tool.run("kv", "create", bucket, "session", "5", "--ttl", "3s")
        entry = await kv.entry("session")
        assert entry is not None
        assert entry.expires is not None
        assert (entry.expires - entry.created).total_seconds() == pytest.approx(3, abs=0.01)
        assert told(await take(changes, 2)) == [("set", "session", 5), ("expire", "session", None)]
    assert await kv.get("session") is None
    await tool.run("kv", "create", bucket, "session", "6")
    assert await kv.get("session") == 6


async def test_operator_creates_over_a_plugin_s_expiry(tool: Tool, kv: KV, bucket: str) -> None:
    """Right after a plugin's value expired the tool finds none and may create one."""
    await kv.set("lock", 1)
    await kv.set("lock", 2, ttl=1)

    async def expired() -> bool:
        return await kv.get("lock") is None

    await until(expired)
    assert "not found" in await tool.run("kv", "get", bucket, "lock", fails=True)
    await tool.run("kv", "create", bucket, "lock", "3")
    assert await kv.get("lock") == 3


async def test_operator_reads_the_history(tool: Tool, kv: KV, bucket: str) -> None:
    """`kv history` shows sets and deletes with their values, in order."""
    await kv.set("k", {"v": 1})
    await kv.set("k", {"v": 2})
    await kv.delete("k")
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in (await tool.run("kv", "history", bucket, "k")).splitlines()
        if line.startswith("│ k ")
    ]
    assert [(row[2], row[5]) for row in rows] == [("PUT", '{"v":1}'), ("PUT", '{"v":2}'), ("DELETE", "")]


async def test_operator_watches(tool: Tool, kv: KV, bucket: str) -> None:
    """`kv watch` shows the plugin's sets, deletes and expiries as they happen."""
    watching = await tool.start("kv", "watch", bucket)
    assert watching.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert b"here" in await watching.stdout.readline()  # it stands: it tells what is there
            await kv.set("user:bob", {"v": 1})
            assert b'user=3Abob: {"v":1}' in await watching.stdout.readline()
            await kv.delete("user:bob")
            deleted = await watching.stdout.readline()
            assert b"DEL" in deleted
            assert b"user=3Abob" in deleted
            await kv.set("t", 1, ttl=1)
            assert b"t: 1" in await watching.stdout.readline()
            assert b"PURGE" in await watching.stdout.readline()  # so it shows an expiry's marker
    finally:
        watching.kill()
        await watching.communicate()


async def test_both_write_at_once(tool: Tool, kv: KV, bucket: str) -> None:
    """While both write the same bucket, a watch tells every change once, in order."""
    async with kv.watch(prefix="n") as changes:

        async def operate() -> None:
            for number in range(15):
                await tool.run("kv", "put", bucket, "n.operator", str(number))

        async def work() -> None:
            for number in range(300):
                await kv.set("n.plugin", number)

        await asyncio.gather(operate(), work())
        found = await take(changes, 315, within=30)
    for key, count in (("n.operator", 15), ("n.plugin", 300)):
        assert [change.value for change in found if change.key == key] == list(range(count))
    revisions = [change.revision for change in found]
    assert revisions == sorted(set(revisions))
