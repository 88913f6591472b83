"""Text as both databases see it: folding letter by letter, patterns, and where they are refused."""

from __future__ import annotations

import re
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosey_rowstore.engine.texts import (
    LONGEST_PATTERN,
    check_pattern,
    check_text,
    escape_like,
    fold,
    glob_from_like,
)
from rosey_rowstore.protocol import Fault

PATTERNS = st.text(alphabet="ab%_*?[]^-\\é𝄞", max_size=8)


def like(pattern: str, text: str) -> bool:
    parts = re.findall(r"\\.|[^\\]", pattern, re.DOTALL)
    regex = "".join(".*" if part == "%" else "." if part == "_" else re.escape(part[-1]) for part in parts)
    return re.fullmatch(regex, text, re.DOTALL) is not None


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("ABC", "abc"),
        ("ÄÖÜ", "äöü"),
        ("ΑΣ", "ασ"),
        ("İ", "i"),
        ("ẞ", "ß"),
        ("ß", "ß"),
        ("\U00010d50", "\U00010d70"),
    ],
)
def test_folding(text: str, folded: str) -> None:
    """Each letter becomes one letter, wherever it stands."""
    assert fold(text) == folded


@given(st.text())
def test_folding_keeps_the_length_and_is_done_once(text: str) -> None:
    """Folding again changes nothing, and no letter becomes two."""
    folded = fold(text)
    assert len(folded) == len(text)
    assert fold(folded) == folded


@given(PATTERNS, st.text(alphabet="ab%_*?[]^-\\é𝄞", max_size=8))
def test_glob_matches_what_like_matches(pattern: str, text: str) -> None:
    """The GLOB that SQLite runs is the LIKE that was asked for."""
    try:
        check_pattern(pattern)
    except Fault:
        return
    connection = sqlite3.connect(":memory:")
    try:
        (found,) = connection.execute("SELECT ? GLOB ?", (text, glob_from_like(pattern))).fetchone()
    finally:
        connection.close()
    assert bool(found) is like(pattern, text)


@given(st.text(max_size=20))
def test_an_escaped_text_matches_itself_alone(text: str) -> None:
    """Wildcards in a text that is meant literally are no wildcards."""
    assert like(escape_like(text), text)
    assert not like(escape_like(text), text + "x")


@pytest.mark.parametrize("pattern", ["\\", "a\\", "\\\\\\"])
def test_a_lone_backslash_at_the_end_is_refused(pattern: str) -> None:
    r"""A pattern that escapes nothing is refused, one that ends in an escaped backslash is not."""
    with pytest.raises(Fault) as caught:
        check_pattern(pattern)
    assert caught.value.code == "out_of_range"
    assert check_pattern(pattern + "\\")


def test_patterns_have_a_longest() -> None:
    """A pattern longer than both databases take is refused, the longest is taken by SQLite."""
    with pytest.raises(Fault) as caught:
        check_pattern("%" * (LONGEST_PATTERN + 1))
    assert caught.value.code == "value_too_large"
    connection = sqlite3.connect(":memory:")
    try:
        glob = glob_from_like(check_pattern("*" * LONGEST_PATTERN))
        assert connection.execute("SELECT ? GLOB ?", ("*" * LONGEST_PATTERN, glob)).fetchone() == (1,)
    finally:
        connection.close()


@pytest.mark.parametrize("text", ["\0", "a\0b", "\ud800", "é\udfff"])
def test_texts_that_a_database_cannot_hold_are_refused(text: str) -> None:
    """NUL and half surrogates are refused before a database sees them."""
    with pytest.raises(Fault) as caught:
        check_text(text)
    assert caught.value.code == "out_of_range"
