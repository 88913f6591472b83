"""Two snapshots of a schema compared."""

from __future__ import annotations

import pytest

from rosey_rowstore.migrations.differences import destroyed, drift
from rosey_rowstore.migrations.snapshot import ColumnState, Snapshot, TableState


def schema(kind: str, *, number: int | None = None, name: str = "a", table: str = "t") -> Snapshot:
    column = ColumnState(type=kind, nullable=True, number=number)
    return Snapshot(tables={table: TableState(columns={name: column}, number=number)})


@pytest.mark.parametrize(
    ("old", "new", "narrows"),
    [
        ("character varying(40)", "character varying(80)", False),
        ("character varying(40)", "character varying", False),
        ("VARCHAR(40)", "VARCHAR(39)", True),
        ("character varying(40)", "text", False),
        ("text", "character varying(40)", True),
        ("integer", "bigint", False),
        ("bigint", "integer", True),
        ("BIGINT", "SMALLINT", True),
        ("numeric(10,2)", "numeric(12,2)", False),
        ("numeric(10,2)", "numeric(10,4)", True),
        ("numeric(10,2)", "numeric", False),
        ("numeric", "numeric(10,2)", True),
        ("DECIMAL_TEXT(10, 2)", "DECIMAL_TEXT", False),
        ("DECIMAL_TEXT", "DECIMAL_TEXT(10, 2)", True),
        ("integer", "numeric", False),
        ("real", "double precision", False),
        ("double precision", "real", True),
        ("timestamp without time zone", "timestamp with time zone", False),
        ("timestamp with time zone", "date", True),
        ("jsonb", "json", False),
        ("json", "jsonb", True),
        ("uuid", "text", False),
        ("boolean", "integer", True),
    ],
)
def test_narrower_is_what_does_not_hold_every_value(old, new, narrows):
    """A type that holds all that was there is none."""
    found = destroyed(schema(old), schema(new))
    assert found == ([f"narrows t.a from {old} to {new}"] if narrows else [])


def test_a_new_thing_of_an_old_name_is_another():
    """Numbers tell a rename from a loss."""
    assert destroyed(schema("text", number=1), schema("text", number=1, name="b", table="u")) == []
    assert destroyed(schema("text", number=1), schema("text", number=2)) == ["drops the table 't'"]


def test_drift_is_told_in_sentences():
    """What is gone, what is new, and what is another."""
    made = Snapshot(tables={**schema("text").tables, **schema("text", table="old").tables})
    found = Snapshot(tables={**schema("integer").tables, **schema("text", table="new").tables})
    assert drift(made, found) == [
        "The table 'new' was not made by a migration.",
        "The table 'old' is gone.",
        "The column t.a has the type integer instead of text.",
    ]
    assert drift(made, made) == []


def test_a_snapshot_survives_being_kept():
    """What is written into the records is read back the same."""
    made = schema("text", number=3)
    assert Snapshot.load(made.dump()) == made
