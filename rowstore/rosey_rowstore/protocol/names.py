"""What a plugin, table, column or index may be called, and the nearest name to a wrong one."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable
from typing import Final

from rosey_rowstore.protocol.codes import Fault

__all__ = ["check_identifier", "check_plugin", "nearest", "owned_name"]

_PLUGIN: Final = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,46}[a-z0-9])?")
_LONGEST_MISSPELT: Final = 200
_IDENTIFIER: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")


@functools.lru_cache(maxsize=1024)
def check_plugin(name: str) -> str:
    """Return `name` when a plugin may be called so.

    Raises:
        Fault: `invalid_name`.
    """
    if not isinstance(name, str) or not _PLUGIN.fullmatch(name):
        raise Fault(
            "invalid_name",
            f"{name!r} is no plugin name.",
            hint="1 to 48 of a-z, 0-9, _ and -, beginning and ending with a letter or digit.",
        )
    return name


def check_identifier(name: str, kind: str, path: str | None = None) -> str:
    """Return `name` when a table, column or index (the `kind`, for the message) may be called so.

    Raises:
        Fault: `invalid_name`. Names beginning with `sqlite_` are refused everywhere, because SQLite
            keeps them for itself and both databases give the same answer.
    """
    if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name) or name.startswith("sqlite_"):
        raise Fault(
            "invalid_name",
            f"{name!r} is no {kind} name.",
            path=path,
            hint="1 to 63 of a-z, 0-9 and _, beginning with a letter, and not with sqlite_.",
        )
    return name


def owned_name(plugin: str) -> str:
    """Return the one name of what a plugin owns: its bucket, schema, role and account."""
    return f"plugin_{plugin}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name nearest to a misspelt one, or None when none is near."""
    if len(name) > _LONGEST_MISSPELT:  # comparing a megabyte would hold up everyone for half a second
        return None
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None
