"""One SQLite connection as the engine needs it, and the deadline of what runs on it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rosey_rowstore.engine import sqlite_functions
from rosey_rowstore.engine.model import Result, Statement

__all__ = ["REPLIES_DDL", "FileConnection"]

_STEPS_BETWEEN_LOOKS: Final = 10_000
_STATEMENTS_KEPT: Final = 512
_BUSY_MILLISECONDS: Final = 2_000

_WAL_PAUSE: Final = 0.02
REPLIES_DDL: Final = (
    (
        "CREATE TABLE IF NOT EXISTS _rosey_replies"
        " (id TEXT PRIMARY KEY, digest BLOB NOT NULL, reply BLOB NOT NULL, at REAL NOT NULL) WITHOUT ROWID"
    ),
    "CREATE INDEX IF NOT EXISTS _rosey_replies_at ON _rosey_replies (at)",
)


class FileConnection:
    """A connection that one thread uses; statements past `deadline` are stopped.

    Args:
        path: The file, None for a database in memory.
        read_only: Refuse writes.
    """

    def __init__(self, path: Path | None, *, read_only: bool = False) -> None:
        self.deadline = float("inf")
        # No transactions but ours: the module's own would leave a table without its version row.
        self.raw = sqlite3.connect(
            ":memory:" if path is None else str(path),
            isolation_level=None,
            check_same_thread=False,
            cached_statements=_STATEMENTS_KEPT,
        )
        try:
            self._busy = 0
            self.wait_for_lock(_BUSY_MILLISECONDS / 1000)
            self.raw.execute("PRAGMA foreign_keys = ON")
            self.raw.execute("PRAGMA synchronous = NORMAL")
            if path is not None and not read_only:
                self._use_wal()
            if read_only:
                self.raw.execute("PRAGMA query_only = ON")
            self._faults = sqlite_functions.register(self.raw)
            self.raw.set_progress_handler(self._overdue, _STEPS_BETWEEN_LOOKS)
        except BaseException:
            self.raw.close()
            raise

    def _use_wal(self) -> None:
        """Turn a new file to WAL; of several processes at once SQLite refuses some without waiting."""
        give_up = time.monotonic() + _BUSY_MILLISECONDS / 1000
        while True:
            try:
                self.raw.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                    raise
                time.sleep(_WAL_PAUSE)
            else:
                return

    def _overdue(self) -> bool:
        return time.monotonic() > self.deadline

    def wait_for_lock(self, seconds: float) -> None:
        """Wait so long for others that hold the file, and no longer."""
        milliseconds = max(1, min(int(seconds * 1000), _BUSY_MILLISECONDS))
        if milliseconds != self._busy:
            self._busy = milliseconds
            self.raw.execute(f"PRAGMA busy_timeout = {milliseconds}")

    def schema_version(self) -> int:
        """Return the number that every change of the schema moves, whoever makes it."""
        version: int = self.raw.execute("PRAGMA schema_version").fetchone()[0]
        return version

    def run(self, statement: Statement) -> Result:
        """Run one statement to its end.

        Raises:
            Fault: What a function of the engine refused; SQLite itself says only that one raised.
        """
        try:
            cursor = self.raw.execute(statement.sql, statement.parameters)
            rows = cursor.fetchall()
        except sqlite3.OperationalError as error:
            fault = self._faults.take()
            if fault is None:
                raise
            raise fault from error
        return Result(rows, cursor.rowcount if cursor.rowcount >= 0 else len(rows))

    def run_all(self, statements: Sequence[Statement]) -> list[Result]:
        """Run statements in their order."""
        return [self.run(statement) for statement in statements]

    def roll_back(self) -> None:
        """Undo what is open; SQLite may have done so by itself."""
        if self.raw.in_transaction:
            self.raw.execute("ROLLBACK")

    def close(self) -> None:
        """Let go of the file."""
        self.raw.close()
