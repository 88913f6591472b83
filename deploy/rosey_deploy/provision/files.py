"""Secrets on disk: whole or not there, for their owner alone, written by one command at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from rosey_kvstore.errors import InvalidRequest, PermissionDenied, Unavailable

__all__ = ["hold", "private_folder", "read_secret", "write_private"]


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner may enter, and return it.

    Raises:
        PermissionDenied: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise PermissionDenied(f"The folder {path} cannot be made: {error.strerror}.") from error
    return path


def write_private(path: Path, content: str, *, mode: int = 0o600) -> None:
    """Write a file whole or not at all; it never exists with a wider mode, or half.

    Raises:
        PermissionDenied: It cannot be written.
    """
    private_folder(path.parent) if mode == 0o600 else path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.chmod(mode)  # the umask, or a file that a crash left, may say otherwise
        _keep_owner(path, unfinished)
        unfinished.replace(path)
    except OSError as error:
        raise PermissionDenied(f"{path} cannot be written: {error.strerror}.") from error


def _keep_owner(path: Path, successor: Path) -> None:
    """Let a file stay with whom root gave it to: a container's user reads it."""
    if os.geteuid() == 0 and path.exists():
        found = path.stat()
        os.chown(successor, found.st_uid, found.st_gid)


def read_secret(path: Path) -> str | None:
    """Return a file's text, None when there is none.

    Raises:
        InvalidRequest: It is there and cannot be read, or others than its owner may read it.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {getattr(error, 'strerror', error)}.") from error
    if mode & 0o077:
        raise InvalidRequest(
            f"{path} may be read by others than its owner.",
            hint=f"chmod 600 {path}; where others could read it until now, rotate what it holds.",
        )
    return text


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep `folder` for this process: one provisions at a time; a killed one lets go of it.

    Raises:
        Unavailable: Another command holds it.
    """
    descriptor = os.open(private_folder(folder) / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(
                f"Another command changes what belongs to {folder} at this moment.",
                hint="Wait until it has ended, and try again.",
            ) from None
        for left in folder.rglob(".*.[0-9]*"):  # of a command that was killed while it wrote
            left.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)
