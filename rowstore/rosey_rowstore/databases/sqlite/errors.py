"""What SQLite says, as a fault of the contract: one place for every result code."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from typing import Final

from rosey_rowstore.databases.base import StaleSchemaError
from rosey_rowstore.databases.failures import internal_fault
from rosey_rowstore.protocol import Fault

__all__ = ["PRIMARY_CODES", "busy_fault", "fault_of", "is_interrupt"]

_COLUMNS: Final = re.compile(r"constraint failed: (?P<columns>.+)")
_INDEX: Final = re.compile(r"constraint failed: index '(?P<index>.+)'")
_STALE: Final = re.compile(r"no such (table|column)|has no column named|ON CONFLICT clause does not match")
_TOO_LARGE: Final = re.compile(
    r"too many (SQL )?variables|Expression tree is too large|parser stack overflow|too big"
)
_TAKEN: Final = re.compile(r"already (exists|another)|already a table named|duplicate column name")
_RANGE: Final = re.compile(r"integer overflow|out of range|too large to convert")

# By extended result code, then by primary code. Names as in sqlite3.h.
_BY_NAME: Final[dict[str, tuple[str, str]]] = {
    "SQLITE_CONSTRAINT_UNIQUE": ("unique_violation", "Another row of {table} has the same {columns}."),
    "SQLITE_CONSTRAINT_PRIMARYKEY": ("unique_violation", "Another row of {table} has the same {columns}."),
    "SQLITE_CONSTRAINT_ROWID": ("unique_violation", "Another row of {table} has the same {columns}."),
    "SQLITE_CONSTRAINT_NOTNULL": ("value_required", "The column {columns} takes no null."),
    "SQLITE_CONSTRAINT_FOREIGNKEY": ("foreign_key_violation", "A reference of {table} does not hold."),
    "SQLITE_CONSTRAINT_CHECK": ("out_of_range", "A check of {table} ({columns}) refuses the values."),
    "SQLITE_CONSTRAINT_TRIGGER": ("schema_conflict", "A trigger of {table} refuses the values."),
    "SQLITE_CONSTRAINT_DATATYPE": ("type_mismatch", "A value of {table} is not of the type of its column."),
}
PRIMARY_CODES: Final[dict[int, tuple[str, str]]] = {
    sqlite3.SQLITE_PERM: ("unavailable", "The database file may not be opened."),
    sqlite3.SQLITE_ABORT: ("unavailable", "The statement was stopped; nothing was written."),
    sqlite3.SQLITE_BUSY: ("timeout", "Another connection holds the database file; nothing was written."),
    sqlite3.SQLITE_LOCKED: ("timeout", "Another connection holds the table; nothing was written."),
    sqlite3.SQLITE_NOMEM: ("unavailable", "The database is out of memory."),
    sqlite3.SQLITE_READONLY: ("unavailable", "The database file takes no writes."),
    sqlite3.SQLITE_INTERRUPT: ("timeout", "The time was over; nothing was written."),
    sqlite3.SQLITE_IOERR: ("unavailable", "The database has trouble with its disk."),
    sqlite3.SQLITE_CORRUPT: ("unavailable", "The database file is damaged."),
    sqlite3.SQLITE_FULL: ("quota_exceeded", "The database's disk is full."),
    sqlite3.SQLITE_CANTOPEN: ("unavailable", "The database file cannot be opened."),
    sqlite3.SQLITE_TOOBIG: ("request_too_large", "A value is larger than the database takes."),
    sqlite3.SQLITE_CONSTRAINT: ("schema_conflict", "A constraint of {table} refuses the values."),
    sqlite3.SQLITE_MISMATCH: ("type_mismatch", "A value of {table} is not of the type of its column."),
    sqlite3.SQLITE_NOLFS: ("quota_exceeded", "The database file is as large as this system allows."),
    sqlite3.SQLITE_NOTADB: ("unavailable", "The database file is no SQLite database."),
}
_HINTS: Final = {
    "foreign_key_violation": "What is referenced must exist, and is not deleted before what refers to it.",
    "unavailable": "Ask again in a moment; if it stays so, look at the file and its disk.",
    "timeout": "Ask again, or give the call more time.",
}


def is_interrupt(error: sqlite3.Error) -> bool:
    """Whether the statement was stopped at its deadline."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT


def busy_fault() -> Fault:
    """Return the fault of a file that others hold."""
    code, words = PRIMARY_CODES[sqlite3.SQLITE_BUSY]
    return Fault(code, words, hint=_HINTS[code])


def fault_of(error: Exception, tables: Sequence[str]) -> Fault:
    """Return the fault that says what SQLite refused, in names of tables and columns alone.

    Raises:
        StaleSchemaError: The statement does not fit the schema any more.
    """
    if isinstance(error, Fault):
        return error
    text = str(error)
    if isinstance(error, sqlite3.OperationalError) and _STALE.search(text):
        raise StaleSchemaError(f"{', '.join(tables) or 'the schema'} changed") from error
    if isinstance(error, OverflowError) or _RANGE.search(text):
        return Fault("out_of_range", "A number is past the range of its column.")
    if _TAKEN.search(text):
        return Fault("schema_conflict", "A name that the definition needs is taken by something else.")
    if _TOO_LARGE.search(text):
        return Fault("request_too_large", "The statement is larger than the database takes.")
    name = getattr(error, "sqlite_errorname", "")
    known = _BY_NAME.get(name) or PRIMARY_CODES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    if known is None:
        return internal_fault(f"SQLite answered {name or type(error).__name__}", error)
    code, words = known
    return Fault(code, words.format_map(_names(text, tables)), hint=_HINTS.get(code))


def _names(text: str, tables: Sequence[str]) -> dict[str, str]:
    table = tables[0] if len(tables) == 1 else ""
    columns = "value"
    if index := _INDEX.search(text):
        columns = index["index"]
    elif found := _COLUMNS.search(text):
        places = [place.rpartition(".") for place in found["columns"].split(", ")]
        table = places[0][0] or table
        columns = ", ".join(column for _, _, column in places)
    return {"table": f"the table {table!r}" if table else "the table", "columns": columns}
