"""Every error of both databases is a fault of the contract, and shows nothing of the inside."""

from __future__ import annotations

import sqlite3

import pytest
from psycopg import errors

from rosey_rowstore.databases.base import StaleSchemaError
from rosey_rowstore.databases.postgres.errors import fault_of as postgres_fault
from rosey_rowstore.databases.sqlite.errors import PRIMARY_CODES
from rosey_rowstore.databases.sqlite.errors import fault_of as sqlite_fault
from rosey_rowstore.protocol import ERROR_NUMBERS, Fault

STATES = sorted(errors._sqlcodes)
# What data, load or an outage can bring about; everything else is a fault of the service's own statements.
EXPECTED_CLASSES = ("08", "22", "23", "28", "40", "53", "54", "57", "58")
SECRET = "SELECT secret FROM plugin_other.t"


def answer(state: str) -> Fault | StaleSchemaError:
    try:
        return postgres_fault(errors.lookup(state)(SECRET), ["quotes"])
    except StaleSchemaError as stale:
        return stale


@pytest.mark.parametrize("state", STATES)
def test_every_sqlstate(state: str) -> None:
    """Every SQLSTATE that psycopg knows has a code of the contract and tells no statement."""
    found = answer(state)
    if isinstance(found, Fault):
        assert found.code in ERROR_NUMBERS
        assert "secret" not in f"{found.message} {found.hint}"
        if state[:2] in EXPECTED_CLASSES:
            assert found.code != "internal"


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("23505", "unique_violation"),
        ("23503", "foreign_key_violation"),
        ("23502", "value_required"),
        ("22003", "out_of_range"),
        ("22001", "value_too_large"),
        ("57014", "timeout"),
        ("55P03", "timeout"),
        ("53300", "overloaded"),
        ("57P01", "unavailable"),
        ("42501", "permission_denied"),
        ("42601", "internal"),
    ],
)
def test_chosen_codes(state: str, code: str) -> None:
    """The errors that a plugin meets have the codes that it expects."""
    found = answer(state)
    assert isinstance(found, Fault)
    assert found.code == code


@pytest.mark.parametrize("state", ["0A000", "42703", "42P01", "42804", "26000"])
def test_stale_schema(state: str) -> None:
    """What an old reflection causes is tried again, not told."""
    assert isinstance(answer(state), StaleSchemaError)


def test_overloaded_says_when() -> None:
    """A busy database gives a time to wait."""
    found = answer("53300")
    assert isinstance(found, Fault)
    assert found.retry_after


def test_every_sqlite_result() -> None:
    """Every primary result code that data, load or an outage can cause has a code of the contract."""
    for number, (code, _) in PRIMARY_CODES.items():
        error = sqlite3.OperationalError(SECRET)
        error.sqlite_errorcode = number  # type: ignore[misc]
        error.sqlite_errorname = "SQLITE_X"  # type: ignore[misc]
        found = sqlite_fault(error, ["quotes"])
        assert (found.code, "secret" in found.message) == (code, False)


@pytest.mark.parametrize(
    ("statement", "code", "words"),
    [
        ("INSERT INTO t (a, b) VALUES (1, 2)", "unique_violation", "the table 't' has the same a"),
        ("INSERT INTO t (a, b) VALUES (5, NULL)", "value_required", "b takes no null"),
        ("INSERT INTO t (a, b, c) VALUES (5, 5, 9)", "foreign_key_violation", "the table 't'"),
        ("INSERT INTO t (a, b, d) VALUES (5, 5, -1)", "out_of_range", "the table 't'"),
    ],
)
def test_sqlite_names_the_column(statement: str, code: str, words: str) -> None:
    """A refusal of SQLite names table and column, and no statement."""
    connection = sqlite3.connect(":memory:")
    connection.executescript(
        "PRAGMA foreign_keys = ON; CREATE TABLE p (id INTEGER PRIMARY KEY);"
        "CREATE TABLE t (a INT UNIQUE, b INT NOT NULL, c INT REFERENCES p (id), d INT CHECK (d > 0));"
        "INSERT INTO t (a, b) VALUES (1, 1)"
    )
    with pytest.raises(sqlite3.Error) as caught:
        connection.execute(statement)
    connection.close()
    found = sqlite_fault(caught.value, ["t"])
    assert found.code == code
    assert words in found.message
    assert "INSERT" not in found.message


def test_sqlite_schema_changed() -> None:
    """A table that is gone is a stale plan, not an error to tell."""
    connection = sqlite3.connect(":memory:")
    with pytest.raises(sqlite3.Error) as caught:
        connection.execute("SELECT * FROM gone")
    connection.close()
    with pytest.raises(StaleSchemaError):
        sqlite_fault(caught.value, ["gone"])
