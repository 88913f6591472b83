"""The demo as a process: what it shows, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rosey_deploy.stack.dev import DevStack

DEMO = Path(__file__).parents[3] / "docs" / "examples" / "quotes" / "demo.py"


def run_demo(settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, DEMO],
        env={**clean_environment(), **settings},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def clean_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ROSEY_")}
    return {**kept, "COLUMNS": "120", "NO_COLOR": "1"}


@pytest.mark.parametrize("mode", ["stack", "local"])
def test_the_demo_shows_what_it_promises(mode, request):
    """Quotes imported, a leaderboard, a search result, a session that expired, both stores side by side."""
    if mode == "stack":
        stack: DevStack = request.getfixturevalue("postgres_stack")
        settings = stack.settings
    else:
        settings = {"ROSEY_STORAGE_URL": "sqlite::memory:"}
    done = run_demo(settings)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = done.stdout
    for words in (
        "6 applied in",
        "stands at 0006; drift: none",
        "253 new from quotations.tsv",
        "once more: 0 new",
        "the score has not moved",
        "best quotes",
        "best authors",
        "search: night (4 a page)",
        "expired on its own",
        "the watch saw set, expire",
        "a guess finds no round",
    ):
        assert words in " ".join(shown.split()), shown
    side_by_side = next(line for line in shown.splitlines() if "KV: bucket plugin_quotes" in line)
    assert "rows: table quotes" in side_by_side
    assert "prefs:alice" in shown
    assert done.stderr == ""


@pytest.mark.slow
def test_the_demo_runs_again_on_kept_data(tmp_path):
    """A second run meets the first one's data and does not fail on it."""
    settings = {"ROSEY_STORAGE_URL": "sqlite:", "ROSEY_STORAGE_DATA": str(tmp_path)}
    assert run_demo(settings).returncode == 0
    again = run_demo(settings)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "0 new from quotations.tsv" in again.stdout


def test_the_demo_fails_with_a_reason():
    """Without a server it says so in one panel, without a traceback, and its status is not 0."""
    done = run_demo({"ROSEY_STORAGE_URL": "nats://127.0.0.1:1", "ROSEY_STORAGE_TIMEOUT": "0.5"})
    assert done.returncode == 1
    assert "unavailable" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_the_demo_stops_on_ctrl_c():
    """SIGINT in the middle of it ends it at once, without a traceback."""
    process = subprocess.Popen(
        [sys.executable, "-u", DEMO],
        env={**clean_environment(), "ROSEY_STORAGE_URL": "sqlite::memory:"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "Who said it?" in line:
                break
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        shown, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "Stopped." in shown
    assert "Traceback" not in shown + errors
