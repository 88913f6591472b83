"""`rosey-storage health`: what it asks, and how it reads the answer."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rosey_deploy.probe import _place, _words, ask


@pytest.mark.parametrize(
    ("url", "address", "place"),
    [
        (None, "127.0.0.1:8080", ("127.0.0.1", 8080, "/readyz")),
        (None, "0.0.0.0:81", ("127.0.0.1", 81, "/readyz")),
        (None, "[::]:81", ("::1", 81, "/readyz")),
        ("http://db:9/healthz", "0.0.0.0:81", ("db", 9, "/healthz")),
        ("http://db", None, ("db", 80, "/readyz")),
        ("http://[::1]:9/", None, ("::1", 9, "/readyz")),
    ],
)
def test_what_is_asked(url: str | None, address: str | None, place: tuple[str, int, str]) -> None:
    """The URL counts before the setting; what is listened on everywhere is asked on this machine."""
    assert _place(url, address) == place


@pytest.mark.parametrize(
    ("url", "address", "words"),
    [
        (None, None, "ROSEY_STORAGE_HEALTH"),
        (None, "", "give a URL"),
        (None, "127.0.0.1", "cannot be asked"),
        (None, "127.0.0.1:0", "cannot be asked"),
        ("https://h/readyz", None, "https://h/readyz cannot be asked"),
        ("127.0.0.1:8080", None, "cannot be asked"),
        ("http://h:99999", None, "cannot be asked"),
    ],
)
def test_what_cannot_be_asked_is_told(
    url: str | None, address: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that names what is wrong and how it should read."""
    monkeypatch.setenv("ROSEY_STORAGE_HEALTH", address or "")
    ready, line = ask(url, 1)
    assert not ready
    assert words in line


@pytest.mark.parametrize(
    ("status", "body", "line"),
    [
        (200, b'{"status": "ready"}', "ready"),
        (
            503,
            b'{"status": "unavailable", "missing": {"nats": "Gone.", "database": "Gone too."}}',
            "unavailable: nats: Gone. database: Gone too.",
        ),
        (404, b"<html>", "the answer has the status 404 and is none of the row service's"),
        (200, b"[]", "the answer has the status 200 and is none of the row service's"),
    ],
)
def test_how_an_answer_reads(status: int, body: bytes, line: str) -> None:
    """What is missing stands in the line that `docker inspect` shows."""
    assert _words(status, body) == line


def test_nobody_there(unused_tcp_port: int) -> None:
    """A service that does not run is not ready, and no traceback says so."""
    ready, line = ask(f"http://127.0.0.1:{unused_tcp_port}/readyz", 1)
    assert not ready
    assert line.startswith(f"no answer from 127.0.0.1:{unused_tcp_port}: ")


def test_a_probe_loads_the_standard_library_alone() -> None:
    """It runs every few seconds beside the service: no client, no command line library is loaded for it."""
    code = (
        "import sys; sys.argv = ['rosey-storage', 'health', 'http://127.0.0.1:1/readyz']\n"
        "from rosey_deploy.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert ended.code == 1\n"
        "heavy = {'typer', 'rich', 'attrs', 'nats', 'asyncio', 'rosey_kvstore', 'rosey_rowstore'}\n"
        "found = heavy & {*sys.modules}\n"
        "assert not found, found\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no answer from 127.0.0.1:1")
