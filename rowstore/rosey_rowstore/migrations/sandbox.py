"""What a revision's code cannot do, whatever it tries: the child goes in before it runs any of it.

Three layers, each of which holds where the one above does not exist: the kernel's (system calls, files,
resources), the database's (the owner's login), and Python's own audit events, which give the clear words.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import os
import resource
import signal
import sys
import sysconfig
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from rosey_rowstore.migrations.landlock import restrict_files
from rosey_rowstore.migrations.seccomp import install_filter, supported

__all__ = ["MEMORY_BYTES", "end_with_parent", "enter", "hide_process"]

MEMORY_BYTES: Final = 512 * 1024 * 1024
"""What a revision may use beside what the libraries took."""

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_CAPABILITY_VERSION: Final = 0x20080522
_CPU_GRACE: Final = 10
_PACKAGES: Final = (
    "rosey_rowstore",
    "sqlalchemy",
    "alembic",
    "psycopg",
    "psycopg_binary",
    "attrs",
    "attr",
    "cattrs",
)
_SHARED: Final = ("/usr/share/zoneinfo", "/etc/localtime", "/dev/null", "/dev/urandom")
_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_REFUSED: Final = {
    "socket.": "use the network",
    "subprocess.": "start a program",
    "os.exec": "start a program",
    "os.fork": "start a process",
    "os.forkpty": "start a process",
    "os.posix_spawn": "start a program",
    "os.system": "start a program",
    "os.kill": "signal a process",
    "signal.pthread_kill": "signal a process",
    "pty.spawn": "start a program",
    "ctypes.": "call into C",
    "_thread.start_new_thread": "start a thread",
    "sqlite3.connect": "open another database",
    "sqlite3.enable_load_extension": "load an extension",
    "sqlite3.load_extension": "load an extension",
}


def hide_process() -> None:
    """Close this process's memory and environment to other processes of the same user (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def end_with_parent(parent: int) -> None:
    """End this process when its parent ends, however that happens.

    Args:
        parent: The parent's process id; when it is gone already, this process ends at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
    else:
        threading.Thread(target=_watch_stdin, args=(os.dup(0),), daemon=True).start()


def _watch_stdin(watched: int) -> None:
    """Where the kernel does not tell: the parent holds the other end of stdin as long as it lives."""
    while os.read(watched, 4096):
        pass
    os._exit(1)


def enter(*, seconds: float, writes_files: bool) -> list[str]:
    """Go in; return the layers that this system has.

    Args:
        seconds: Processor time that may be used.
        writes_files: The database is a file of this process (SQLite), so that files may grow.

    Raises:
        OSError: The kernel should have a layer and refused it.
    """
    layers = ["limits"]
    readable = _readable()
    _limit(seconds, writes_files=writes_files)
    if sys.platform == "linux":
        _drop_capabilities()
        if restrict_files(readable):
            layers.append("landlock")
        if supported():
            install_filter()
            layers.append("seccomp")
    sys.addaudithook(_audit([os.path.realpath(path) + os.sep for path in readable]))
    return [*layers, "audit"]


def _readable() -> list[Path]:
    """Return the folders of Python's library and of the packages that a revision may import."""
    folders = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            folders.add(Path(spec.origin).parent)
    folders |= {Path(sys.base_prefix) / "lib", Path("/usr/lib"), Path("/lib"), Path("/lib64")}
    return sorted(
        {folder.resolve() for folder in folders if folder.exists()} | {Path(path) for path in _SHARED}
    )


def _limit(seconds: float, *, writes_files: bool) -> None:
    processor = math.ceil(seconds) + _CPU_GRACE
    limits = [
        (resource.RLIMIT_CPU, processor),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_NPROC, 0),
    ]
    if not writes_files:
        limits.append((resource.RLIMIT_FSIZE, 0))
    taken = _address_space()
    if taken is not None:
        limits.append((resource.RLIMIT_AS, taken + MEMORY_BYTES))
    for name, value in limits:
        _, hard = resource.getrlimit(name)
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (most, most))


def _address_space() -> int | None:
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    except OSError:
        return None  # no Linux: its kernels do not hold this limit anyway
    return pages * resource.getpagesize()


def _drop_capabilities() -> None:
    """Give up what root has beside the files it owns, and every way to get it back."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs was refused")
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if libc.capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "the capabilities could not be given up")


def _audit(readable: list[str]) -> Callable[[str, tuple[Any, ...]], None]:
    prefixes = tuple(readable)
    # Bound here: a revision may replace what the modules hold, not what this function closed over.
    realpath, refused, text, join = os.path.realpath, tuple(_REFUSED.items()), os.fsdecode, os.sep
    kinds, writes = (str, bytes, os.PathLike), _WRITES

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, kinds):
                return  # a descriptor that is open already
            if (flags or 0) & writes or not (realpath(text(path)) + join).startswith(prefixes):
                raise PermissionError(f"A migration may not open the file {text(path)!r}.")
        elif event.startswith(
            ("socket.", "subprocess.", "os.", "ctypes.", "_thread.", "sqlite3.", "signal.", "pty.")
        ):
            for name, what in refused:
                if event.startswith(name):
                    raise PermissionError(f"A migration may not {what} ({event}).")

    return hook
