"""The files that the child may still open, held by the kernel (Landlock, Linux 5.13 and later)."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["restrict_files"]

# The same numbers on every architecture.
_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_PATH_BENEATH: Final = 1
_READ: Final = 1 << 2 | 1 << 3  # files and folders
_READ_FILE: Final = 1 << 2
# Rights that each version of the interface knows: the figures are of linux/landlock.h.
_FILE_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NETWORK: Final = 0b11  # bind and connect
_SCOPES: Final = 0b11  # abstract sockets, and signals to processes outside


def restrict_files(readable: Iterable[Path]) -> bool:
    """Let this process read beneath `readable` and open nothing else; False where there is no Landlock.

    Raises:
        OSError: The kernel has it and refused.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE, None, 0, 1)
    if version < 1:
        return False
    ruleset = _checked(libc, _CREATE, *_attributes(version), 0)
    try:
        for path in readable:
            _allow(libc, ruleset, path)
        _checked(libc, _RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)
    return True


def _attributes(version: int) -> tuple[bytes, int]:
    rights = (1 << _FILE_RIGHTS[min(version, max(_FILE_RIGHTS))]) - 1
    packed = struct.pack("=QQQ", rights, _NETWORK if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    return packed, 24 if version >= 6 else 16 if version >= 4 else 8


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there need not be allowed
    try:
        rights = _READ if path.is_dir() else _READ_FILE
        _checked(libc, _ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, opened), 0)
    finally:
        os.close(opened)


def _checked(libc: ctypes.CDLL, number: int, *arguments: int | bytes) -> int:
    result: int = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "Landlock refused")
    return result
