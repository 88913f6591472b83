"""Every letter there is: both databases fold and order text alike."""

from __future__ import annotations

import psycopg
import pytest

from rosey_rowstore.engine.texts import fold

LETTERS = [chr(code) for code in range(1, 0x110000) if not 0xD800 <= code < 0xE000]


@pytest.fixture
def connection(postgres_database: str):
    """A plain session on the database that the embedded server makes."""
    with psycopg.connect(postgres_database) as connection:
        yield connection


def test_postgres_folds_as_the_engine_does(connection: psycopg.Connection) -> None:
    """`lower` of Postgres and the function that SQLite is given agree on every code point."""
    rows = connection.execute("SELECT c, lower(c) FROM unnest(%s::text[]) c WHERE c <> lower(c)", (LETTERS,))
    on_postgres = dict(rows.fetchall())
    here = {letter: folded for letter in LETTERS if (folded := fold(letter)) != letter}
    assert len(here) > 1000
    assert here == on_postgres


def test_postgres_orders_by_code_point(connection: psycopg.Connection) -> None:
    """Sorted text stands as Python, and SQLite, sort it."""
    words = [*"aAzZéÉ_-. 1", "aa", "Aa", "ß", "ss", "日本", "𝄞", "\ufffd", "ﬀ"]
    rows = connection.execute("SELECT w FROM unnest(%s::text[]) w ORDER BY w", (words,)).fetchall()
    assert [word for (word,) in rows] == sorted(words)
