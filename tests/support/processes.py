"""Looking at processes from outside."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path


def alive(pid: int) -> bool:
    """Say whether a process runs; one that only waits to be collected does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return Path("/proc/self").exists() is False


def wait_gone(pids: Iterable[int], *, seconds: float = 30.0) -> None:
    """Return once none of these processes runs; `AssertionError` when one stays."""
    deadline = time.monotonic() + seconds
    left = [pid for pid in pids if alive(pid)]
    while left:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.05)
        left = [pid for pid in left if alive(pid)]
