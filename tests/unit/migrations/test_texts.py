"""Statements read as text, and new revisions written as text."""

from __future__ import annotations

import pytest

from rosey_rowstore.migrations import sqltext
from rosey_rowstore.migrations.files import read_chain
from rosey_rowstore.migrations.template import write_revision
from rosey_rowstore.protocol import Fault


@pytest.mark.parametrize(
    "text",
    [
        "COMMIT",
        "  /* sly */ rollback",
        "SELECT 1; end",
        "-- a remark\nBEGIN",
        "START  TRANSACTION",
        "PREPARE TRANSACTION 'x'",
        "ALTER ROLE me PASSWORD 'x'",
        "SELECT $$;$$; abort",
    ],
)
def test_what_ends_a_transaction_is_found(text):
    """Wherever it stands, and whatever stands around it."""
    assert sqltext.forbidden(text)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 'x; COMMIT'",
        'SELECT ";commit"',
        "SELECT $a$; COMMIT $a$",
        "SELECT E'\\'; COMMIT'",
        "-- COMMIT",
        "/* ; ROLLBACK */ SELECT 1",
        "ROLLBACK TO SAVEPOINT a",
        "SELECT commit FROM logs",
    ],
)
def test_what_only_looks_like_it_passes(text):
    """Text, names, remarks and savepoints end nothing."""
    assert sqltext.forbidden(text) is None


@pytest.mark.parametrize(
    ("text", "loses"),
    [
        ("DROP TABLE a", True),
        ("TRUNCATE a", True),
        ("ALTER TABLE a DROP COLUMN b", True),
        ("ALTER TABLE a DROP b", True),
        ("ALTER TABLE a ALTER b TYPE int", True),
        ("ALTER TABLE a DROP CONSTRAINT b", False),
        ("ALTER TABLE a ALTER b DROP DEFAULT", False),
        ("ALTER TABLE a ALTER b DROP NOT NULL", False),
        ("DROP INDEX CONCURRENTLY a", False),
        ("CREATE INDEX CONCURRENTLY a ON b (c)", False),
    ],
)
def test_what_a_statement_loses_is_seen(text, loses):
    """It is all there is to go by where nothing can be undone."""
    assert bool(sqltext.destroys(text)) is loses


def test_new_revisions_continue_the_chain(tmp_path):
    """Each follows the last, is numbered on, and is a file that can be read."""
    first = write_revision(tmp_path, 'add "scores".')
    second = write_revision(tmp_path, "x" * 90)
    assert [first.name, second.name] == ["0001_add_scores.py", f"0002_{'x' * 40}.py"]
    chain = read_chain(tmp_path)
    assert [revision.revision for revision in chain.revisions] == ["0001", "0002"]
    assert chain.revisions[0].message == "Add 'scores'."


@pytest.mark.parametrize("message", ["", "  ", "..."])
def test_a_revision_has_a_message(tmp_path, message):
    """What it does has to be said."""
    with pytest.raises(Fault, match="no message"):
        write_revision(tmp_path, message)
