"""Keys: any text there and back, and filters that miss nothing."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from rosey_kvstore.errors import InvalidName, TypeMismatch
from rosey_kvstore.keys import MAX_ENCODED, decode_key, decode_keys, encode_key, filter_tokens

TEXT = st.text(
    st.sampled_from("ab.:= ü/") | st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40
)


@pytest.mark.parametrize(
    ("key", "encoded"),
    [
        ("user:bob", "user=3Abob"),
        ("a..b", "a=2E=2Eb"),
        ("a.", "a=2E"),
        (".a", "=2Ea"),
        (".", "=2E"),
        ("a.b.c", "a.b.c"),
        ("=", "=3D"),
        ("ü", "=C3=BC"),
        ("A_z-0/9", "A_z-0/9"),
        ("*>", "=2A=3E"),
        ("a b\r\n", "a=20b=0D=0A"),
    ],
)
def test_encoding_is_the_contracts(key: str, encoded: str) -> None:
    """The examples of the contract, and what would be dangerous in a subject."""
    assert encode_key(key) == encoded
    assert decode_key(encoded) == key


@given(TEXT)
@example("a...b.c.")
def test_there_and_back(key: str) -> None:
    """Every key is a valid subject's tail on the bus, and reads back as itself."""
    try:
        encoded = encode_key(key)
    except InvalidName:
        assume(False)
    assert re.fullmatch(r"[A-Za-z0-9_/=-]+(\.[A-Za-z0-9_/=-]+)*", encoded)
    assert decode_key(encoded) == key


TAILS = st.one_of(
    TEXT.filter(lambda key: len(key.encode()) * 3 <= MAX_ENCODED).map(encode_key),
    st.from_regex(r"[a=.3AEFd\-]{0,12}", fullmatch=True),
    st.text(max_size=8).filter(lambda text: "\n" not in text),
)


@given(st.lists(TAILS, max_size=8))
@example([])
@example([""])
@example(["a", "", "b"])
@example(["a=3Ab", "a=3ab"])
@example(["a=0Ab", "c"])
@example(["=C3", "=BC"])
@example(["a.", "b"])
@example(["a", ".b"])
@example(["a=3D3A", "b=3D"])
@example(["x" * (MAX_ENCODED + 1), "y=3A"])
def test_many_at_once_are_as_each_alone(tails: list[str]) -> None:
    """Decoding a list gives what decoding each of it gives, whatever was put by hand."""
    assert decode_keys([tail.encode() for tail in tails]) == [decode_key(tail) for tail in tails]


@given(TEXT, TEXT)
@example("room.42.", ".x")
@example("a.", "b")
@example("a.b", "")
def test_filters_miss_nothing(prefix: str, rest: str) -> None:
    """A key that begins with a prefix stands below its filter, or the filter says that it may not."""
    key = prefix + rest
    try:
        encoded = encode_key(key)
    except InvalidName:
        assume(False)
    tokens, certain = filter_tokens(prefix)
    if not certain and not encoded.startswith(tokens + "."):
        tokens = tokens.rpartition(".")[0]
    assert not tokens or encoded.startswith(tokens + ".")


@pytest.mark.parametrize("encoded", ["user=3abob", "a=zz", "a:b", "=41", "a=2Eb", "=dots", "=", "a=C3"])
def test_what_no_key_is_written_as_is_none(encoded: str) -> None:
    """Only one way of writing a key is taken for it: others would be unreachable or doubled."""
    assert decode_key(encoded) is None


def test_limits_and_types() -> None:
    """512 bytes pass, 513 do not; nothing and no text are refused."""
    assert len(encode_key("k" * MAX_ENCODED)) == MAX_ENCODED
    for bad in ("", "k" * (MAX_ENCODED + 1), "ü" * 86, "\ud800"):
        with pytest.raises(InvalidName):
            encode_key(bad)
    for bad in (None, 5, b"key"):
        with pytest.raises(TypeMismatch):
            encode_key(bad)  # type: ignore[arg-type]
