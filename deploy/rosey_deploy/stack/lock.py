"""One development stack per data folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from rosey_kvstore.errors import Unavailable

__all__ = ["hold_folder"]


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Keep `folder` for this process; the system lets go of it however the process ends.

    Raises:
        Unavailable: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "dev.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            who = f" (pid {holder})" if holder else ""
            raise Unavailable(
                f"Another `rosey-storage dev`{who} runs on the data folder {folder}.",
                hint="Stop it, or give another folder with --data.",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
