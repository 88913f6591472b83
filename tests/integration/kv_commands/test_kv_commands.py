"""`rosey-storage kv …`, run as a person and as a program run it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from rosey_storage import Storage


@frozen
class Command:
    """The command, on one storage."""

    url: str
    plugin: str

    @property
    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ROSEY_")}
        return {**clean, "ROSEY_STORAGE_URL": self.url, "COLUMNS": "160", "TERM": "xterm", "TZ": "UTC"}

    def words(self, name: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "rosey_deploy", "kv", name, self.plugin, *arguments]

    def run(self, name: str, *arguments: str, status: int = 0, stdin: str = "") -> str:
        """Run it piped and return what it printed, stderr where it fails."""
        done = subprocess.run(
            self.words(name, *arguments),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=self.environment,
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr if status else done.stdout

    def lines(self, name: str, *arguments: str) -> list[Any]:
        return [json.loads(line) for line in self.run(name, *arguments).splitlines()]

    def on_terminal(self, name: str, *arguments: str) -> str:
        """Run it with a terminal as its output, and return what that shows."""
        ours, theirs = pty.openpty()
        try:
            done = subprocess.Popen(
                self.words(name, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                env={**self.environment, "NO_COLOR": "1"},
            )
            os.close(theirs)
            shown = b"".join(iter(lambda: _read(ours), b""))
            assert done.wait(timeout=60) == 0
        finally:
            os.close(ours)
        return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())  # colours alone; other controls are to be seen


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end of a terminal is closed
        return b""


@pytest.fixture(params=["sqlite", "nats"])
def command(request: pytest.FixtureRequest, tmp_path: Path, plugin: str) -> Command:
    """The command, on storage that its plugin has used before."""
    if request.param == "sqlite":
        url = f"sqlite:{tmp_path / 'quotes.sqlite3'}"
    else:
        url = request.getfixturevalue("nats_server").url

    async def use() -> None:
        async with Storage.connect(plugin, url=url) as storage:
            await storage.kv.set("user:bob", {"theme": "dark"})
            await storage.kv.set("user:bob", {"theme": "light"})
            await storage.kv.set("user:zoë", [1, None])
            await storage.kv.set("other", 1)

    asyncio.run(use())
    return Command(url, plugin)


def test_values_in_and_out(command: Command) -> None:
    """`set`, `get` and `rm` with decoded keys and JSON values; the exit status tells what there is."""
    first = json.loads(command.run("set", "a..b: ü", '{"n": [1, "ü"]}'))
    assert first["key"] == "a..b: ü"
    assert command.run("get", "a..b: ü") == '{"n":[1,"ü"]}\n'
    assert command.run("set", "big", "-", stdin='"' + "x" * 50_000 + '"\n')
    assert len(json.loads(command.run("get", "big"))) == 50_000
    assert json.loads(command.run("rm", "a..b: ü", "big", "missing")) == {"deleted": 2}
    assert "no live value" in command.run("get", "a..b: ü", status=1)
    assert "no live value" in command.run("rm", "missing", status=1)


def test_lists(command: Command) -> None:
    """`ls` gives keys in order, of a prefix, with values when asked."""
    assert command.lines("ls") == [{"key": "other"}, {"key": "user:bob"}, {"key": "user:zoë"}]
    assert command.lines("ls", "user:", "--values") == [
        {"key": "user:bob", "value": {"theme": "light"}},
        {"key": "user:zoë", "value": [1, None]},
    ]
    assert command.lines("ls", "none") == []


def test_conditions_and_ttl(command: Command) -> None:
    """`--create`, `--revision` and `--ttl` are the API's own."""
    assert "key_exists" in command.run("set", "other", "2", "--create", status=1)
    (entry,) = command.lines("get", "other", "--entry")
    assert entry["expires"] is None
    written = json.loads(
        command.run("set", "other", "2", "--revision", str(entry["revision"]), "--ttl", "2m")
    )
    assert "revision_mismatch" in command.run(
        "set", "other", "3", "--revision", str(entry["revision"]), status=1
    )
    (entry,) = command.lines("get", "other", "-e")
    assert (entry["value"], entry["revision"]) == (2, written["revision"])
    assert entry["expires"] > entry["created"]
    for ttl, code in (
        ("soon", "invalid_request"),
        ("0", "out_of_range"),
        ("9999999999999d", "invalid_request"),
    ):
        assert code in command.run("set", "other", "4", "--ttl", ttl, status=1)


