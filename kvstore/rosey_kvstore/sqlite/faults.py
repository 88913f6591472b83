"""What SQLite reports, as errors of the one tree; every message names the file."""

from __future__ import annotations

import sqlite3

from rosey_kvstore.errors import InternalError, StorageError, StorageTimeout, Unavailable

__all__ = ["translate"]

# Primary result codes; the extended ones hold more in their upper bytes.
_REASONS = {
    sqlite3.SQLITE_PERM: ("may not be opened", "Check the owner and the mode of the file and of its folder."),
    sqlite3.SQLITE_READONLY: (
        "is read-only, was moved, or stands in a read-only folder",
        "SQLite writes the file and two more beside it: make the folder writable.",
    ),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", "Check that the path is a file in a writable folder."),
    sqlite3.SQLITE_NOTADB: ("is no SQLite database", "Move it away, or name another file."),
    sqlite3.SQLITE_CORRUPT: ("is damaged", "Restore it from a backup, or move it away to begin anew."),
    sqlite3.SQLITE_FULL: ("cannot grow: the disk is full", "Make room on the disk; nothing was written."),
    sqlite3.SQLITE_IOERR: ("cannot be read or written", "The disk reports an error; see the system's log."),
    sqlite3.SQLITE_NOMEM: ("could not be served: memory ran out", "Free memory and call again."),
}


def translate(error: sqlite3.Error, file: str) -> StorageError:
    """Return the coded error that says what SQLite reported of `file`.

    A lock that stayed with another process past the waiting time is `timeout` (nothing was written); a
    file that cannot be used is `unavailable`; anything else is a fault of this package, `internal`.
    """
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if primary in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StorageTimeout(
            f"Another process kept {file} locked past the waiting time; nothing was written.",
            hint="Call again, and look for a program that holds a transaction open on this file.",
        )
    if primary in _REASONS:
        reason, hint = _REASONS[primary]
        return Unavailable(f"{file} {reason} ({error}).", hint=hint)
    return InternalError(f"SQLite refused a statement on {file}: {error}.")
