"""The twin's tables and how a connection to them is opened.

They stand in the plugin's one file beside its rows; `_rosey_…` is no legal table name of a plugin, so
rows cannot reach them.

A record leaves the history (`dropped`) before it leaves the file: a watcher in another process polls, and
what was overwritten between two polls is told all the same.
"""

# ruff: noqa: S608  # statements are put together from this module's own texts; every value is bound

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from rosey_kvstore.errors import Unavailable
from rosey_kvstore.sqlite.faults import translate

__all__ = ["MEMORY", "VERSION", "connect"]

MEMORY = ":memory:"
VERSION = 1

_TABLES = (
    """
    CREATE TABLE _rosey_kv_bucket (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        version INTEGER NOT NULL,
        sequence INTEGER NOT NULL,   -- the last revision given
        used INTEGER NOT NULL,       -- bytes of the records in the history
        lingering INTEGER NOT NULL,  -- bytes of the records dropped from it and not yet removed
        forgotten INTEGER NOT NULL   -- the highest revision removed from the file
    )
    """,
    """
    CREATE TABLE _rosey_kv_records (
        revision INTEGER PRIMARY KEY,
        key TEXT NOT NULL COLLATE BINARY,
        operation TEXT NOT NULL CHECK (operation IN ('set', 'delete', 'expire')),
        data BLOB,
        size INTEGER NOT NULL,
        created INTEGER NOT NULL,    -- nanoseconds since 1970, UTC, as the two below
        expires INTEGER,
        live INTEGER NOT NULL,       -- 1: the newest of its key, and a value
        dropped INTEGER              -- since when it is out of the history
    )
    """,
    "CREATE UNIQUE INDEX _rosey_kv_live ON _rosey_kv_records (key, expires) WHERE live = 1",
    "CREATE INDEX _rosey_kv_kept ON _rosey_kv_records (key, revision) WHERE dropped IS NULL",
    """
    CREATE INDEX _rosey_kv_expiring ON _rosey_kv_records (expires)
    WHERE dropped IS NULL AND expires IS NOT NULL
    """,
    """
    CREATE INDEX _rosey_kv_deleted ON _rosey_kv_records (key, revision)
    WHERE dropped IS NULL AND operation = 'delete'
    """,
    "CREATE INDEX _rosey_kv_dropped ON _rosey_kv_records (dropped) WHERE dropped IS NOT NULL",
    f"INSERT INTO _rosey_kv_bucket VALUES (1, {VERSION}, 0, 0, 0, 0)",
)


def connect(file: str, *, timeout: float) -> sqlite3.Connection:
    """Open `file` (or `:memory:`) for this thread, with the twin's tables in it.

    Args:
        file: The path; its folder is made where it is missing.
        timeout: Seconds to wait for another process that holds the lock.

    Raises:
        Unavailable: The file cannot be used, or a newer release wrote it.
        StorageTimeout: Another process kept it locked.
    """
    if file != MEMORY:
        _make_folder(Path(file).parent)
    try:
        connection = sqlite3.connect(file, timeout=timeout, isolation_level=None)
    except sqlite3.Error as error:
        raise translate(error, file) from error
    try:
        _prepare(connection, file, timeout)
    except sqlite3.Error as error:
        connection.close()
        raise translate(error, file) from error
    except Unavailable:
        connection.close()
        raise
    return connection


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(
            f"The folder {folder} cannot be made ({error.strerror}).",
            hint="Name a data folder that this user may write to.",
        ) from error


def _prepare(connection: sqlite3.Connection, file: str, timeout: float) -> None:
    _use_wal(connection, timeout)
    # As on the bus by default: what was acknowledged survives a killed process, not a power failure.
    connection.execute("PRAGMA synchronous = NORMAL")
    if not _has_tables(connection):
        _make_tables(connection)
    (version,) = connection.execute("SELECT version FROM _rosey_kv_bucket").fetchone()
    if version > VERSION:
        raise Unavailable(
            f"{file} was written by a newer release (KV format {version}, this one reads {VERSION}).",
            hint="Update rosey-storage.",
        )


def _use_wal(connection: sqlite3.Connection, timeout: float) -> None:
    # The change to WAL fails at once, without the busy timeout, when two processes open a new file together.
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _has_tables(connection: sqlite3.Connection) -> bool:
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_rosey_kv_bucket'")
    return found.fetchone() is not None


def _make_tables(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not _has_tables(connection):
            for statement in _TABLES:
                connection.execute(statement)
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