def test_history(command: Command) -> None:
    """`history` gives what is kept, newest last."""
    command.run("rm", "user:bob")
    found = command.lines("history", "user:bob")
    assert [(change["operation"], change.get("value")) for change in found] == [
        ("set", {"theme": "dark"}),
        ("set", {"theme": "light"}),
        ("delete", None),
    ]
    assert "keeps nothing" in command.run("history", "missing", status=1)


def test_remove_by_prefix_asks(command: Command) -> None:
    """Without a terminal to ask at, a prefix goes only with --yes."""
    assert "--yes" in command.run("rm", "--prefix", "user:", status=1)
    assert len(command.lines("ls", "user:")) == 2
    assert json.loads(command.run("rm", "--prefix", "user:", "--yes")) == {"deleted": 2}
    assert "prefix" in command.run("rm", "--prefix", "", "--yes", status=1)
    assert "keys or" in command.run("rm", status=1)
    assert command.lines("ls") == [{"key": "other"}]


@pytest.mark.parametrize(
    ("value", "quoted"), [("dark", "'\"dark\"'"), ("NaN", "NaN"), ("{'a': 1}", "JSON"), ("", "JSON")]
)
def test_text_that_is_no_json(command: Command, value: str, quoted: str) -> None:
    """A value without quotes is refused, and the remedy shown."""
    told = command.run("set", "k", value, status=1)
    assert "invalid_json" in told
    assert quoted in told


def test_a_mistyped_plugin_is_an_error(command: Command) -> None:
    """The command makes no bucket and no file: a name that is not there is told."""
    wrong = Command(command.url.replace("quotes.sqlite3", "qoutes.sqlite3"), "qoutes")
    for _ in range(2):
        assert "not_provisioned" in wrong.run("ls", status=1)
        assert "not_provisioned" in wrong.run("set", "k", "1", status=1)
    assert "invalid_name" in Command(command.url, "No Plugin").run("ls", status=1)


def test_server_that_is_away(plugin: str) -> None:
    """A server that is not there is told within the timeout, and how it was looked for."""
    told = Command("nats://127.0.0.1:9", plugin).run("ls", status=1)
    assert "unavailable" in told
    assert "127.0.0.1:9" in told


def test_tables_for_people(command: Command) -> None:
    """On a terminal there are tables, and a key cannot move the cursor."""
    command.run("set", "evil\x1b[2J\n[red]", '"[bold]x"')
    shown = command.on_terminal("ls", "--values")
    assert "evil\\x1b[2J\\n[red]" in shown
    assert '"[bold]x"' in shown
    assert "\x1b[2J" not in shown
    assert '{"theme":"light"}' in shown
    assert "4 live keys" in shown
    assert "dark" in command.on_terminal("history", "user:bob")
    assert '"theme": "light"' in command.on_terminal("get", "user:bob")
    assert "Revision" in command.on_terminal("get", "user:bob", "--entry")


async def test_watch(command: Command) -> None:
    """`watch` prints each change at once, one object a line, and ends with Ctrl-C as a success."""
    watching = await asyncio.create_subprocess_exec(
        *command.words("watch", "user:", "--current"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=command.environment,
    )
    assert watching.stdout is not None
    out = watching.stdout

    async def line() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await out.readline())
        return found

    try:
        async with asyncio.timeout(60):
            assert {(await line())["key"] for _ in range(2)} == {"user:bob", "user:zoë"}
            async with Storage.connect(command.plugin, url=command.url) as storage:
                await storage.kv.set("user:new", {"a": 1}, ttl=1)
                await storage.kv.set("other", 2)
                await storage.kv.delete("user:bob")
                changes = [await line() for _ in range(3)]
            watching.send_signal(signal.SIGINT)
            _, err = await watching.communicate()
    finally:
        if watching.returncode is None:
            watching.kill()
            await watching.wait()
    assert [(change["operation"], change["key"]) for change in changes] == [
        ("set", "user:new"),
        ("delete", "user:bob"),
        ("expire", "user:new"),
    ]
    assert changes[0]["value"] == {"a": 1}
    assert "value" not in changes[1]
    assert (watching.returncode, err) == (0, b"")


def test_reader_that_leaves(command: Command) -> None:
    """`… | head -1` leaves no traceback."""
    done = subprocess.run(
        ["bash", "-c", '"$@" | head -1', "sh", *command.words("ls")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=command.environment,
    )
    assert json.loads(done.stdout) == {"key": "other"}
    assert done.stderr == ""
