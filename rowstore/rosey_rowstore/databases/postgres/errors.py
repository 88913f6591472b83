"""What Postgres says, as a fault of the contract: one place for every SQLSTATE."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from psycopg import errors

from rosey_rowstore.databases.base import StaleSchemaError
from rosey_rowstore.databases.failures import internal_fault
from rosey_rowstore.protocol import Fault

__all__ = ["CANCELLED", "CLASSES", "fault_of", "is_stale"]

CANCELLED: Final = "57014"
INDEX_ENTRY: Final = "54000 index"
"""SQLSTATE 54000 of an index; the state alone would say that the statement is too large."""

# Statements are made from a reflection: when they do not fit, the reflection is old.
_STALE: Final = frozenset(
    {
        "0A000",  # feature_not_supported: "cached plan must not change result type"
        "26000",  # invalid_sql_statement_name: a pooler or DISCARD took the prepared statement
        "42703",  # undefined_column
        "42P01",  # undefined_table
        "42804",  # datatype_mismatch: a column changed its type
        "42883",  # undefined_function: an operator that the new type has not
        "42846",  # cannot_coerce
        "42P10",  # invalid_column_reference: the unique index of an upsert is gone
        "428C9",  # generated_always: a column became an identity
    }
)

_UNIQUE_DETAIL: Final = re.compile(r"Key \((?P<columns>.+?)\)=")

# By SQLSTATE where one has a meaning of its own, then by its class (the first two letters).
_BY_STATE: Final[dict[str, tuple[str, str]]] = {
    "22001": ("value_too_large", "A value is longer than {column} takes."),
    "22003": ("out_of_range", "A number is past the range of {column}."),
    "22008": ("out_of_range", "A date or time is past its range."),
    "22012": ("out_of_range", "A division by zero."),
    "22021": ("out_of_range", "A text holds a character that the database cannot store."),
    "22P05": ("out_of_range", "A text holds a character that the database cannot store."),
    "22P02": ("type_mismatch", "A value is not of the type of {column}."),
    "22P03": ("type_mismatch", "A value is not of the type of {column}."),
    "22007": ("type_mismatch", "A value is no date or time."),
    "23502": ("value_required", "The column {column} takes no null."),
    "23505": ("unique_violation", "Another row of {table} has the same {key}."),
    "23503": ("foreign_key_violation", "A reference of {table} does not hold."),
    "23514": ("out_of_range", "A check of {table} ({constraint}) refuses the values."),
    "23P01": ("unique_violation", "An exclusion of {table} ({constraint}) refuses the values."),
    "42P07": ("schema_conflict", "A name that the definition needs is taken by something else."),
    "42701": ("schema_conflict", "A name that the definition needs is taken by something else."),
    "2BP01": ("foreign_key_violation", "Something else still refers to {table}."),
    "23001": ("foreign_key_violation", "A row of {table} is still referenced."),
    "42501": ("permission_denied", "The database does not allow this to the plugin."),
    "53100": ("quota_exceeded", "The database's disk is full."),
    "53300": ("overloaded", "The database has no connection left for the plugin."),
    "53400": ("quota_exceeded", "The statement needs more temporary space than the plugin may use."),
    "54000": ("request_too_large", "The statement is larger than the database takes."),
    INDEX_ENTRY: ("value_too_large", "Texts of {table} are longer than its index {constraint} holds."),
    "54001": ("request_too_large", "The filter nests deeper than the database takes."),
    "55P03": ("timeout", "Another transaction holds the rows for too long; nothing was written."),
    "55006": ("timeout", "Another transaction uses the table; nothing was written."),
    CANCELLED: ("timeout", "The statement was cancelled at its time limit; nothing was written."),
    "57P01": ("unavailable", "The database is stopping."),
    "57P02": ("unavailable", "The database is restarting after a crash."),
    "57P03": ("unavailable", "The database is starting."),
    "57P04": ("unavailable", "The database is gone."),
    "57P05": ("unavailable", "The database closed an idle connection."),
    "25006": ("unavailable", "The database takes no writes at the moment."),
    "40001": ("unavailable", "Other writes were in the way; nothing was written."),
    "40P01": ("unavailable", "Other writes were in the way (a deadlock); nothing was written."),
    "40003": ("unavailable", "Whether the write happened is not known."),
}
CLASSES: Final[dict[str, tuple[str, str]]] = {
    "08": ("unavailable", "The connection to the database failed."),
    "22": ("out_of_range", "A value is impossible for {column}."),
    "23": ("schema_conflict", "A constraint of {table} ({constraint}) refuses the values."),
    "28": ("unavailable", "The database refuses the plugin's login."),
    "40": ("unavailable", "Other writes were in the way; nothing was written."),
    "53": ("unavailable", "The database is out of a resource."),
    "54": ("request_too_large", "The statement passes a limit of the database."),
    "57": ("unavailable", "The database is being stopped or has cancelled the statement."),
    "58": ("unavailable", "The database has trouble with its disk."),
}

_HINTS: Final = {
    "foreign_key_violation": "What is referenced must exist, and is not deleted before what refers to it.",
    "unavailable": "Ask again in a moment.",
    "timeout": "Ask again, or give the call more time.",
    "overloaded": "Ask again in a moment.",
}
_RETRY_AFTER: Final = 0.5


def is_stale(error: errors.Error) -> bool:
    """Whether a statement failed because the schema is not what it was made for."""
    return error.sqlstate in _STALE


def fault_of(error: errors.Error, tables: Sequence[str]) -> Fault:
    """Return the fault that says what Postgres refused, in names of tables and columns alone.

    Raises:
        StaleSchemaError: The statement does not fit the schema any more.
    """
    state = error.sqlstate
    if is_stale(error):
        raise StaleSchemaError(f"{', '.join(tables) or 'the schema'} changed ({state})") from error
    if state is None:
        return Fault("unavailable", "The connection to the database was lost.", hint=_HINTS["unavailable"])
    if state == "54000" and "index row" in (error.diag.message_primary or ""):
        state = INDEX_ENTRY
    known = _BY_STATE.get(state) or CLASSES.get(state[:2])
    if known is None:
        return internal_fault(f"Postgres answered {state}", error)
    code, words = known
    return Fault(
        code,
        words.format_map(_names(error, tables)),
        hint=_HINTS.get(code),
        retry_after=_RETRY_AFTER if code == "overloaded" else None,
    )


def _names(error: errors.Error, tables: Sequence[str]) -> dict[str, str]:
    diagnostic = error.diag
    table = diagnostic.table_name or (tables[0] if len(tables) == 1 else "")
    column = diagnostic.column_name
    found = _UNIQUE_DETAIL.match(diagnostic.message_detail or "")
    key = found["columns"].replace('"', "") if found else (diagnostic.constraint_name or "value")
    return {
        "table": f"the table {table!r}" if table else "the table",
        "column": f"{column!r}" if column else "its column",
        "key": key,
        "constraint": diagnostic.constraint_name or "unnamed",
    }
